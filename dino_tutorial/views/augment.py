"""All views of a batch: draw the parameters, then apply them."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.views.color import HUE, color_jitter_, grayscale, solarize
from dino_tutorial.views.params import ViewParams, sample_params
from dino_tutorial.views.resample import gaussian_blur, image_columns, max_taps, resized_crop
from dino_tutorial.views.specs import ViewSpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of red, green, blue

# Samples worked on together, in numbers: on a CPU what stays in its cache, on a device what
# keeps it busy within a modest memory.
_CHUNK = {"cpu": 2**18, "cuda": 2**26}


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
        columns = image_columns(images)
        groups, first = [], 0
        for size, specs in groupby(spec.size for spec in self.specs):
            last = first + len(list(specs))
            views = self._group(columns, params.flatten(first, last), size)
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

    def _group(self, columns: Tensor, params: ViewParams, size: int) -> Tensor:
        """All samples of the views of one size, (n, 3, size, size), in chunks."""
        n, device = len(params), columns.device
        # Samples with the hue at the same place in their jitter lie together.
        hue_step = (params.order[0] == HUE).int().argmax(dim=1)
        place = torch.where(params.jitter[0], hue_step, 4).argsort(stable=True)
        chunk = max(1, _CHUNK["cpu" if device.type == "cpu" else "cuda"] // (3 * size * size))
        out = torch.empty(n, 3, size, size, device=device)
        for index in place.split(chunk):
            views = self._views(columns, index % len(columns), params[index], size)
            std = self.std.to(device)[:, None, None]
            views.sub_(self.mean.to(device)[:, None, None]).div_(std)
            out.index_copy_(0, index.to(device, non_blocking=True), views)
        return out

    def _views(self, columns: Tensor, source: Tensor, host: ViewParams, size: int) -> Tensor:
        """One chunk of samples, before the normalisation."""
        device = columns.device
        params = host.to(device)
        taps = max_taps(int(host.boxes[0, :, 2:].max()), size)
        x = resized_crop(
            columns, source.to(device, non_blocking=True), params.boxes[0], params.flip[0],
            size, taps,
        ).clamp_(0, 1)

        hue_step = torch.where(host.jitter[0], (host.order[0] == HUE).int().argmax(dim=1), 4)
        start = 0
        for step, count in enumerate(torch.bincount(hue_step, minlength=5)[:4].tolist()):
            part = slice(start, start + count)
            if count:
                color_jitter_(x[part], params.factors[0, part], params.order[0, part], step)
            start += count

        index = _where(host.gray[0], device)
        if len(index):
            x.index_copy_(0, index, grayscale(x[index]).expand(-1, 3, -1, -1))
        index = _where(host.sigma[0] > 0, device)
        if len(index):
            radius = math.ceil(3 * float(host.sigma.max()))
            blurred = gaussian_blur(x[index], params.sigma[0][index], radius)
            x.index_copy_(0, index, blurred)
        index = _where(host.solarize[0], device)
        if len(index):
            x.index_copy_(0, index, solarize(x[index]))
        return x


def _where(mask: Tensor, device: torch.device) -> Tensor:
    """Indices of the true entries of a mask on the host."""
    index = mask.nonzero()[:, 0]
    return index if device.type == "cpu" else index.pin_memory().to(device, non_blocking=True)
