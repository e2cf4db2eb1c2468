"""Rotation prediction (Gidaris, Singh and Komodakis 2018)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dino_tutorial.methods.base import (
    Method,
    Network,
    accuracy,
    an_encoder,
    refuse_local_crops,
    spread_of,
)
from dino_tutorial.models import Encoder
from dino_tutorial.options import Settings, takes
from dino_tutorial.views import ViewSpec, rotations, single_view
from dino_tutorial.views.settings import ViewSettings

N_ROTATIONS = 4


@dataclass(frozen=True)
class RotationSettings(Settings):
    """The objective has no settings: four rotations, the paper's best (its table 1)."""


class Rotation(Method):
    """By how much has the image been turned? All rotations of each image are in the batch.

    The target needs an *up*. Images of scenes seen from above, such as the embedded ones,
    have none: there the loss stays at ln K, which shows what a pretext task rests on.

    Args:
        backbone: the encoder.
        settings: see :class:`RotationSettings`.
    """

    Settings = RotationSettings
    title = "Rotation prediction"

    @takes(backbone=an_encoder)
    def __init__(
        self,
        backbone: Encoder,
        settings: RotationSettings = RotationSettings(),
    ):
        super().__init__()
        self.settings = settings
        self.student = Network(backbone, nn.Linear(backbone.embed_dim, N_ROTATIONS))

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        refuse_local_crops("rotation", views)
        return single_view(views.global_size, views.global_scale, **views.operations())

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        ((images,),) = views  # one group of one view: (B, 3, S, S)
        turned = rotations(images, N_ROTATIONS)
        features, logits = self.student([turned])  # (R, B, D), (R, B, R)
        targets = torch.arange(len(turned), device=images.device)[:, None].expand(logits.shape[:2])
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        if not measure:
            return {"loss": loss}
        return {
            "loss": loss,
            "accuracy": accuracy(logits, targets),
            "feature_spread": spread_of(features[:1]),  # of one orientation: images, not targets
        }

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(N_ROTATIONS)}
