"""The settings of the encoder: ``model.*``."""

from dataclasses import dataclass
from typing import Any

from dino_tutorial.models import ENCODERS
from dino_tutorial.options import Settings, flatten, option


@dataclass(frozen=True)
class ModelSettings(Settings):
    """The encoder. What is null keeps the value of the named architecture."""

    arch: str = option(
        "vit_small",
        "The encoder's architecture. Naming one sets the other model.* settings back to its own, "
        "save a transformer's patch size and stochastic depth.",
        among=tuple(ENCODERS),
    )
    patch_size: int | None = option(None, "Side of a patch, in pixels.", low=1, high=4096)
    embed_dim: int | None = option(None, "D, the width of a token.", low=8, high=2**16)
    depth: int | None = option(None, "Number of transformer blocks.", low=1, high=1000)
    num_heads: int | None = option(
        None, "Attention heads; they divide the width.", low=1, high=4096
    )
    drop_path_rate: float | None = option(
        None,
        "Stochastic depth: the probability that the student's last block skips an image.",
        low=0,
        high=0.99,
    )
    drop_path_uniform: bool | None = option(
        None, "The same probability in all blocks (DINOv2); false lets it grow with depth (DINO)."
    )
    layer_scale_init: float | None = option(
        None,
        "First value of the learned factor on each residual branch; 0 leaves the factor out.",
        low=0,
    )
    num_register_tokens: int | None = option(
        None, "Extra tokens without a place in the image (Darcet et al. 2024).", low=0, high=4096
    )
    ffn: str | None = option(
        None, "The feed-forward layers: GELU (mlp) or SwiGLU.", among=("mlp", "swiglu", None)
    )
    stem: str | None = option(
        None,
        "What makes tokens out of pixels: one linear map a patch, or convolutions with norms over "
        "the image (conv) or over the channels of each position (conv_local).",
        among=("patch", "conv", "conv_local", None),
    )
    small_images: bool | None = option(
        None,
        "For residual networks: a first layer for images of 32 pixels, as is usual on CIFAR-10.",
    )

    def overrides(self) -> dict[str, Any]:
        """The settings that replace the architecture's own."""
        return {k: v for k, v in flatten(self).items() if v is not None and k != "arch"}
