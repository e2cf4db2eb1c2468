"""An encoder by what a command is told: a run's folder, a file of weights, or a released name."""

from dataclasses import dataclass
from os import PathLike, fspath

from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, user_path
from dino_tutorial.models import VisionTransformer, load_weights, pretrained
from dino_tutorial.models.dinov3 import DINOV3, is_dinov3, pretrained_dinov3
from dino_tutorial.models.notes import digest
from dino_tutorial.models.released import RELEASED, suggest
from dino_tutorial.models.weights_file import read_encoder
from dino_tutorial.runs.folder import load_run, new_encoder
from dino_tutorial.training.checkpoint import CURRENT, PREVIOUS

RELEASED_SIZE = 224  # px that released weights are measured at
OF_A_RUN = ("backbone.safetensors", CURRENT, PREVIOUS)  # files whose folder says what they are


@dataclass(frozen=True)
class OpenedEncoder:
    """A trained encoder, in evaluation mode on the CPU.

    Attributes:
        name: what it was opened by.
        encoder: ``forward(images (B, 3, H, W)) -> (B, D)``.
        image_size: side in pixels of the images that it is used with by default: the global view
            of its run; 224 for released weights; what its positions are for, at most 224 where
            patches divide that, for weights out of a file.
        digest: a hash of its weights.
    """

    name: str
    encoder: nn.Module
    image_size: int
    digest: str


def open_encoder(name: str | PathLike[str]) -> OpenedEncoder:
    """A trained encoder with its weights.

    Args:
        name: the folder of a finished run; a file of weights, see
            :func:`~dino_tutorial.models.weights_file.read_encoder`; or the name of a released
            model, see :func:`dino_tutorial.models.pretrained`, DINOv3's among them.

    Raises:
        UserError: it is none of them, or cannot be opened.
    """
    path = user_path(name)
    kind = kind_of(path)
    encoder: nn.Module
    if kind == "folder":
        run = load_run(path)
        encoder, size = run.encoder(), run.config.views.global_size
    elif kind and path.name in OF_A_RUN and kind_of(path.parent / "config.yaml"):
        config = load_run(path.parent).config
        encoder, size = load_weights(new_encoder(config), path), config.views.global_size
    elif kind:
        encoder = read_encoder(path)
        size = _usual_size(encoder)
    elif is_released(fspath(name)):
        own = pretrained_dinov3 if is_dinov3(fspath(name)) else pretrained
        encoder, size = own(fspath(name)), RELEASED_SIZE
    else:
        raise UserError(
            f"{name} is not a run's folder, a file of weights or the name of a released model: "
            f"give one that is there, such as runs/dino-scenes-laptop or dinov2_vits14"
            f"{_hint(fspath(name))}"
        )
    return OpenedEncoder(fspath(name), encoder.eval(), size, digest(encoder.state_dict()))


def is_released(name: str) -> bool:
    """Whether it is the name of a released model, torch.hub's or timm's."""
    return name in RELEASED or name in RELEASED.values() or is_dinov3(name)


def _hint(name: str) -> str:
    if "dinov3" in name.lower():
        return f"; of DINOv3's there are {', '.join(DINOV3)}"
    return suggest(name)


def _usual_size(encoder: VisionTransformer) -> int:
    own = encoder.grid_size[0] * encoder.patch_size
    return own if own <= RELEASED_SIZE or RELEASED_SIZE % encoder.patch_size else RELEASED_SIZE
