"""All views of a batch: draw the parameters, then apply them."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.normalization import IMAGENET_MEAN, IMAGENET_STD, check_pixels
from dino_tutorial.options import number, numbers, takes
from dino_tutorial.views.color import HUE, color_jitter_, grayscale, solarize
from dino_tutorial.views.params import Side, ViewParams, all_to_device, sample_params
from dino_tutorial.views.resample import (
    column_blocks,
    gaussian_blur,
    max_blocks,
    max_taps,
    resized_crop,
)
from dino_tutorial.views.specs import ViewSpec

Jitter = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # as `color_jitter_`


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

    @takes(mean=numbers(number(-1e6, 1e6), 3), std=numbers(number(0, 1e6, above=True), 3))
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
        self._jitter: Jitter = color_jitter_

    def compile(self) -> None:
        """Compile the colour jitter: on a GPU, more than half of the kernels that views take.

        How many samples have their hue at which place changes from step to step, so it is compiled
        for any number of them: four times, once for each place. A sample that is alone would have
        the compiler begin four times more, and beyond eight it gives a function up.
        """
        compiled = torch.compile(color_jitter_, dynamic=True)

        def jitter(images: Tensor, factors: Tensor, order: Tensor, hue_step: int) -> Tensor:
            function = compiled if len(images) > 1 else color_jitter_
            return function(images, factors, order, hue_step)

        self._jitter = jitter

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

    @takes()
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
            UserError: images of another type, or images and params that do not belong together.
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
        check_pixels(images)
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
            params: of all n = V_g · B samples, on the host, where it is worked out what is to be
                done to which of them.
        """
        device, size = columns.device, group.shape[-1]
        chunk = max(1, chunk_numbers(device) // (3 * size * size))
        by_height = params.boxes[0, :, 2].argsort(stable=True)
        by_hue = hue_steps(params).argsort(stable=True)
        cut, params = params[by_height], params[by_hue]
        plan = _Plan(
            source=by_height % len(columns),
            boxes=cut.boxes[0],
            flip=cut.flip[0],
            by_hue=by_height.argsort()[by_hue],
            gray=params.gray[0].nonzero()[:, 0],
            blurred=params.sigma[0].nonzero()[:, 0],
            solarized=params.solarize[0].nonzero()[:, 0],
            factors=params.factors[0],
            order=params.order[0],
            sigma=params.sigma[0],
            places=by_hue.argsort().view(group.shape[:2]),
            mean=self.mean[:, None, None],
            std=self.std[:, None, None],
        )
        there = _Plan(*all_to_device(plan, device))

        views = torch.empty(group.flatten(0, 1).shape, device=device)
        for part in _chunks(len(views), chunk):
            boxes = plan.boxes[part]
            crops = resized_crop(
                columns,
                there.source[part],
                there.boxes[part],
                there.flip[part],
                size,
                max_taps(boxes, size),
                max_blocks(boxes, height),
            )
            torch.clamp(crops, 0, 1, out=views[part])
        views = views.index_select(0, there.by_hue)

        jitter_all_(views, hue_steps(params), there.factors, there.order, chunk, self._jitter)
        for index in _filled(there.gray, chunk):
            views[index] = grayscale(views[index]).expand(-1, 3, -1, -1)
        for index in _filled(there.blurred, chunk):
            views[index] = gaussian_blur(views, index, there.sigma[index], self.blur_radius)
        for index in _filled(there.solarized, chunk):
            views[index] = solarize(views[index])

        for index, view in zip(there.places, group, strict=True):
            torch.index_select(views, 0, index, out=view)
            view.sub_(there.mean).div_(there.std)


class _Plan(NamedTuple):
    """What the device has to know of n samples of one size, which the host has worked out.

    The first three are in the order in which crops are made, by height; the others, but for
    ``places``, in that of the jitter.

    Attributes:
        source: (n,) the image of each crop.
        boxes: (n, 4) of the crops.
        flip: (n,) whether they are mirrored.
        by_hue: (n,) the crop that comes next in the order of the jitter.
        gray, blurred, solarized: (m,) the samples that lose their colour, and so on.
        factors, order: (n, 4) of the jitter.
        sigma: (n,) of the blur, in pixels.
        places: (V_g, B) the sample of each view of each image.
        mean, std: (3, 1, 1) of the normalisation.
    """

    source: Tensor
    boxes: Tensor
    flip: Tensor
    by_hue: Tensor
    gray: Tensor
    blurred: Tensor
    solarized: Tensor
    factors: Tensor
    order: Tensor
    sigma: Tensor
    places: Tensor
    mean: Tensor
    std: Tensor


def _chunks(n: int, chunk: int) -> list[slice]:
    return [slice(first, min(first + chunk, n)) for first in range(0, n, chunk)]


def _filled(index: Tensor, chunk: int) -> tuple[Tensor, ...]:
    """Indices (m,) in chunks; none of them is empty."""
    return index.split(chunk) if len(index) else ()


def chunk_numbers(device: torch.device) -> int:
    """How many numbers to work on at once: a CPU's cache is small, a GPU needs plenty to do."""
    return 2**20 if device.type == "cpu" else 2**25


def hue_steps(params: ViewParams) -> Int[Tensor, " n"]:
    """The place, 0 to 3, of the hue in the jitter of each sample of one view; 4 without jitter."""
    steps = (params.order[0] == HUE).int().argmax(dim=1)
    return torch.where(params.jitter[0], steps, 4)


def jitter_all_(
    views: Float[Tensor, "n 3 H W"],
    steps: Int[Tensor, " n"],
    factors: Float[Tensor, "n 4"],
    order: Int[Tensor, "n 4"],
    chunk: int,
    jitter: Jitter,
) -> None:
    """Colour jitter, in place, of samples that are sorted by their `hue_steps`, on the host."""
    start = 0
    for step, count in enumerate(steps.bincount(minlength=5)[:4].tolist()):
        for first in range(start, start + count, chunk):
            part = slice(first, min(first + chunk, start + count))
            jitter(views[part], factors[part], order[part], step)
        start += count
