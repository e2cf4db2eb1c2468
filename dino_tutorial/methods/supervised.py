"""Supervised training: the upper baseline, the only method that is given labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dino_tutorial.errors import UserError
from dino_tutorial.methods.base import (
    Method,
    Network,
    an_encoder,
    refuse_local_crops,
    spread_of,
)
from dino_tutorial.models import Encoder
from dino_tutorial.options import Settings, takes
from dino_tutorial.views import ViewSpec, single_view
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class SupervisedSettings(Settings):
    """The objective has no settings."""


class Supervised(Method):
    """Cross-entropy of a linear classifier on the encoder's features, encoder and all.

    Args:
        backbone: the encoder.
        settings: none.
        n_classes: of the labels. Images with the label −1 have none and are passed over.

    Raises:
        UserError: if there are fewer than two classes.
    """

    Settings = SupervisedSettings
    needs_labels = True

    @takes(backbone=an_encoder)
    def __init__(
        self,
        backbone: Encoder,
        settings: SupervisedSettings = SupervisedSettings(),
        n_classes: int = 0,
    ):
        super().__init__()
        if n_classes < 2:
            raise UserError(
                f"supervised training needs labels of two classes or more, and these images have "
                f"{n_classes}: give a folder with one folder a class, or train without labels"
            )
        self.n_classes = n_classes
        self.student = Network(backbone, nn.Linear(backbone.embed_dim, n_classes))

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        refuse_local_crops("supervised", views)
        return single_view(views.global_size, views.global_scale, **views.operations())

    def forward(
        self,
        views: list[Float[Tensor, "_ B 3 _ _"]],
        values: Mapping[str, float],
        measure: bool,
        labels: Int[Tensor, " B"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        if labels is None:
            raise ValueError("supervised training wants labels: call it with those of the images")
        features, logits = self.student(views)  # (1, B, D), (1, B, n_classes)
        # The mean over the images with a label; 0 where a batch has none, and not 0 / 0.
        total = cross_entropy(logits[0], labels, ignore_index=-1, reduction="sum")
        loss = total / (labels >= 0).sum().clamp(min=1)
        if not measure:
            return {"loss": loss}
        right = (logits[0].argmax(dim=-1) == labels).sum()
        return {
            "loss": loss,
            "accuracy": right / (labels >= 0).sum(),
            "feature_spread": spread_of(features),
        }

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(self.n_classes)}
