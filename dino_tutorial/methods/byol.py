"""BYOL: bootstrap your own latent (Grill et al. 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.losses import byol_loss
from dino_tutorial.methods.base import Method, Network, an_encoder, spread_of
from dino_tutorial.methods.schedules import cosine_schedule
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.models import BYOLHead, Encoder
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.views import ViewSpec, byol_views
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class BYOLSettings(Settings):
    """Settings of the objective; the defaults are the paper's (1000 epochs)."""

    hidden_dim: int = option(4096, "Width of the hidden layer of projector and predictor.", low=1)
    out_dim: int = option(256, "Width of projections and predictions.", low=2)
    momentum: float = option(
        0.996,
        "τ, the momentum of the teacher at the first step: the share that stays of it.",
        low=0,
        high=1,
    )
    momentum_final: float = option(
        1.0, "Where the teacher's momentum ends; a cosine leads there.", low=0, high=1
    )


class BYOL(Method):
    """The student predicts, from one view, the teacher's projection of the other.

    The paper's online network is the student (backbone, projector, predictor), its target
    network the teacher (backbone, projector). Each view is normalised by its own batch
    statistics, so the two go through the networks one after the other.

    Args:
        backbone: the student's encoder; the teacher starts as a copy.
        settings: see :class:`BYOLSettings`.
    """

    Settings = BYOLSettings

    teacher: Teacher[Network]

    @takes(backbone=an_encoder)
    def __init__(self, backbone: Encoder, settings: BYOLSettings = BYOLSettings()):
        super().__init__()
        self.settings = settings
        hidden, out = settings.hidden_dim, settings.out_dim
        self.student = Network(backbone, BYOLHead(backbone.embed_dim, hidden, out))
        self.predictor = BYOLHead(out, hidden, out)
        self.teacher = Teacher(self.student)

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        if views.local_crops:
            raise UserError("BYOL compares two views: set views.local_crops=0")
        return byol_views(views.global_size, views.global_scale, **views.operations())

    def schedules(
        self, total_steps: int, steps_per_epoch: int
    ) -> dict[str, Float[Tensor, " steps"]]:
        o = self.settings
        return {"momentum": cosine_schedule(o.momentum, o.momentum_final, total_steps)}

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        (pair,) = views  # one group: (2, B, 3, S, S)
        predictions = [self.predictor(self.student([view[None]])[1][0]) for view in pair]
        features, targets = zip(*(self.teacher([view[None]]) for view in pair), strict=True)
        loss = byol_loss(predictions[0], targets[1][0]) + byol_loss(predictions[1], targets[0][0])
        if not measure:
            return {"loss": loss}
        return {"loss": loss, "feature_spread": spread_of(features[0])}
