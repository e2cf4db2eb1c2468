"""DINO: self-distillation with no labels (Caron et al. 2021)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from dino_tutorial.evaluation.collapse import entropy
from dino_tutorial.losses import DINOLoss
from dino_tutorial.losses.fused import fused_dino_loss
from dino_tutorial.methods.base import Method, Network, an_encoder, spread_of
from dino_tutorial.methods.schedules import cosine_schedule, linear_warmup
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.models import DINOHead, Encoder
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.views import ViewSpec, dino_views
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class DINOSettings(Settings):
    """Settings of the objective; the defaults are the reference code's for ViT-S/16."""

    out_dim: int = option(65536, "K, the number of prototypes.", low=2)
    head_hidden_dim: int = option(2048, "Width of the head's hidden layers.", low=1)
    head_bottleneck_dim: int = option(
        256, "Width of the normalised vectors that are compared with prototypes.", low=2
    )
    head_layers: int = option(
        3, "Linear layers of the head before the prototypes.", low=1, high=100
    )
    head_batch_norm: bool = option(False, "Batch normalisation in the head's hidden layers.")
    norm_last_layer: bool = option(
        True, "Keep all prototypes at length 1; otherwise their lengths are learned."
    )
    freeze_last_layer_epochs: float = option(
        1, "Epochs at the start in which the prototypes stay as they are.", low=0
    )
    student_temp: float = option(0.1, "τ_s, the student's temperature.", low=1e-3, high=10)
    teacher_temp: float = option(
        0.04,
        "τ_t, the teacher's temperature after its warm-up; smaller is sharper.",
        low=1e-3,
        high=10,
    )
    teacher_temp_start: float = option(
        0.04, "The teacher's temperature at the first step.", low=1e-3, high=10
    )
    teacher_temp_warmup_epochs: float = option(
        0, "Epochs over which the teacher's temperature goes from start to end.", low=0
    )
    center_momentum: float = option(
        0.9, "m, the momentum of the center: the share that stays at each step.", low=0, high=1
    )
    momentum: float = option(
        0.996,
        "λ, the momentum of the teacher at the first step: the share that stays of it.",
        low=0,
        high=1,
    )
    momentum_final: float = option(
        1.0, "Where the teacher's momentum ends; a cosine leads there.", low=0, high=1
    )


class PrototypeNetwork(Network):
    """A network whose head compares features with prototypes."""

    head: DINOHead


class DINO(Method):
    """The student's view of every crop has to match the teacher's view of every other global crop.

    Args:
        backbone: the student's encoder; the teacher starts as a copy.
        settings: see :class:`DINOSettings`.
    """

    Settings: ClassVar[type] = DINOSettings

    student: PrototypeNetwork
    teacher: Teacher[PrototypeNetwork]

    @takes(backbone=an_encoder)
    def __init__(self, backbone: Encoder, settings: DINOSettings = DINOSettings()):
        super().__init__()
        self.settings = settings
        self.student = self._network(backbone)
        self.teacher = Teacher(self.student)
        self.loss = DINOLoss(settings.out_dim, settings.student_temp, settings.center_momentum)

    @property
    def heads(self) -> list[DINOHead]:
        """The student's heads, whose last layers learn nothing at first."""
        return [self.student.head]

    def _network(self, backbone: Encoder) -> PrototypeNetwork:
        o = self.settings
        head = self._head(backbone.embed_dim, o.out_dim, o.head_bottleneck_dim)
        return PrototypeNetwork(backbone, head)

    def _head(self, in_dim: int, out_dim: int, bottleneck_dim: int) -> DINOHead:
        return DINOHead(
            in_dim,
            out_dim,
            hidden_dim=self.settings.head_hidden_dim,
            bottleneck_dim=bottleneck_dim,
            n_layers=self.settings.head_layers,
            norm_last_layer=self.settings.norm_last_layer,
            batch_norm=self.settings.head_batch_norm,
        )

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        return dino_views(
            views.global_size,
            views.local_size,
            views.local_crops,
            views.global_scale,
            views.local_scale,
            **views.operations(),
        )

    def schedules(
        self, total_steps: int, steps_per_epoch: int
    ) -> dict[str, Float[Tensor, " steps"]]:
        o = self.settings
        warmup = round(o.teacher_temp_warmup_epochs * steps_per_epoch)
        return {
            "momentum": cosine_schedule(o.momentum, o.momentum_final, total_steps),
            "teacher_temp": linear_warmup(
                o.teacher_temp_start, o.teacher_temp, total_steps, warmup
            ),
        }

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        features, teacher_logits = self.teacher([views[0][:2]])  # the two global views
        _, student_logits = self.student(views)
        targets = self.loss.probabilities(teacher_logits, values["teacher_temp"])
        loss = fused_dino_loss(student_logits, targets, self.loss.student_temp)
        self.loss.note(teacher_logits)
        return {"loss": loss} | (measures(targets, features) if measure else {})

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(self.settings.out_dim)}

    def before_step(self, epoch: float) -> None:
        if epoch < self.settings.freeze_last_layer_epochs:
            for head in self.heads:
                for parameter in head.last_layer.parameters():
                    parameter.grad = None

    def after_step(self, values: Mapping[str, float]) -> None:
        """Move the center by the mean over micro-batches and processes, then the teacher."""
        self.loss.update()
        super().after_step(values)


def measures(
    targets: Float[Tensor, "2 B K"], features: Float[Tensor, "2 B D"]
) -> dict[str, Float[Tensor, ""]]:
    """What the log shows of a teacher: targets (2, B, K) and features (2, B, D) of its views."""
    return {
        "teacher_entropy": entropy(targets).mean(),
        "batch_entropy": entropy(targets.mean(dim=(0, 1))),
        "feature_spread": spread_of(features),
    }
