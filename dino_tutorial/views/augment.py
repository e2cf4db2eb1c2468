"""All views of a batch: draw the parameters, then apply them."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.normalization import IMAGENET_MEAN, IMAGENET_STD
from dino_tutorial.views.color import HUE, color_jitter_, grayscale, solarize
from dino_tutorial.views.params import Side, ViewParams, sample_params, to_device
from dino_tutorial.views.resample import (
    column_blocks,
    gaussian_blur,
    max_blocks,
    max_taps,
    resized_crop,
)
from dino_tutorial.views.specs import ViewSpec


class Augment:
    """The views of ``specs``, for batches of images.

    Drawing and applying are separate: `sample` consumes the generator and sees no pixels, `apply`
    is deterministic. What is applied, in this order: crop and resize, flip, colour jitter,
    grayscale, blur, solarization, normalisation.

    Args:
        specs: the distribution of each view, as :func:`byol_views` and :func:`dino_views` give.
        mean, std: of red, green and blue, for the normalisation of the result.

    Raises:
        UserError: there are no specs.
    """

    def __init__(
        self,
        specs: Sequence[ViewSpec],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if not specs:
            raise UserError("no views were asked for; give at least one ViewSpec")
        self.specs = tuple(specs)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        # Three times the largest sigma. The same for all, so that no view depends on the others.
        self.blur_radius = math.ceil(3 * max(spec.blur_sigma[1] for spec in self.specs))
        self.groups = [
            (size, len(list(run))) for size, run in groupby(self.specs, lambda spec: spec.size)
        ]

    def sample(
        self,
        batch_size: int,
        height: Side,
        width: Side,
        generator: torch.Generator,
        share: slice = slice(None),
    ) -> ViewParams:
        """Draw the parameters of all views of a full (global) batch; see :func:`sample_params`."""
        return sample_params(self.specs, batch_size, height, width, generator, share)

    @torch.no_grad()
    def apply(
        self, images: Real[Tensor, "B 3 H W"], params: ViewParams
    ) -> list[Float[Tensor, "_ B 3 _ _"]]:
        """Make the views.

        Args:
            images: (B, 3, H, W), uint8, or float in [0, 1]; on any device.
            params: drawn by :meth:`sample` for these B images, or ``params[index]`` of a larger
                draw. Boxes may lie in any part of an image: those of a photograph that does not
                fill its canvas keep to what it fills.

        Returns:
            For each run of consecutive specs of equal size, one normalised float32 tensor
            (V_g, B, 3, size, size) on the device of the images.

        Raises:
            UserError: images and params do not belong together.
        """
        params, device = params.to("cpu"), images.device
        self._check(images, params)
        groups = [
            torch.empty(count, len(images), 3, size, size, device=device)
            for size, count in self.groups
        ]
        numbers = images[0].numel() + sum(group[:, 0].numel() for group in groups)
        step = max(1, 8 * chunk_numbers(device) // numbers)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            columns, height, first = column_blocks(images[part]), images.shape[2], 0
            for group in groups:
                last = first + len(group)
                self._fill(group[:, part], columns, height, params[part].flatten(first, last))
                first = last
        return groups

    def denormalize(self, views: Float[Tensor, "*n 3 H W"]) -> Float[Tensor, "*n 3 H W"]:
        """Undo the normalisation: (..., 3, H, W) views as images in [0, 1]."""
        mean, std = (t.to(views.device)[:, None, None] for t in (self.mean, self.std))
        return (views * std + mean).clamp(0, 1)

    def _check(self, images: Tensor, params: ViewParams) -> None:
        if images.dim() != 4 or images.shape[1] != 3:
            raise UserError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
        if params.flip.shape != (len(self.specs), len(images)):
            raise UserError(
                f"the parameters are for {tuple(params.flip.shape)} views and images, but there"
                f" are {len(self.specs)} views and {len(images)} images"
            )
        bottom, right = (params.boxes[..., :2] + params.boxes[..., 2:]).amax(dim=(0, 1)).tolist()
        if bottom > images.shape[2] or right > images.shape[3]:
            raise UserError(
                f"the crops reach to {bottom} x {right} pixels, but the images have"
                f" {images.shape[2]} x {images.shape[3]}; sample with the size of the images"
            )

    def _fill(self, group: Tensor, columns: Tensor, height: int, params: ViewParams) -> None:
        """Make the views of one size of some images, in ``group``.

        Crops are made in the order of their heights, so that those made together read windows of
        about the same size; then samples are put together that have the hue at the same place of
        their jitter.

        Args:
            group: (V_g, B, 3, size, size), written to.
            columns: the images, as :func:`column_blocks` gives.
            height: of the images, in pixels.
            params: of all n = V_g · B samples, on the host, where it is read what is to be done
                to which of them.
        """
        device, size = columns.device, group.shape[-1]
        chunk = max(1, chunk_numbers(device) // (3 * size * size))
        by_height = params.boxes[0, :, 2].argsort(stable=True)
        by_hue = hue_steps(params).argsort(stable=True)

        views = torch.empty(group.flatten(0, 1).shape, device=device)
        for index, part in zip(by_height.split(chunk), views.split(chunk), strict=True):
            boxes = params.boxes[0, index]
            crops = resized_crop(
                columns,
                to_device(index % len(columns), device),
                to_device(boxes, device),
                to_device(params.flip[0, index], device),
                size,
                max_taps(boxes, size),
                max_blocks(boxes, height),
            )
            torch.clamp(crops, 0, 1, out=part)
        views = views.index_select(0, to_device(by_height.argsort()[by_hue], device))

        params = params[by_hue]
        on_device = params.to(device)
        jitter_all_(views, params, on_device, chunk)
        for index in indices(params.gray, device, chunk):
            views[index] = grayscale(views[index]).expand(-1, 3, -1, -1)
        for index in indices(params.sigma > 0, device, chunk):
            sigma = on_device.sigma[0, index]
            views[index] = gaussian_blur(views, index, sigma, self.blur_radius)
        for index in indices(params.solarize, device, chunk):
            views[index] = solarize(views[index])

        mean, std = (to_device(t, device)[:, None, None] for t in (self.mean, self.std))
        back = to_device(by_hue.argsort().view(group.shape[:2]), device)
        for index, view in zip(back, group, strict=True):
            torch.index_select(views, 0, index, out=view)
            view.sub_(mean).div_(std)


def chunk_numbers(device: torch.device) -> int:
    """How many numbers to work on at once: a CPU's cache is small, a GPU needs plenty to do."""
    return 2**20 if device.type == "cpu" else 2**25


def hue_steps(params: ViewParams) -> Int[Tensor, " n"]:
    """The place, 0 to 3, of the hue in the jitter of each sample of one view; 4 without jitter."""
    steps = (params.order[0] == HUE).int().argmax(dim=1)
    return torch.where(params.jitter[0], steps, 4)


def jitter_all_(
    views: Float[Tensor, "n 3 H W"], host: ViewParams, params: ViewParams, chunk: int
) -> None:
    """Colour jitter, in place, of samples that are sorted by `hue_steps`."""
    start = 0
    for step, count in enumerate(hue_steps(host).bincount(minlength=5)[:4].tolist()):
        for first in range(start, start + count, chunk):
            part = slice(first, min(first + chunk, start + count))
            color_jitter_(views[part], params.factors[0, part], params.order[0, part], step)
        start += count


def indices(
    mask: Bool[Tensor, "1 n"], device: torch.device, chunk: int
) -> tuple[Int[Tensor, " _"], ...]:
    """Where a (1, n) mask on the host is true, in chunks of indices on the device."""
    index = mask[0].nonzero()[:, 0]
    return to_device(index, device).split(chunk) if len(index) else ()
