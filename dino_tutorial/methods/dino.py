"""DINO: self-distillation with no labels (Caron et al. 2021)."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from dino_tutorial.evaluation.collapse import entropy
from dino_tutorial.losses import DINOLoss
from dino_tutorial.losses.fused import fused_dino_loss
from dino_tutorial.methods.base import Method, Network, spread_of
from dino_tutorial.models import DINOHead
from dino_tutorial.options import option
from dino_tutorial.training.schedules import cosine_schedule, linear_warmup
from dino_tutorial.training.teacher import Teacher
from dino_tutorial.views import ViewSpec, dino_views


@dataclass(frozen=True)
class DINOOptions:
    """Settings of the objective; the defaults are the reference code's for ViT-S/16."""

    out_dim: int = option(65536, low=2)
    head_hidden_dim: int = option(2048, low=1)
    head_bottleneck_dim: int = option(256, low=1)
    head_layers: int = option(3, low=1)
    head_batch_norm: bool = False
    norm_last_layer: bool = True
    freeze_last_layer_epochs: float = option(1, low=0)
    student_temp: float = option(0.1, low=1e-3, high=10)
    teacher_temp: float = option(0.04, low=1e-3, high=10)
    teacher_temp_start: float = option(0.04, low=1e-3, high=10)
    teacher_temp_warmup_epochs: float = option(0, low=0)
    center_momentum: float = option(0.9, low=0, high=1)
    momentum: float = option(0.996, low=0, high=1)
    momentum_final: float = option(1.0, low=0, high=1)


class DINO(Method):
    """The student's view of every crop has to match the teacher's view of every other global crop.

    Args:
        backbone: the student's encoder; the teacher starts as a copy.
        options: see :class:`DINOOptions`.
    """

    Options = DINOOptions
    presets = {
        "smoke": {
            "views.local_crops": 2,
            "objective.out_dim": 64,
            "objective.head_hidden_dim": 64,
            "objective.head_bottleneck_dim": 32,
            "optim.lr": 4e-3,
        },
        # Chosen on training scenes held out of the bank; the data set's card tells what was tried.
        "laptop": {
            "views.local_crops": 2,
            "objective.out_dim": 512,
            "objective.head_hidden_dim": 512,
            "objective.head_bottleneck_dim": 128,
            "objective.momentum": 0.99,
            "objective.freeze_last_layer_epochs": 0.5,
            "objective.teacher_temp": 0.03,
            "objective.teacher_temp_start": 0.03,
            "optim.lr": 5e-3,
            "optim.warmup_epochs": 1,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 5,
        },
        "gpu": {
            "views.global_scale": [0.3, 1.0],
            "views.local_scale": [0.1, 0.3],
            "views.local_crops": 6,
            "objective.out_dim": 4096,
            "objective.momentum": 0.996,
            "objective.teacher_temp_warmup_epochs": 0,
            "optim.lr": 5e-4,
            "optim.warmup_epochs": 10,
        },
        # facebookresearch/dino main_dino.py, ViT-S/16, 100 epochs.
        "paper": {
            "model.arch": "vit_small",
            "model.patch_size": 16,
            "model.drop_path_rate": 0.1,
            "train.epochs": 100,
            "train.batch_size": 512,
        },
    }

    def __init__(self, backbone: nn.Module, options: DINOOptions = DINOOptions()):  # noqa: B008
        super().__init__()
        self.options = options
        self.student = self._network(backbone)
        self.teacher = Teacher(self.student)
        self.loss = DINOLoss(options.out_dim, options.student_temp, options.center_momentum)

    @property
    def heads(self) -> list[nn.Module]:
        """The student's heads, whose last layers learn nothing at first."""
        return [self.student.head]

    def _network(self, backbone: nn.Module) -> Network:
        o = self.options
        return Network(backbone, self._head(backbone.embed_dim, o.out_dim, o.head_bottleneck_dim))

    def _head(self, in_dim: int, out_dim: int, bottleneck_dim: int) -> DINOHead:
        return DINOHead(
            in_dim,
            out_dim,
            hidden_dim=self.options.head_hidden_dim,
            bottleneck_dim=bottleneck_dim,
            n_layers=self.options.head_layers,
            norm_last_layer=self.options.norm_last_layer,
            batch_norm=self.options.head_batch_norm,
        )

    @staticmethod
    def view_specs(views) -> list[ViewSpec]:
        return dino_views(
            views.global_size,
            views.local_size,
            views.local_crops,
            views.global_scale,
            views.local_scale,
            **views.jitter(),
        )

    def schedules(self, total_steps: int, steps_per_epoch: int) -> dict[str, Tensor]:
        o = self.options
        warmup = round(o.teacher_temp_warmup_epochs * steps_per_epoch)
        return {
            "momentum": cosine_schedule(o.momentum, o.momentum_final, total_steps),
            "teacher_temp": linear_warmup(
                o.teacher_temp_start, o.teacher_temp, total_steps, warmup
            ),
        }

    def forward(self, views, values, measure):
        features, teacher_logits = self.teacher([views[0][:2]])  # the two global views
        _, student_logits = self.student(views)
        targets = self.loss.probabilities(teacher_logits, values["teacher_temp"])
        loss = fused_dino_loss(student_logits, targets, self.loss.student_temp)
        self.loss.note(teacher_logits)
        return {"loss": loss} | (measures(targets, features) if measure else {})

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(self.options.out_dim)}

    def before_step(self, epoch: float) -> None:
        if epoch < self.options.freeze_last_layer_epochs:
            for head in self.heads:
                for parameter in head.last_layer.parameters():
                    parameter.grad = None

    def after_step(self, values: dict[str, float]) -> None:
        """Move the center by the mean over micro-batches and processes, then the teacher."""
        self.loss.update()
        super().after_step(values)


def measures(targets: Tensor, features: Tensor) -> dict[str, Tensor]:
    """What the log shows of a teacher: targets (2, B, K) and features (2, B, D) of its views."""
    return {
        "teacher_entropy": entropy(targets).mean(),
        "batch_entropy": entropy(targets.mean(dim=(0, 1))),
        "feature_spread": spread_of(features),
    }
