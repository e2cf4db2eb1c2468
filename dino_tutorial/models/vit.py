"""The vision transformer (Dosovitskiy et al., 2021) as DINO and DINOv2 train it.

Parameter names follow DINOv2, so that a checkpoint reads like the released ones.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dino_tutorial.errors import UserError
from dino_tutorial.models.block import FEED_FORWARD, Block
from dino_tutorial.models.encoder import Encoder, check_batches, check_images
from dino_tutorial.models.heads import LARGEST_WIDTH, check_widths
from dino_tutorial.models.positions import resample_grid
from dino_tutorial.models.shortcuts import LastBlock, LastSampledBlock, SampledBlock
from dino_tutorial.options import check_number, check_whole, tensor


class Features(NamedTuple):
    """The normalised output tokens of a vision transformer for a batch of images.

    Attributes:
        cls: (B, D) class tokens, the description of each whole image.
        registers: (B, R, D) register tokens (Darcet et al., 2024); R may be 0.
        patches: (B, N, D) patch tokens, row by row from the top left.
    """

    cls: Float[Tensor, "B D"]
    registers: Float[Tensor, "B R D"]
    patches: Float[Tensor, "B N D"]


class PatchEmbed(nn.Module):
    """Cut images (B, C, H, W) into patches and project each linearly: (B, N, D)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        # The convolution does not overlap, so it is a matrix product on rows of pixels; done as
        # one, the tokens come out in the order that the blocks want and nothing is transposed.
        batch, channels, height, width = x.shape
        p = self.patch_size
        x = x.reshape(batch, channels, height // p, p, width // p, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class ConvStem(nn.Module):
    """Patch tokens from stride-2 3x3 convolutions, for small images (Xiao et al., 2021).

    Channels double from one convolution to the next and end at D, each with a norm and GELU; a
    last 1x1 projection gives (B, N, D). Neighbouring tokens see overlapping pixels, so a masked
    patch is painted over before the stem.

    The norm is a group norm of one group: of each image by itself, so nothing depends on the batch,
    in training or after, on one process or many. But it is of the *whole* image, so each token
    knows a little of every pixel.
    """

    norm: Callable[[int], nn.Module] = staticmethod(partial(nn.GroupNorm, 1))

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        if patch_size != 2**steps:
            raise UserError(
                f"a convolutional stem halves the image several times, so patch_size must be a "
                f"power of two, not {patch_size}; use 2, 4, 8 or 16, or stem='patch'"
            )
        channels = [in_chans, *(max(16, embed_dim >> (steps - 1 - i)) for i in range(steps))]
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairs)
        self.norms = nn.ModuleList(self.norm(o) for _, o in pairs)
        self.proj = nn.Linear(channels[-1], embed_dim)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        x = x.contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.gelu(norm(conv(x)))
        return self.proj(x.flatten(2).transpose(1, 2))


