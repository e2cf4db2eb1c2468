"""SimCLR: a simple framework for contrastive learning (Chen et al. 2020)."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from dino_tutorial.losses import nt_xent
from dino_tutorial.methods.base import Method, Network, refuse_local_crops, spread_of
from dino_tutorial.models import ProjectionHead
from dino_tutorial.options import option
from dino_tutorial.training.distributed import rank_and_world
from dino_tutorial.views import ViewSpec, simclr_views


@dataclass(frozen=True)
class SimCLROptions:
    """Settings of the objective; the defaults are the paper's for ImageNet."""

    hidden_dim: int = option(2048, low=1)
    out_dim: int = option(128, low=1)
    temperature: float = option(0.1, low=1e-3, high=10)


class SimCLR(Method):
    """Each view has to find the other view of its image among all views of the batch.

    The negatives are the rest of the batch, over all processes; with ``train.accumulate`` only
    those of the same part of it.

    Args:
        backbone: the encoder.
        options: see :class:`SimCLROptions`.
    """

    Options = SimCLROptions
    presets = {
        "smoke": {
            "views.local_crops": 0,
            "objective.hidden_dim": 64,
            "objective.out_dim": 32,
            "optim.lr": 4e-3,
        },
        # Optimizer, encoder and crops as for BYOL at this scale. A query has 126 negatives; the
        # temperature lies between the authors' for ImageNet (0.1) and for CIFAR-10 (0.5).
        "laptop": {
            "views.global_scale": [0.2, 1.0],
            "views.local_crops": 0,
            "objective.hidden_dim": 512,
            "objective.out_dim": 128,
            "objective.temperature": 0.2,
            "optim.lr": 4e-3,
            "optim.warmup_epochs": 1,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 9,
        },
        # google-research/simclr, README, CIFAR-10: batch 512, τ 0.5, crops from 0.08, jitter half
        # as strong as on ImageNet. They leave blur out; here it is slight.
        "gpu": {
            "views.global_scale": [0.08, 1.0],
            "views.local_crops": 0,
            "views.saturation": 0.4,
            "views.blur_sigma": [0.1, 0.5],
            "objective.temperature": 0.5,
            "optim.lr": 5e-4,
            "optim.warmup_epochs": 10,
            "optim.weight_decay_final": 0.04,
        },
        # Chen et al. 2020, sections 2 and 3 and appendix A: ResNet-50, LARS, batch 4096, lr 0.3
        # for 256, jitter of strength 1. 1000 epochs is their longest training.
        "paper": {
            "views.global_scale": [0.08, 1.0],
            "views.local_crops": 0,
            "views.brightness": 0.8,
            "views.contrast": 0.8,
            "views.saturation": 0.8,
            "views.hue": 0.2,
            "model.arch": "resnet50",
            "optim.name": "lars",
            "optim.lr": 0.3,
            "optim.lr_final": 0.0,
            "optim.warmup_epochs": 10,
            "optim.weight_decay": 1e-6,
            "optim.weight_decay_final": 1e-6,
            "optim.clip": 0.0,
            "train.epochs": 1000,
            "train.batch_size": 4096,
        },
    }

    def __init__(
        self,
        backbone: nn.Module,
        options: SimCLROptions = SimCLROptions(),  # noqa: B008
    ):
        super().__init__()
        self.options = options
        head = ProjectionHead(backbone.embed_dim, options.hidden_dim, options.out_dim)
        self.student = Network(backbone, head)

    @staticmethod
    def view_specs(views) -> list[ViewSpec]:
        refuse_local_crops("simclr", views)
        return simclr_views(views.global_size, views.global_scale, **views.jitter())

    def forward(self, views, values, measure):
        features, projections = self.student(views)  # (2, B, D), (2, B, out_dim)
        loss = nt_xent(projections, self.options.temperature)
        if not measure:
            return {"loss": loss}
        n_images = projections.shape[1] * rank_and_world()[1]
        return {
            "loss": loss,
            "ln_k": torch.full_like(loss, math.log(2 * n_images - 1)),
            "feature_spread": spread_of(features),
        }
