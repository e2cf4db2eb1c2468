"""DINOv3's released transformers: to describe images with, as timm builds them.

They have rotary position embeddings, which this package's own transformer has not. So they are
taken as they are: what needs features alone can use them, what trains or draws attention cannot.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.models.encoder import Encoder, check_batches
from dino_tutorial.models.released import downloaded
from dino_tutorial.models.vit import Features

if TYPE_CHECKING:
    import timm

# torch.hub names of what was released for photographs, and what timm calls the same weights.
DINOV3 = {
    "dinov3_vits16": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3.lvd1689m",
    "dinov3_vitb16": "vit_base_patch16_dinov3.lvd1689m",
    "dinov3_vitl16": "vit_large_patch16_dinov3.lvd1689m",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3.lvd1689m",
}


class RotaryTransformer(Encoder):
    """One of timm's transformers with rotary positions, with the features of this package's own.

    Args:
        model: built by timm under one of the names in ``DINOV3``.

    Attributes:
        patch_size: side of a patch, in pixels.
        num_register_tokens: R.
    """

    def __init__(self, model: "timm.models.Eva") -> None:
        super().__init__()
        self.model = model
        self.embed_dim: int = model.embed_dim
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.num_register_tokens: int = model.num_prefix_tokens - 1

    def forward_features(self, x: Float[Tensor, "B 3 H W"]) -> Features:
        """All normalised tokens of images whose sides are multiples of the patch."""
        if any(side % self.patch_size for side in x.shape[-2:]):
            raise UserError(
                f"images of {x.shape[-2]} x {x.shape[-1]} pixels cannot be cut into patches of "
                f"{self.patch_size}: use multiples of it"
            )
        tokens = self.model.fc_norm(self.model.forward_features(x))
        cls, registers, patches = tokens.split(
            [1, self.num_register_tokens, tokens.shape[1] - 1 - self.num_register_tokens], dim=1
        )
        return Features(cls[:, 0], registers, patches)

    def forward(self, x: Tensor | list[Tensor]) -> Float[Tensor, "B D"]:
        """Class tokens (B, D); of several batches, one after the other."""
        if isinstance(x, Tensor):
            return self.forward_features(x).cls
        check_batches(x)
        return torch.cat([self.forward_features(batch).cls for batch in x])


def pretrained_dinov3(name: str) -> RotaryTransformer:
    """An encoder with released weights of DINOv3, which have a licence of their own.

    Args:
        name: a key of ``DINOV3``, torch.hub's, or what timm calls it.

    Raises:
        UserError: the weights are neither cached nor within reach.
    """
    import timm

    model = downloaded(DINOV3.get(name, name))
    assert isinstance(model, timm.models.Eva)
    return RotaryTransformer(model).eval()


def is_dinov3(name: str) -> bool:
    """Whether weights of DINOv3 that are known here are called so."""
    return name in DINOV3 or name in DINOV3.values()