class ChannelNorm(nn.LayerNorm):
    """A norm over the channels of each position: (B, C, H, W) to (B, C, H, W)."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LocalConvStem(ConvStem):
    """A :class:`ConvStem` whose tokens know nothing but the pixels around them.

    Its norm is over the channels of one position, as in ConvNeXt (Liu et al., 2022): a token of a
    patch of P pixels sees 2P - 1 of them a side, and what is masked far from it leaves it alone.
    """

    norm = ChannelNorm


STEMS: dict[str, type[PatchEmbed] | type[ConvStem]] = {
    "patch": PatchEmbed,
    "conv": ConvStem,
    "conv_local": LocalConvStem,
}


class VisionTransformer(Encoder):
    """A vision transformer that takes images of any size that its patches divide.

    Args:
        img_size: side of the training images in pixels, or (height, width); sets how many
            position embeddings are learned. Other sizes interpolate them at call time.
        patch_size: side of a patch in pixels.
        embed_dim: token width D.
        depth: number of blocks.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_ratio: hidden width of the feed-forward network over ``embed_dim``.
        qkv_bias: give queries, keys and values a bias.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        drop_path_uniform: the same rate in all blocks, which then compute their branches for the
            kept samples alone (DINOv2). Kept are ``(1 - rate)`` of each batch, rounded down.
        layer_scale_init: start of LayerScale, or None for none.
        num_register_tokens: tokens without a patch, R (Darcet et al., 2024).
        ffn: "mlp" or "swiglu".
        stem: "patch" (one linear map a patch), "conv" or "conv_local" (strided convolutions, which
            learn faster on small images), with norms over the image or over each position.
        in_chans: image channels.

    ``mask_token`` is frozen at zero: without masks it would be a parameter that never gets a
    gradient, which distributed training refuses. A method that trains with masks thaws it by
    ``model.mask_token.requires_grad_()``.

    With ``checkpoint_activations`` set to True on a model, only the input of each block is kept for
    the backward pass, which computes the rest again (Chen et al. 2016): less memory, the forward
    pass of the blocks twice, the same gradients.

    Raises:
        UserError: ``embed_dim`` is not a multiple of ``num_heads``, ``img_size`` is not one of
            ``patch_size``, or ``ffn`` or ``stem`` is unknown.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = None,
        num_register_tokens: int = 0,
        ffn: str = "mlp",
        stem: str = "patch",
        in_chans: int = 3,
        drop_path_uniform: bool = False,
    ) -> None:
        super().__init__()
        check_widths(patch_size=patch_size, embed_dim=embed_dim, depth=depth, in_chans=in_chans)
        check_widths(num_heads=num_heads)
        check_whole("num_register_tokens", num_register_tokens, 0, LARGEST_WIDTH)
        check_number("mlp_ratio", mlp_ratio, 0, 1024, above=True)
        check_number("drop_path_rate", drop_path_rate, 0, 0.99)
        if layer_scale_init is not None:
            check_number("layer_scale_init", layer_scale_init, 0, 1e6)
        _check_choice("ffn", ffn, FEED_FORWARD)
        _check_choice("stem", stem, STEMS)
        if embed_dim % num_heads:
            raise UserError(
                f"embed_dim={embed_dim} cannot be shared by num_heads={num_heads}: "
                f"choose a number of heads that divides it"
            )
        height, width = _sides(img_size)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.num_heads = num_heads
        self.num_register_tokens = num_register_tokens
        self.stem = stem
        self.grid_size = self._grid(height, width)
        # How position embeddings reach another size: "antialias" here, in timm and in DINOv2 with
        # registers; "offset" in DINO and DINOv2 without. `load_weights` sets what the source does.
        self.pos_embed_mode = "antialias"
        self.checkpoint_activations = False

        num_patches = self.grid_size[0] * self.grid_size[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, embed_dim))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, num_register_tokens, embed_dim))
            if num_register_tokens
            else None
        )
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim), requires_grad=False)
        self.patch_embed = STEMS[stem](patch_size, in_chans, embed_dim)
        block, last = (SampledBlock, LastSampledBlock) if drop_path_uniform else (Block, LastBlock)
        rates = _drop_path_rates(drop_path_rate, depth, drop_path_uniform)
        kinds: list[type[Block]] = [block] * (depth - 1) + [last]
        blocks = nn.ModuleList(
            kind(embed_dim, num_heads, mlp_ratio, qkv_bias, rate, layer_scale_init, ffn)
            for kind, rate in zip(kinds, rates, strict=True)
        )
        self.blocks = cast(Sequence[Block], blocks)  # a ModuleList does not tell what it lists
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self._init_weights()

    def forward(
        self, x: Float[Tensor, "B C H W"] | Sequence[Float[Tensor, "_ C _ _"]]
    ) -> Float[Tensor, "_ D"]:
        """The normalised class token of each image.

        Values and gradients are those of ``forward_features(x).cls``; what else the last block
        makes is not computed.

        Args:
            x: images (B, C, H, W), or several such batches, each of its own size.

        Returns:
            (B, D); for several batches (sum of B, D), in their order.

        Raises:
            UserError: H or W is not a multiple of the patch size.
        """
        if not isinstance(x, Tensor):
            # One pass for each size. One for all, attention kept apart, gains a few per cent at
            # most (benchmarks/packing.py), and drop path would have to know whose a token is.
            check_batches(x)
            return torch.cat([self.forward(batch) for batch in x])
        x = self.prepare_tokens(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = self._run(block, x)
        return self.norm(self._run(partial(last, cls_only=True), x)[:, 0])

    def forward_features(
        self, x: Float[Tensor, "B C H W"], masks: Bool[Tensor, "B N"] | None = None
    ) -> Features:
        """All output tokens of images (B, C, H, W).

        Args:
            masks: (B, N) bool; a patch where it is true is replaced by ``mask_token`` before the
                first block, and keeps its position. No token sees the pixels of such a patch.

        Raises:
            UserError: H or W is not a multiple of the patch size, or ``masks`` has another shape.
        """
        x = self.prepare_tokens(x, masks)
        for block in self.blocks:
            x = self._run(block, x)
        return Features(*self._split(self.norm(x)))

    def get_attention(
        self, x: Float[Tensor, "B C H W"], layer: int = -1
    ) -> Float[Tensor, "B heads T T"]:
        """The attention weights of one block.

        Args:
            x: images (B, C, H, W).
            layer: which block; -1 is the last.

        Returns:
            (B, heads, T, T), T = 1 + R + N; entry (i, j) says how much token i takes from token j.
            ``[:, :, 0, 1 + R:]`` is how the class token looks at the patches.
        """
        check_whole("layer", layer, -len(self.blocks), len(self.blocks) - 1)
        layer = range(len(self.blocks))[layer]
        x = self.prepare_tokens(x)
        for block in self.blocks[:layer]:
            x = block(x)
        block = self.blocks[layer]
        return block.attn.weights(block.norm1(x))

    def get_intermediate_layers(
        self, x: Float[Tensor, "B C H W"], n: int = 1
    ) -> list[Float[Tensor, "B T D"]]:
        """The tokens after each of the last ``n`` blocks, normalised, the last block's at the end.

        Args:
            x: images (B, C, H, W).

        Returns:
            ``n`` tensors (B, T, D): class token, R registers, N patches.
        """
        check_whole("n", n, 1, len(self.blocks))
        x = self.prepare_tokens(x)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= len(self.blocks) - n:
                outputs.append(self.norm(x))
        return outputs

    def _run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def prepare_tokens(
        self, x: Float[Tensor, "B C H W"], masks: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Images (B, C, H, W) to the input tokens of the first block (B, T, D)."""
        check_images(x, self.cls_token, self.in_chans)
        height, width = self._grid(*x.shape[-2:])
        if masks is None:
            x = self.patch_embed(x)
        else:
            self._check_masks(masks, x, height * width)
            if isinstance(self.patch_embed, ConvStem):
                x = self._paint_over(x, masks.view(-1, 1, height, width))
            x = self.patch_embed(x)
            x = torch.where(masks.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        positions = self.positions(height, width)
        prefix = self.cls_token + positions[:, :1]
        if self.register_tokens is not None:
            prefix = torch.cat([prefix, self.register_tokens], dim=1)
        return torch.cat([prefix.expand(x.shape[0], -1, -1), x + positions[:, 1:]], dim=1)

    def _paint_over(self, x: Tensor, masks: Tensor) -> Tensor:
        """Images with 0, the mean colour of normalised ones, in the patches masked (B, 1, h, w)."""
        p = self.patch_size
        return x.masked_fill(masks.repeat_interleave(p, 2).repeat_interleave(p, 3), 0.0)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = 1 + self.num_register_tokens
        return x[:, 0], x[:, 1:first], x[:, first:]

    def positions(self, height: int, width: int) -> Float[Tensor, "1 T D"]:
        """Position embeddings of the class token and of a grid of patches, (1, 1 + N, D).

        Args:
            height, width: of the grid, in patches; interpolated if it is not the learned one.
        """
        if (height, width) == self.grid_size:
            return self.pos_embed
        learned = self.pos_embed[0, 1:].unflatten(0, self.grid_size)  # (h, w, D)
        grid = resample_grid(learned, height, width, self.pos_embed_mode)
        grid = grid.flatten(0, 1)[None].to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], grid], dim=1)

    @staticmethod
    def _check_masks(masks: Tensor, x: Tensor, patches: int) -> None:
        tensor("B N", "bool")("masks", masks)
        batch = len(x)
        if masks.device != x.device:
            raise UserError(
                f"the images lie on {x.device} and masks on {masks.device}: bring them to one "
                "device with .to(...)"
            )
        if masks.shape != (batch, patches):
            raise UserError(
                f"masks has shape {tuple(masks.shape)}, but these images have "
                f"{(batch, patches)} (batch, patches)"
            )

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches along each side of an image of height x width pixels."""
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"an image of {height} x {width} pixels cannot be cut into patches of "
                f"{self.patch_size} x {self.patch_size}: resize or crop it so that both sides are "
                f"multiples of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def _init_weights(self) -> None:
        """Truncated normal of std .02 for linear layers and tokens; convolutions keep theirs."""
        tokens = [self.cls_token, self.pos_embed, self.register_tokens]
        for parameter in tokens:
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _sides(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels."""
    sides = (img_size, img_size) if not isinstance(img_size, tuple | list) else tuple(img_size)
    if len(sides) != 2:
        raise UserError(f"img_size={img_size!r:.60} is no size: use one side or (height, width)")
    for side in sides:
        check_whole("img_size", side, 1, 2**16)
    return sides[0], sides[1]


def _drop_path_rates(rate: float, depth: int, uniform: bool) -> list[float]:
    return [rate if uniform else rate * i / max(depth - 1, 1) for i in range(depth)]


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")


#: Width, blocks and heads of the named vision transformers.
SHAPES: dict[str, dict[str, Any]] = {
    "vit_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit_giant": {"embed_dim": 1536, "depth": 40, "num_heads": 24},
}


def vit_tiny(patch_size: int = 16, **overrides: Any) -> VisionTransformer:
    """ViT-Ti: width 192, 12 blocks, 3 heads; 5.5 M parameters at patch 16."""
    return _build(SHAPES["vit_tiny"], patch_size, overrides)


def vit_small(patch_size: int = 16, **overrides: Any) -> VisionTransformer:
    """ViT-S: width 384, 12 blocks, 6 heads; 22 M parameters."""
    return _build(SHAPES["vit_small"], patch_size, overrides)


def vit_base(patch_size: int = 16, **overrides: Any) -> VisionTransformer:
    """ViT-B: width 768, 12 blocks, 12 heads; 86 M parameters."""
    return _build(SHAPES["vit_base"], patch_size, overrides)


def vit_large(patch_size: int = 16, **overrides: Any) -> VisionTransformer:
    """ViT-L: width 1024, 24 blocks, 16 heads; 303 M parameters."""
    return _build(SHAPES["vit_large"], patch_size, overrides)


def vit_giant(patch_size: int = 14, **overrides: Any) -> VisionTransformer:
    """ViT-g as in DINOv2: width 1536, 40 blocks, 24 heads, SwiGLU, LayerScale; 1.1 B parameters."""
    giant = SHAPES["vit_giant"] | {"ffn": "swiglu", "layer_scale_init": 1e-5}
    return _build(giant, patch_size, overrides)


def _build(
    defaults: Mapping[str, Any], patch_size: int, overrides: dict[str, Any]
) -> VisionTransformer:
    return VisionTransformer(patch_size=patch_size, **{**defaults, **overrides})
