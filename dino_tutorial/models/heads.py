"""Projection heads: what sits between the encoder and the loss, and is thrown away after."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.models.encoder import check_beside
from dino_tutorial.options import check_whole, tensor

_FEATURES, _ROWS = tensor("... D"), tensor("B D")
LARGEST_WIDTH = 2**24  # beyond it no layer fits into memory


def check_widths(**widths: int) -> None:
    """Refuse a width or a number of layers that is none.

    Raises:
        UserError: naming it.
    """
    for name, value in widths.items():
        check_whole(name, value, 1, LARGEST_WIDTH)


def check_features(x: Tensor, layer: nn.Module, one_row_each: bool = False) -> None:
    """Refuse features that a linear layer cannot take.

    Raises:
        UserError: they are no tensor (…, D) of its width, or lie on another device, or have
            another precision.
    """
    (_ROWS if one_row_each else _FEATURES)("features", x)
    weight = layer.weight
    if not isinstance(weight, Tensor):
        return  # a layer that stands for the linear one, such as a quantised one
    if x.shape[-1] != weight.shape[1]:
        raise UserError(
            f"the features have {x.shape[-1]} dimensions, and the head wants {weight.shape[1]}: "
            "make it for the width of the encoder, its embed_dim"
        )
    check_beside(x, weight, "features")


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are unit vectors: K prototypes.

    Rows are normalised in each forward pass (Salimans & Kingma, 2016, with the length g = 1), so
    the stored ``weight`` (K, D) is all there is to save and to average. With ``learn_scale`` the
    length of each row is learned too, from 1: ``scale`` (K, 1).
    """

    def __init__(self, in_dim: int, out_dim: int, learn_scale: bool = False) -> None:
        super().__init__()
        self.weight = nn.Linear(in_dim, out_dim, bias=False).weight
        self.scale = nn.Parameter(torch.ones(out_dim, 1)) if learn_scale else None

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows K"]:
        weight = F.normalize(self.weight, dim=-1)
        if self.scale is not None:
            weight = weight * self.scale
        return F.linear(x, weight)


class DINOHead(nn.Module):
    """The head of DINO (Caron et al., 2021, section 3.2): features to logits over prototypes.

    An MLP with GELU to a narrow bottleneck, there L2-normalised, then cosines with K prototypes.

    Args:
        in_dim: feature width D.
        out_dim: number of prototypes K.
        hidden_dim: width of the MLP.
        bottleneck_dim: width of the normalised vector.
        n_layers: linear layers of the MLP, at least 1; the last ends in the bottleneck.
        batch_norm: normalise each hidden layer over the batch, which convolutional encoders need
            (``--use_bn_in_head`` of the reference code) and transformers do not.
        norm_last_layer: fix the length of the prototypes to 1. Off, as DINOv2 has it, the length
            is learned.

    ``last_layer`` holds the prototypes; its gradients are withheld for the first epoch.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        n_layers: int = 3,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_widths(in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim, n_layers=n_layers)
        check_widths(bottleneck_dim=bottleneck_dim)
        widths = [in_dim, *[hidden_dim] * (n_layers - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for n, (i, o) in enumerate(zip(widths[:-1], widths[1:], strict=True), start=1):
            norm = [nn.BatchNorm1d(o)] if batch_norm and n < n_layers else []
            layers += [nn.Linear(i, o), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, learn_scale=not norm_last_layer)

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows K"]:
        """Features (…, D) to logits (…, K), not yet divided by a temperature."""
        check_features(x, self.mlp[0])
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


class BYOLHead(nn.Sequential):
    """Projector and predictor of BYOL (Grill et al., 2020): linear, batch-norm, ReLU, linear.

    Args:
        in_dim: feature width D.
        hidden_dim: width between.
        out_dim: width of the output, (B, out_dim).
    """

    def __init__(self, in_dim: int, hidden_dim: int = 4096, out_dim: int = 256) -> None:
        check_widths(in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim)
        super().__init__(
            nn.Linear(in_dim, hidden_dim, bias=False),  # batch-norm would cancel a bias
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, out_dim),
        )

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B out"]:
        """Features (B, D) to (B, out_dim)."""
        check_features(x, self[0], one_row_each=True)
        for layer in self:
            x = layer(x)
        return x


class ProjectionHead(nn.Sequential):
    """The head of SimCLR and MoCo v2: linear, ReLU, linear.

    Args:
        in_dim: feature width D.
        hidden_dim: width between.
        out_dim: width of the output, (B, out_dim).

    Source: Chen et al. 2020 (SimCLR), section 2.1; Chen et al. 2020 (MoCo v2), section 3.
    """

    def __init__(self, in_dim: int, hidden_dim: int = 2048, out_dim: int = 128) -> None:
        check_widths(in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim)
        super().__init__(
            nn.Linear(in_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, out_dim),
        )

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B out"]:
        """Features (B, D) to (B, out_dim)."""
        check_features(x, self[0])
        for layer in self:
            x = layer(x)
        return x
