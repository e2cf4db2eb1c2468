"""SimCLR: a simple framework for contrastive learning (Chen et al. 2020)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.losses import nt_xent
from dino_tutorial.methods.base import Method, Network, an_encoder, refuse_local_crops, spread_of
from dino_tutorial.models import Encoder, ProjectionHead
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.parallel import rank_and_world
from dino_tutorial.views import ViewSpec, simclr_views
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class SimCLRSettings(Settings):
    """Settings of the objective; the defaults are the paper's for ImageNet."""

    hidden_dim: int = option(2048, "Width of the hidden layer of the head.", low=1)
    out_dim: int = option(128, "Width of the projections.", low=2)
    temperature: float = option(0.1, "τ, the temperature of the similarities.", low=1e-3, high=10)


class SimCLR(Method):
    """Each view has to find the other view of its image among all views of the batch.

    The negatives are the rest of the batch, over all processes; with ``train.accumulate`` only
    those of the same part of it.

    Args:
        backbone: the encoder.
        settings: see :class:`SimCLRSettings`.
    """

    Settings = SimCLRSettings

    @takes(backbone=an_encoder)
    def __init__(
        self,
        backbone: Encoder,
        settings: SimCLRSettings = SimCLRSettings(),
    ):
        super().__init__()
        self.settings = settings
        head = ProjectionHead(backbone.embed_dim, settings.hidden_dim, settings.out_dim)
        self.student = Network(backbone, head)

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        refuse_local_crops("simclr", views)
        return simclr_views(views.global_size, views.global_scale, **views.operations())

    def lacks_images(self, n_images: int, world: int) -> str | None:
        alone = n_images * world == 1
        return "simclr tells it from others, its negatives" if alone else None

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        features, projections = self.student(views)  # (2, B, D), (2, B, out_dim)
        loss = nt_xent(projections, self.settings.temperature)
        if not measure:
            return {"loss": loss}
        n_images = projections.shape[1] * rank_and_world()[1]
        return {
            "loss": loss,
            "ln_k": torch.full_like(loss, math.log(2 * n_images - 1)),
            "feature_spread": spread_of(features),
        }
