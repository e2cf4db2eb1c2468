"""SwAV: swapping assignments between views (Caron et al. 2020)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dino_tutorial.evaluation.collapse import entropy
from dino_tutorial.losses import sinkhorn_knopp, swapped_prediction_loss
from dino_tutorial.methods.base import Method, Network, spread_of
from dino_tutorial.methods.queue import Queue
from dino_tutorial.models import BYOLHead
from dino_tutorial.models.heads import WeightNormLinear
from dino_tutorial.options import option
from dino_tutorial.training.distributed import rank_and_world
from dino_tutorial.views import ViewSpec, swav_views


@dataclass(frozen=True)
class SwAVOptions:
    """Settings of the objective; the defaults are the paper's for large batches.

    ``queue`` (0: none) adds that many earlier images to the batch when assignments are balanced,
    from ``queue_start_epochs`` on: a batch much smaller than ``prototypes`` needs company.
    """

    hidden_dim: int = option(2048, low=1)
    out_dim: int = option(128, low=1)
    prototypes: int = option(3000, low=2)
    temperature: float = option(0.1, low=1e-3, high=10)
    sinkhorn_temp: float = option(0.05, low=1e-3, high=10)
    sinkhorn_iters: int = option(3, low=1)
    freeze_prototypes_epochs: float = option(1, low=0)
    queue: int = option(0, low=0)
    queue_start_epochs: float = option(15, low=0)


class SwAV(Method):
    """Each view has to predict to which prototypes *another* view of its image was assigned.

    Assignments of the two global views are balanced over the batch by Sinkhorn-Knopp, which is
    what prevents collapse: there is no teacher. The prototypes are unit vectors; they stay as
    they are for the first epoch.

    Args:
        backbone: the encoder.
        options: see :class:`SwAVOptions`.
    """

    Options = SwAVOptions
    presets = {
        "smoke": {
            "views.local_crops": 2,
            "objective.hidden_dim": 64,
            "objective.out_dim": 32,
            "objective.prototypes": 16,
            "objective.freeze_prototypes_epochs": 0.25,
            "objective.queue": 64,
            "objective.queue_start_epochs": 1,
            "optim.lr": 4e-3,
        },
        # Optimizer, encoder and crops as for DINO at this scale. The queue holds 15 batches, as
        # the paper's for small batches does, so that each prototype has about 8 images.
        "laptop": {
            "views.local_crops": 2,
            "objective.hidden_dim": 512,
            "objective.out_dim": 128,
            "objective.prototypes": 128,
            "objective.freeze_prototypes_epochs": 0.5,
            "objective.queue": 960,
            "objective.queue_start_epochs": 1,
            "optim.lr": 4e-3,
            "optim.warmup_epochs": 1,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 7,
        },
        "gpu": {
            "views.global_scale": [0.3, 1.0],
            "views.local_scale": [0.1, 0.3],
            "views.local_crops": 6,
            "objective.prototypes": 512,
            "optim.lr": 5e-4,
            "optim.warmup_epochs": 10,
            "optim.weight_decay_final": 0.04,
        },
        # facebookresearch/swav scripts/swav_800ep_pretrain.sh: ResNet-50, LARS, 2 × 224 + 6 × 96,
        # batch 4096 and lr 4.8 for it, which is 0.3 for 256.
        "paper": {
            "views.global_scale": [0.14, 1.0],
            "views.local_crops": 6,
            "views.local_scale": [0.05, 0.14],
            "views.brightness": 0.8,
            "views.contrast": 0.8,
            "views.saturation": 0.8,
            "views.hue": 0.2,
            "model.arch": "resnet50",
            "optim.name": "lars",
            "optim.lr": 0.3,
            "optim.lr_final": 0.0048,
            "optim.warmup_epochs": 10,
            "optim.weight_decay": 1e-6,
            "optim.weight_decay_final": 1e-6,
            "optim.clip": 0.0,
            "train.epochs": 800,
            "train.batch_size": 4096,
        },
    }

    def __init__(self, backbone: nn.Module, options: SwAVOptions = SwAVOptions()):  # noqa: B008
        super().__init__()
        self.options = options
        # SwAV's projector is the same as BYOL's: linear, batch norm, ReLU, linear.
        head = BYOLHead(backbone.embed_dim, options.hidden_dim, options.out_dim)
        self.student = Network(backbone, head)
        self.prototypes = WeightNormLinear(options.out_dim, options.prototypes)
        self.queue = Queue(options.queue, 2, options.out_dim) if options.queue else None

    @staticmethod
    def view_specs(views) -> list[ViewSpec]:
        return swav_views(
            views.global_size,
            views.local_size,
            views.local_crops,
            views.global_scale,
            views.local_scale,
            **views.jitter(),
        )

    def schedules(self, total_steps: int, steps_per_epoch: int) -> dict[str, Tensor]:
        if self.queue is None:
            return {}
        start = round(self.options.queue_start_epochs * steps_per_epoch)
        return {"queue": (torch.arange(total_steps) >= start).double()}  # 1: it is in use

    def forward(self, views, values, measure):
        features, projections = self.student(views)  # (V, B, D), (V, B, out_dim)
        projections = normalize(projections, dim=-1)
        logits = self.prototypes(projections)  # (V, B, K)
        assignments = self._assign(logits[:2].detach(), values.get("queue", 0) > 0)
        loss = swapped_prediction_loss(logits, assignments, self.options.temperature)
        if self.queue is not None:
            self.queue.add(projections[:2].transpose(0, 1))
        if not measure:
            return {"loss": loss}
        return {
            "loss": loss,
            "assignment_entropy": entropy(assignments).mean(),
            "feature_spread": spread_of(features),
        }

    @torch.no_grad()
    def _assign(self, logits: Tensor, with_queue: bool) -> Tensor:
        """Balanced assignments (2, B, K) of the two global views, each balanced by itself."""
        o, batch = self.options, logits.shape[1]
        if with_queue:
            rank, world = rank_and_world()  # Sinkhorn-Knopp adds up what each process brings
            company = self.prototypes(self.queue.entries[rank::world].transpose(0, 1))
            logits = torch.cat([logits, company], dim=1)
        balanced = [sinkhorn_knopp(view, o.sinkhorn_temp, o.sinkhorn_iters) for view in logits]
        return torch.stack(balanced)[:, :batch]

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(self.options.prototypes)}

    def before_step(self, epoch: float) -> None:
        if epoch < self.options.freeze_prototypes_epochs:
            self.prototypes.weight.grad = None

    def after_step(self, values: dict[str, float]) -> None:
        if self.queue is not None:
            self.queue.advance()
