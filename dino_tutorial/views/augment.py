"""All views of a batch: draw the parameters, then apply them."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.views.color import HUE, color_jitter_, grayscale, solarize
from dino_tutorial.views.params import ViewParams, sample_params, to_device
from dino_tutorial.views.resample import (
    column_blocks,
    gaussian_blur,
    max_blocks,
    max_taps,
    resized_crop,
)
from dino_tutorial.views.specs import ViewSpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of red, green, blue

# How many numbers are worked on at once: on a CPU what stays in its cache, on a device what keeps
# it busy within a modest memory.
CHUNK = {"cpu": 2**19, "cuda": 2**26}


class Augment:
    """The views of `specs`, for batches of images.

    specs: the distribution of each view, as `byol_views` and `dino_views` give.
    mean, std: of red, green and blue, for the normalisation of the result.

    Drawing and applying are separate: `sample` consumes the generator and sees no pixels, `apply`
    is deterministic. What is applied, in this order: crop and resize, flip, colour jitter,
    grayscale, blur, solarization, normalisation.
    """

    def __init__(
        self,
        specs: Sequence[ViewSpec],
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
    ) -> None:
        if not specs:
            raise UserError("no views were asked for; give at least one ViewSpec")
        self.specs = tuple(specs)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def sample(
        self, batch_size: int, height: int, width: int, generator: torch.Generator
    ) -> ViewParams:
        """Draw the parameters of all views of a whole (global) batch. See `sample_params`."""
        return sample_params(self.specs, batch_size, height, width, generator)

    def apply(self, images: Tensor, params: ViewParams) -> list[Tensor]:
        """Make the views.

        images: (B, 3, H, W), uint8, or float in [0, 1]; on any device.
        params: drawn by `sample` for these B images, or `params[index]` of a larger draw.
        Returns, for each run of consecutive specs of equal size, one normalised float32 tensor
        (V_g, B, 3, size, size) on the device of the images.
        Raises UserError when images and params do not belong together.
        """
        self._check(images, params)
        params = params.to("cpu")
        columns = column_blocks(images)
        groups, first = [], 0
        for size, specs in groupby(spec.size for spec in self.specs):
            last = first + len(list(specs))
            views = self._group(columns, params.flatten(first, last), images.shape[2], size)
            groups.append(views.unflatten(0, (last - first, len(images))))
            first = last
        return groups

    def denormalize(self, views: Tensor) -> Tensor:
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

    def _group(self, columns: Tensor, params: ViewParams, height: int, size: int) -> Tensor:
        """All n samples of the views of one size, (n, 3, size, size).

        They are worked on in an order that puts together samples with the hue at the same place
        of their jitter and boxes of equal height, so that few of them do what only others need.
        """
        n, device = len(params), columns.device
        chunk = max(1, CHUNK.get(device.type, CHUNK["cuda"]) // (3 * size * size))
        order = (hue_steps(params) * (height + 1) + params.boxes[0, :, 2]).argsort(stable=True)
        work = torch.empty(n, 3, size, size, device=device)
        for index, views in zip(order.split(chunk), work.split(chunk), strict=True):
            self._make(columns, index % len(columns), params[index], height, views)

        mean, std = (to_device(t, device)[:, None, None] for t in (self.mean, self.std))
        out = torch.empty_like(work)
        back = to_device(order.argsort(), device)
        for index, views in zip(back.split(chunk), out.split(chunk), strict=True):
            torch.index_select(work, 0, index, out=views)
            views.sub_(mean).div_(std)
        return out

    def _make(
        self, columns: Tensor, source: Tensor, host: ViewParams, height: int, views: Tensor
    ) -> None:
        """Write the views of one chunk, before the normalisation, into `views`.

        What is done to which samples is read from `host`, never from the device.
        """
        device, size = views.device, views.shape[-1]
        params, boxes = host.to(device), host.boxes[0]
        crops = resized_crop(
            columns,
            to_device(source, device),
            params.boxes[0],
            params.flip[0],
            size,
            max_taps(boxes, size),
            max_blocks(boxes, height),
        )
        torch.clamp(crops, 0, 1, out=views)

        start = 0
        counts = hue_steps(host).bincount(minlength=5)[:4].tolist()
        for step, count in enumerate(counts):
            part = slice(start, start + count)
            if count:
                color_jitter_(
                    views[part], params.factors[0, part], params.order[0, part], step
                )
            start += count

        gray, blur, bright = (
            to_device(mask[0].nonzero()[:, 0], device)
            for mask in (host.gray, host.sigma > 0, host.solarize)
        )
        if len(gray):
            views[gray] = grayscale(views[gray]).expand(-1, 3, -1, -1)
        if len(blur):
            radius = math.ceil(3 * float(host.sigma.max()))
            views[blur] = gaussian_blur(views, blur, params.sigma[0][blur], radius)
        if len(bright):
            views[bright] = solarize(views[bright])


def hue_steps(params: ViewParams) -> Tensor:
    """The place, 0 to 3, of the hue in the jitter of each sample of one view; 4 without jitter."""
    steps = (params.order[0] == HUE).int().argmax(dim=1)
    return torch.where(params.jitter[0], steps, 4)
