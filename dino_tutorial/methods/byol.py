"""BYOL: bootstrap your own latent (Grill et al. 2020)."""

from dataclasses import dataclass

from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.losses import byol_loss
from dino_tutorial.methods.base import Method, Network, spread_of
from dino_tutorial.models import BYOLHead
from dino_tutorial.options import option
from dino_tutorial.training.schedules import cosine_schedule
from dino_tutorial.training.teacher import Teacher
from dino_tutorial.views import ViewSpec, byol_views


@dataclass(frozen=True)
class BYOLOptions:
    """Settings of the objective; the defaults are the paper's (1000 epochs)."""

    hidden_dim: int = option(4096, low=1)
    out_dim: int = option(256, low=1)
    momentum: float = option(0.996, low=0, high=1)
    momentum_final: float = option(1.0, low=0, high=1)


class BYOL(Method):
    """The student predicts, from one view, the teacher's projection of the other.

    The paper's online network is the student (backbone, projector, predictor), its target
    network the teacher (backbone, projector). Each view is normalised by its own batch
    statistics, so the two go through the networks one after the other.

    Args:
        backbone: the student's encoder; the teacher starts as a copy.
        options: see :class:`BYOLOptions`.
    """

    Options = BYOLOptions
    presets = {
        "smoke": {
            "views.local_crops": 0,
            "objective.hidden_dim": 64,
            "objective.out_dim": 32,
            "objective.momentum": 0.99,
            "optim.lr": 4e-3,
        },
        "laptop": {
            "views.global_scale": [0.2, 1.0],
            "views.local_crops": 0,
            "objective.hidden_dim": 512,
            "objective.out_dim": 128,
            "objective.momentum": 0.99,
            "optim.lr": 4e-3,
            "optim.warmup_epochs": 1,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 7,
        },
        "gpu": {
            "views.global_scale": [0.2, 1.0],
            "views.local_crops": 0,
            "objective.hidden_dim": 2048,
            "optim.lr": 5e-4,
            "optim.warmup_epochs": 10,
        },
        # Grill et al. 2020, appendices B and C: ResNet-50, LARS, 1000 epochs, batch 4096.
        "paper": {
            "views.global_scale": [0.08, 1.0],
            "views.local_crops": 0,
            "model.arch": "resnet50",
            "optim.name": "lars",
            "optim.lr": 0.2,
            "optim.lr_final": 0.0,
            "optim.warmup_epochs": 10,
            "optim.weight_decay": 1.5e-6,
            "optim.weight_decay_final": 1.5e-6,
            "optim.clip": 0.0,
            "train.epochs": 1000,
            "train.batch_size": 4096,
        },
    }

    def __init__(self, backbone: nn.Module, options: BYOLOptions = BYOLOptions()):  # noqa: B008
        super().__init__()
        self.options = options
        hidden, out = options.hidden_dim, options.out_dim
        self.student = Network(backbone, BYOLHead(backbone.embed_dim, hidden, out))
        self.predictor = BYOLHead(out, hidden, out)
        self.teacher = Teacher(self.student)

    @staticmethod
    def view_specs(views) -> list[ViewSpec]:
        if views.local_crops:
            raise UserError("BYOL compares two views: set views.local_crops=0")
        return byol_views(views.global_size, views.global_scale, **views.jitter())

    def schedules(self, total_steps: int, steps_per_epoch: int) -> dict[str, Tensor]:
        o = self.options
        return {"momentum": cosine_schedule(o.momentum, o.momentum_final, total_steps)}

    def forward(self, views, values, measure):
        (pair,) = views  # one group: (2, B, 3, S, S)
        predictions = [self.predictor(self.student([view[None]])[1][0]) for view in pair]
        features, targets = zip(*(self.teacher([view[None]]) for view in pair), strict=True)
        loss = byol_loss(predictions[0], targets[1][0]) + byol_loss(predictions[1], targets[0][0])
        if not measure:
            return {"loss": loss}
        return {"loss": loss, "feature_spread": spread_of(features[0])}
