"""The numbers that pixels are, and the mean and spread of colours that they are normalised with."""

from torch import Tensor, uint8

from dino_tutorial.errors import UserError

# Of red, green and blue of ImageNet's training images, for pixels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_pixels(pixels: Tensor) -> None:
    """Refuse whole numbers of another type than uint8: nobody knows how bright the largest is.

    Raises:
        UserError: they are neither uint8 nor floating-point.
    """
    if pixels.dtype != uint8 and not pixels.is_floating_point():
        raise UserError(f"pixels have to be uint8, or floats in [0, 1], not {pixels.dtype}")
