"""The mean and spread of colours that images are normalised with."""

# Of red, green and blue of ImageNet's training images, for pixels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
