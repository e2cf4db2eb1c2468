"""Blocks that save work: they leave out what nobody looks at.

Each computes what :class:`~dino_tutorial.models.block.Block` computes, and tests hold it to that.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dino_tutorial.models.block import Attention, Block


class SampledBlock(Block):
    """Stochastic depth that saves the work (DINOv2): a branch sees the kept samples alone.

    A fixed number of samples is kept, ``(1 - rate)`` of the batch rounded down and at least one,
    so shapes do not depend on the draw. Their branches are scaled up, so the mean does not change.
    """

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.drops:
            return super().forward(x)
        kept, scale = self.draw(x)
        branch = self.ls1(self.attn(self.norm1(x[kept])))
        x = x.index_add(0, kept, branch.to(x.dtype), alpha=scale)
        kept, scale = self.draw(x)
        branch = self.ls2(self.mlp(self.norm2(x[kept])))
        return x.index_add(0, kept, branch.to(x.dtype), alpha=scale)

    @property
    def drops(self) -> bool:
        """Whether any sample goes without a branch."""
        return self.training and self.drop_path.rate > 0.0

    def draw(self, x: Float[Tensor, "B ..."]) -> tuple[Int[Tensor, " kept"], float]:
        """The samples of x (B, …) that are kept, and by how much their branches are scaled."""
        samples = len(x)
        number = max(int(samples * (1 - self.drop_path.rate)), 1)
        return torch.randperm(samples, device=x.device)[:number], samples / number


class LastBlock(Block):
    """A block that can give the class token alone, which is all that DINO reads of the last one.

    Without it a step of DINO takes 7 % longer for ViT-S/16 at 224 pixels, and a fifth longer at the
    preset ``laptop``, whose encoder has few blocks (medians of paired steps on one thread of an
    AMD EPYC; ``benchmarks/step_parts.json`` has the encoder alone). Values and gradients are those
    of the whole block up to rounding.
    """

    def forward(self, x: Float[Tensor, "B T D"], cls_only: bool = False) -> Float[Tensor, "B _ D"]:
        """Tokens (B, T, D) to (B, T, D), or to (B, 1, D): the class token."""
        if not cls_only:
            return super().forward(x)
        cls = x[:, :1] + self.drop_path(self.ls1(cls_output(self.attn, self.norm1(x))))
        return cls + self.drop_path(self.ls2(self.mlp(self.norm2(cls))))


class LastSampledBlock(LastBlock, SampledBlock):
    """A :class:`SampledBlock` that can give the class token alone."""

    def forward(self, x: Float[Tensor, "B T D"], cls_only: bool = False) -> Float[Tensor, "B _ D"]:
        """Tokens (B, T, D) to (B, T, D), or to (B, 1, D): the class token."""
        if not (cls_only and self.drops):
            return super().forward(x, cls_only)
        kept, scale = self.draw(x)
        branch = self.ls1(cls_output(self.attn, self.norm1(x[kept])))
        cls = x[:, :1].index_add(0, kept, branch.to(x.dtype), alpha=scale)
        kept, scale = self.draw(x)
        branch = self.ls2(self.mlp(self.norm2(cls[kept])))
        return cls.index_add(0, kept, branch.to(x.dtype), alpha=scale)


def cls_output(attention: Attention, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B 1 D"]:
    """``attention(x)[:, :1]``, what the class token gathers: tokens (B, T, D) to (B, 1, D).

    With one query, no token needs a key or a value of its own. Its score is
    q (W_k x + b_k) = (q W_k) x + a constant, which the softmax ignores; and the weighted sum of
    the values W_v x + b_v is W_v applied to the weighted sum of the tokens, plus b_v.
    """
    batch, _, dim = x.shape
    heads, qkv = attention.num_heads, attention.qkv
    w_query, w_key, w_value = qkv.weight.view(3, dim, dim)
    b_query, _, b_value = (None,) * 3 if qkv.bias is None else qkv.bias.view(3, dim)
    w_key, w_value = (w.view(heads, -1, dim) for w in (w_key, w_value))

    q = F.linear(x[:, 0], w_query, b_query).view(batch, heads, -1)
    q = torch.einsum("bhd,hdc->bhc", q, w_key) / q.shape[-1] ** 0.5
    scores = q @ x.transpose(1, 2)
    gathered = scores.softmax(dim=-1) @ x
    out = torch.einsum("bhc,hdc->bhd", gathered, w_value).flatten(1)
    return attention.proj((out if b_value is None else out + b_value).unsqueeze(1))
