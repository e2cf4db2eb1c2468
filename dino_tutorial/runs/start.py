"""What a run begins with, ``train.init``: all of a finished run, or a trained backbone alone."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, user_path
from dino_tutorial.methods import Method
from dino_tutorial.models import Encoder, VisionTransformer
from dino_tutorial.models.block import SwiGLU
from dino_tutorial.models.dinov3 import is_dinov3
from dino_tutorial.models.misfit import misfit
from dino_tutorial.models.vit import SHAPES
from dino_tutorial.options import flatten
from dino_tutorial.runs.build import load_method, trained_method
from dino_tutorial.runs.config import Config, read_config
from dino_tutorial.runs.encoders import OpenedEncoder, open_encoder
from dino_tutorial.runs.folder import find_folder
from dino_tutorial.training.checkpoint import has_checkpoint

SIZES = ("views.global_size", "views.local_size")


def start_from(method: Method, init: str | Path, n_classes: int = 0) -> None:
    """Fill a fresh method with what has been learned before.

    Of a finished run of the same method, students, teachers, heads and centers are taken over. Of
    a released model, or of a file of weights, there is the backbone alone: student and teacher get
    it, and keep their fresh heads. Position embeddings are interpolated to the new image size, as
    the encoder that they come from does it. The optimizer starts anew.

    Args:
        method: changed in place.
        init: the folder of a run, see :func:`trained_method`; a released name or a file, see
            :func:`~dino_tutorial.runs.encoders.open_encoder`.
        n_classes: as in :func:`dino_tutorial.runs.build_method`.

    Raises:
        UserError: it cannot be used, or is of another method or architecture.
    """
    if _is_backbone(init):
        _load_backbone(method, open_encoder(init))
        return
    backbone = Path(init) / "backbone.safetensors"
    if user_path(backbone).is_file() and not has_checkpoint(user_path(init)):
        raise UserError(
            f"train.init = {init} is a record, which holds no heads: name the folder that the run "
            f"was trained in, or start with fresh heads from its backbone alone, {backbone}"
        )
    before = trained_method(init, n_classes)
    if type(before) is not type(method):
        raise UserError(
            f"train.init = {init} is a run of {type(before).__name__}, not of "
            f"{type(method).__name__}: start from a run of the same method, or from its backbone "
            f"alone, {backbone}"
        )
    state, modules = before.state_dict(), dict(method.named_modules())
    for name, module in before.named_modules():
        if isinstance(module, VisionTransformer) and f"{name}.pos_embed" in state:
            own = modules.get(name)
            if isinstance(own, VisionTransformer):  # else it does not fit, which is said below
                state[f"{name}.pos_embed"] = module.positions(*own.grid_size).detach()
    load_method(method, state, f"train.init = {init}")


def _is_backbone(init: str | Path) -> bool:
    return kind_of(user_path(init)) != "folder"


def _load_backbone(method: Method, opened: OpenedEncoder) -> None:
    for backbone in method.backbones:
        state = _state_for(backbone, opened.encoder)
        try:
            backbone.load_state_dict(state)
        except RuntimeError:
            reason = misfit(state, backbone.state_dict())
            raise UserError(
                f"train.init = {opened.name} does not fit this model ({reason}): set model.* as "
                f"its weights need it"
            ) from None


def _state_for(backbone: Encoder, trained: nn.Module) -> dict[str, Tensor]:
    state = trained.state_dict()
    if isinstance(backbone, VisionTransformer) and isinstance(trained, VisionTransformer):
        state["pos_embed"] = trained.positions(*backbone.grid_size).detach()
    return state


def with_architecture(config: Config) -> tuple[Config, str | None]:
    """The configuration with the architecture of the backbone that ``train.init`` names.

    What a caller has named of ``model.*`` has to agree. Sizes of views that nobody named become
    the nearest multiples of its patches.

    Returns:
        The configuration, and a sentence about what has changed, if anything.

    Raises:
        UserError: the backbone cannot be opened, has a form that no setting has, or is another
            than the caller's settings ask for.
    """
    init = config.train.init
    if init is None or not _is_backbone(init):
        return config, None
    if is_dinov3(init):
        raise UserError(
            f"train.init = {init} has rotary position embeddings, which the transformers that are "
            f"trained here have not: begin with one of DINOv2's, or use it as it is, with embed "
            f"and classify"
        )
    trained = open_encoder(init).encoder
    if not isinstance(trained, VisionTransformer):
        return config, None
    wanted = _settings_of(trained, init)
    before = flatten(config)
    named = {key: before[key] for key in config.named if key.startswith("model.")}
    for key, value in named.items():
        if key in wanted and value != wanted[key] and not (key in LOOSE and value and wanted[key]):
            raise UserError(
                f"train.init = {init} does not fit {key} = {value}: leave model.* out, or --set "
                f"{' --set '.join(f'{k}={_yaml(v)}' for k, v in wanted.items())}"
            )
    changes = wanted | named | _sizes(config, trained.patch_size)
    changed = config.changed(changes)
    after = flatten(changed)
    differing = [
        f"{key} = {value}"
        for key, value in after.items()
        if value != before[key] and value is not None  # null is what the architecture has
    ]
    if not differing:
        return changed, None
    return changed, f"as {init} needs it, {', '.join(differing)}"


LOOSE = ("model.layer_scale_init",)  # whatever it starts from, the weights replace it


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)


def _sizes(config: Config, patch: int) -> dict[str, int]:
    """Sizes of views in pixels, those that nobody named as the nearest multiples of a patch."""
    sizes = {key: flatten(config)[key] for key in SIZES if key not in config.named}
    return {key: max(1, round(size / patch)) * patch for key, size in sizes.items()}


def _settings_of(model: VisionTransformer, init: str) -> dict[str, Any]:
    """The ``model.*`` settings that build a transformer of this architecture."""
    block = model.blocks[0]
    mlp = block.mlp
    gated = isinstance(mlp, SwiGLU)
    shape = {
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": model.num_heads,
    }
    hidden = mlp.w3.in_features if isinstance(mlp, SwiGLU) else mlp.fc1.out_features
    usual = (int(4 * model.embed_dim * 2 / 3) + 7) // 8 * 8 if gated else 4 * model.embed_dim
    if hidden != usual or block.attn.qkv.bias is None or model.in_chans != 3:
        raise UserError(
            f"train.init = {init} holds a transformer whose feed-forward layers, biases or "
            f"channels are of a kind that no setting has: begin with another one"
        )
    arch = next((name for name, known in SHAPES.items() if known == shape), "vit_small")
    own = {} if SHAPES[arch] == shape else shape
    return {
        "model.arch": arch,
        "model.patch_size": model.patch_size,
        **{f"model.{key}": value for key, value in own.items()},
        "model.layer_scale_init": 1e-5 if "ls1.gamma" in block.state_dict() else None,
        "model.num_register_tokens": model.num_register_tokens,
        "model.ffn": "swiglu" if gated else "mlp",
        "model.stem": model.stem,
    }


def with_stored_architecture(config: Config) -> Config:
    """The configuration with the architecture that its run, which is resumed, was started with.

    Raises:
        UserError: there is nothing to resume.
    """
    init = config.train.init
    if init is None or not _is_backbone(init):
        return config
    stored = flatten(read_config(find_folder(config, resume=True) / "config.yaml"))
    if stored["train.init"] != init:
        return config
    keys = [key for key in stored if key.startswith("model.") or key in SIZES]
    return config.changed({key: stored[key] for key in keys if key not in config.named})
