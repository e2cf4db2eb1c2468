"""The draw: every random number that a batch of views needs, before any pixel is touched."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, whole
from dino_tutorial.views.specs import ViewSpec

OfSpec = Callable[[ViewSpec], float]  # a number that a view's distribution has
ALIGNMENT = 16  # bytes, at a multiple of which each tensor begins in a copy of several
Side = int | Int[Tensor, " n"]  # of all images, or of each, in pixels
N_TRIES = 10  # boxes tried before the central crop is taken, as in torchvision

# Columns of uniform numbers that one view of one image consumes. Every view takes all of them,
# used or not, so that a changed probability moves no other draw.
_COLUMNS = {
    "area": N_TRIES,
    "ratio": N_TRIES,
    "place": 2,
    "flip": 1,
    "jitter": 1,
    "factors": 4,
    "order": 4,
    "gray": 1,
    "blur": 1,
    "sigma": 1,
    "solarize": 1,
}


@dataclass(frozen=True)
class ViewParams:
    """What happens to each sample in each view; tensors of shape (V, B) or (V, B, n).

    ``params[index]`` selects samples (slice, list or tensor). ``len(params)`` is B.

    Attributes:
        boxes: (V, B, 4) int64 top, left, height, width of the crop, in pixels of the image.
        flip: (V, B) bool, whether the view is mirrored.
        jitter: (V, B) bool, whether its colours are shifted.
        gray: (V, B) bool, whether it loses its colour.
        solarize: (V, B) bool, whether its bright pixels are inverted.
        factors: (V, B, 4) float32 brightness, contrast and saturation factor, and hue shift in
            turns.
        order: (V, B, 4) int64, the order in which these four are applied, as indices into them.
        sigma: (V, B) float32 standard deviation of the blur in pixels, 0 where there is none.
    """

    boxes: Int[Tensor, "V B 4"]
    flip: Bool[Tensor, "V B"]
    jitter: Bool[Tensor, "V B"]
    factors: Float[Tensor, "V B 4"]
    order: Int[Tensor, "V B 4"]
    gray: Bool[Tensor, "V B"]
    sigma: Float[Tensor, "V B"]
    solarize: Bool[Tensor, "V B"]

    def __len__(self) -> int:
        return self.flip.shape[1]

    def __getitem__(self, index: slice | list[int] | Tensor) -> "ViewParams":
        return ViewParams(*(getattr(self, f.name)[:, index] for f in fields(self)))

    def to(self, device: torch.device | str) -> "ViewParams":
        """The same parameters on another device."""
        return ViewParams(*all_to_device([getattr(self, f.name) for f in fields(self)], device))

    def flatten(self, first: int, last: int) -> "ViewParams":
        """Views first … last - 1 as one view of (last - first) · B samples, view-major."""
        return ViewParams(
            *(getattr(self, f.name)[first:last].flatten(0, 1)[None] for f in fields(self))
        )


@takes(batch_size=whole(1, 2**24))
def sample_params(
    specs: Sequence[ViewSpec],
    batch_size: int,
    height: Side,
    width: Side,
    generator: torch.Generator,
    share: slice = slice(None),
) -> ViewParams:
    """Draw the parameters of V views of a batch.

    Takes one (V, B, 36) draw of uniform numbers from the generator and nothing else; the result is
    on the generator's device. Use a CPU generator: the same seed then gives the same views
    everywhere, and :meth:`Augment.apply` knows without asking the device which samples to touch.

    Args:
        specs: V of them.
        batch_size: B.
        height, width: of the images, in pixels; a tensor (n,) gives each image of ``share`` its
            own, from the top left corner of what it lies on.
        generator: moved on by that draw.
        share: which n of the B samples are wanted. The ranks of a distributed run draw for the
            global batch, so that they agree, and each makes the parameters of its own part.

    Raises:
        UserError: there are no images, or they have no pixels.
    """
    device = generator.device
    height, width = (torch.as_tensor(side, device=device) for side in (height, width))
    wanted = len(range(batch_size)[share])
    if not all(side.shape in ((), (wanted,)) for side in (height, width)):
        raise UserError(
            f"heights and widths have the shapes {tuple(height.shape)} and {tuple(width.shape)}: "
            f"give one number for all images, or one for each of {wanted}"
        )
    if batch_size < 1 or height.min() < 1 or width.min() < 1:
        raise UserError(
            f"cannot draw views for {batch_size} images of {int(height.min())} x "
            f"{int(width.min())} pixels; all three must be at least 1"
        )
    uniform = torch.rand(
        len(specs),
        batch_size,
        sum(_COLUMNS.values()),
        dtype=torch.float64,
        device=device,
        generator=generator,
    )[:, share]
    draw = dict(zip(_COLUMNS, uniform.split(list(_COLUMNS.values()), dim=2), strict=True))

    between, fires = partial(_between, specs), partial(_fires, specs)
    area = between(draw["area"], lambda s: s.scale[0], lambda s: s.scale[1])
    log_ratio = between(
        draw["ratio"], lambda s: math.log(s.ratio[0]), lambda s: math.log(s.ratio[1])
    )
    limits = (
        _setting(specs, lambda s: s.ratio[0], device),
        _setting(specs, lambda s: s.ratio[1], device),
    )
    boxes = crop_boxes(area, log_ratio.exp(), draw["place"], limits, height, width)

    factors = torch.stack(
        [
            between(
                draw["factors"][..., i],
                partial(_lowest_factor, name),
                partial(_highest_factor, name),
            )
            for i, name in enumerate(("brightness", "contrast", "saturation"))
        ]
        + [between(draw["factors"][..., 3], lambda s: -s.hue, lambda s: s.hue)],
        dim=2,
    )
    sigma = between(draw["sigma"][..., 0], lambda s: s.blur_sigma[0], lambda s: s.blur_sigma[1])
    return ViewParams(
        boxes=boxes,
        flip=fires(draw["flip"], lambda s: s.flip_p),
        jitter=fires(draw["jitter"], lambda s: s.jitter_p),
        factors=factors.float(),
        order=draw["order"].argsort(dim=2),
        gray=fires(draw["gray"], lambda s: s.gray_p),
        sigma=(sigma * fires(draw["blur"], lambda s: s.blur_p)).float(),
        solarize=fires(draw["solarize"], lambda s: s.solarize_p),
    )


def _setting(specs: Sequence[ViewSpec], function: OfSpec, device: torch.device) -> Tensor:
    """One number a view, as a (V, 1) column."""
    values = [function(spec) for spec in specs]
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None]


def _between(specs: Sequence[ViewSpec], column: Tensor, lowest: OfSpec, highest: OfSpec) -> Tensor:
    """Uniform in [low, high], of a column (V, B) or (V, B, n) that is uniform in [0, 1]."""
    low, high = (_setting(specs, end, column.device) for end in (lowest, highest))
    if column.dim() == 3:
        low, high = low[..., None], high[..., None]
    return low + (high - low) * column


def _fires(specs: Sequence[ViewSpec], column: Tensor, probability: OfSpec) -> Tensor:
    """Whether something happens, bool (V, B), of a uniform column (V, B, 1)."""
    return column[..., 0] < _setting(specs, probability, column.device)


def crop_boxes(
    area: Float[Tensor, "V B tries"],
    ratio: Float[Tensor, "V B tries"],
    place: Float[Tensor, "V B 2"],
    limits: tuple[Float[Tensor, "V 1"], Float[Tensor, "V 1"]],
    height: Int[Tensor, "*B"],
    width: Int[Tensor, "*B"],
) -> Int[Tensor, "V B 4"]:
    """The boxes of RandomResizedCrop: the first of several tries that fits, else a central crop.

    Args:
        area, ratio: (V, B, tries), fraction of the image's area and width / height of each try.
        place: (V, B, 2) uniform numbers in [0, 1) that place the box from top and from left.
        limits: smallest and largest ratio, each (V, 1), for the central crop.
        height, width: of the images, in pixels, one for all () or one each (B,).

    Returns:
        (V, B, 4) int64: top, left, height, width.

    Source: torchvision's ``RandomResizedCrop.get_params``, rounding included.
    """
    pixels = area * (height * width)[..., None]
    w = (pixels * ratio).sqrt().round()
    h = (pixels / ratio).sqrt().round()
    fits = (w >= 1) & (w <= width[..., None]) & (h >= 1) & (h <= height[..., None])
    first = fits.int().argmax(dim=2, keepdim=True)
    w, h = w.gather(2, first)[..., 0], h.gather(2, first)[..., 0]

    narrow, wide = limits
    central_w = width.to(narrow.dtype).minimum((height * wide).round())
    central_h = height.to(narrow.dtype).minimum((width / narrow).round())
    found = fits.any(dim=2)
    w = torch.where(found, w, central_w.clamp(min=1))
    h = torch.where(found, h, central_h.clamp(min=1))

    top = torch.where(found, (place[..., 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(found, (place[..., 1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=2).long()


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor; from the host to a GPU without waiting for what the GPU is doing."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def all_to_device(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Move tensors together; from the host to a GPU as one copy of all their bytes.

    Each copy costs the host some microseconds, whatever its size, and a step needs dozens of small
    tensors.
    """
    device = torch.device(device)
    if device.type != "cuda" or any(tensor.device.type != "cpu" for tensor in tensors):
        return [tensor.to(device) for tensor in tensors]
    raw = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    padded = [F.pad(part, (0, -len(part) % ALIGNMENT)) for part in raw]
    arrived = to_device(torch.cat(padded), device).split([len(part) for part in padded])
    return [
        part[: len(own)].view(tensor.dtype).view(tensor.shape)
        for part, own, tensor in zip(arrived, raw, tensors, strict=True)
    ]


def _lowest_factor(name: str, spec: ViewSpec) -> float:
    return max(0.0, 1 - float(getattr(spec, name)))


def _highest_factor(name: str, spec: ViewSpec) -> float:
    return 1 + float(getattr(spec, name))
