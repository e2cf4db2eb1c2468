"""DINO's views one image and one crop at a time, with torchvision and PIL: what is usual.

It exists to be timed and compared with; the package makes the same views in `dino_tutorial.views`.
"""

import random

from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dino_tutorial.normalization import IMAGENET_MEAN, IMAGENET_STD
from dino_tutorial.views import ViewSpec


class PilView:
    """One view of `spec`: a PIL image in, a normalised (3, size, size) tensor out."""

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec
        jitter = transforms.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
        self.geometry_and_color = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    spec.size, spec.scale, spec.ratio, InterpolationMode.BICUBIC
                ),
                transforms.RandomHorizontalFlip(spec.flip_p),
                transforms.RandomApply([jitter], spec.jitter_p),
                transforms.RandomGrayscale(spec.gray_p),
            ]
        )
        self.to_tensor = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        view = self.geometry_and_color(image)
        if random.random() < self.spec.blur_p:
            view = view.filter(ImageFilter.GaussianBlur(random.uniform(*self.spec.blur_sigma)))
        if random.random() < self.spec.solarize_p:
            view = ImageOps.solarize(view, 128)
        return self.to_tensor(view)
