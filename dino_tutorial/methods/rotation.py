"""Rotation prediction (Gidaris, Singh and Komodakis 2018)."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dino_tutorial.methods.base import (
    Method,
    Network,
    refuse_local_crops,
    share_right,
    spread_of,
)
from dino_tutorial.options import option
from dino_tutorial.views import ViewSpec, rotations, single_view


@dataclass(frozen=True)
class RotationOptions:
    """Settings of the objective; the default is the paper's best (its table 1)."""

    rotations: int = option(4, among=(2, 4))


class Rotation(Method):
    """By how much has the picture been turned? All rotations of each image are in the batch.

    The answer needs an *up*. Pictures of scenes seen from above, such as the embedded ones,
    have none: there the loss stays at ln K, which shows what a pretext task rests on.

    Args:
        backbone: the encoder.
        options: see :class:`RotationOptions`.
    """

    Options = RotationOptions
    presets = {
        "smoke": {"views.local_crops": 0, "optim.lr": 4e-3},
        # Optimizer and encoder as for DINO at this scale. No jitter, as in the paper.
        "laptop": {
            "views.local_crops": 0,
            "views.jitter_p": 0.0,
            "optim.lr": 4e-3,
            "optim.warmup_epochs": 1,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 5,
        },
        "gpu": {
            "views.local_crops": 0,
            "views.jitter_p": 0.0,
            "views.gray_p": 0.0,
            "optim.lr": 5e-4,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 100,
        },
        # Gidaris et al. 2018, section 3.2: ImageNet, batch 192, lr 0.01 falling to 0.0001 in 30
        # epochs (there in two steps); the crops are those of the authors' code. The encoder is
        # not their AlexNet but the ResNet-50 of Kolesnikov et al. (2019).
        "paper": {
            "views.global_scale": [0.08, 1.0],
            "views.local_crops": 0,
            "views.jitter_p": 0.0,
            "views.gray_p": 0.0,
            "model.arch": "resnet50",
            "optim.name": "sgd",
            "optim.lr": 0.01 * 256 / 192,
            "optim.lr_final": 1e-4,
            "optim.warmup_epochs": 0,
            "optim.weight_decay": 5e-4,
            "optim.weight_decay_final": 5e-4,
            "optim.clip": 0.0,
            "train.epochs": 30,
            "train.batch_size": 192,
        },
    }

    def __init__(
        self,
        backbone: nn.Module,
        options: RotationOptions = RotationOptions(),  # noqa: B008
    ):
        super().__init__()
        self.options = options
        self.student = Network(backbone, nn.Linear(backbone.embed_dim, options.rotations))

    @staticmethod
    def view_specs(views) -> list[ViewSpec]:
        refuse_local_crops("rotation", views)
        return single_view(views.global_size, views.global_scale, **views.jitter())

    def forward(self, views, values, measure):
        ((images,),) = views  # one group of one view: (B, 3, S, S)
        turned = rotations(images, self.options.rotations)
        features, logits = self.student([turned])  # (R, B, D), (R, B, R)
        answers = torch.arange(len(turned), device=images.device)[:, None].expand(logits.shape[:2])
        loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
        if not measure:
            return {"loss": loss}
        return {
            "loss": loss,
            "accuracy": share_right(logits, answers),
            "feature_spread": spread_of(features[:1]),  # of one orientation: images, not answers
        }

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(self.options.rotations)}
