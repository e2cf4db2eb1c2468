"""What all encoders have in common, for those who build on one."""

from torch import nn


class Encoder(nn.Module):
    """A network from images to features, one vector an image.

    Called with images (B, 3, H, W) it returns (B, D); with several such batches, each of its own
    size, (sum of B, D) in their order.

    Attributes:
        embed_dim: D, the width of the features.
    """

    embed_dim: int
