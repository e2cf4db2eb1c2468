"""SwAV: swapping assignments between views (Caron et al. 2020)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dino_tutorial.evaluation.collapse import entropy
from dino_tutorial.losses import sinkhorn_knopp, swapped_prediction_loss
from dino_tutorial.methods.base import Method, Network, an_encoder, spread_of
from dino_tutorial.methods.queue import Queue
from dino_tutorial.models import BYOLHead, Encoder
from dino_tutorial.models.heads import WeightNormLinear
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.parallel import rank_and_world
from dino_tutorial.views import ViewSpec, swav_views
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class SwAVSettings(Settings):
    """Settings of the objective; the defaults are the paper's for large batches.

    ``queue`` (0: none) adds that many earlier images to the batch when assignments are balanced,
    from ``queue_start_epochs`` on: a batch much smaller than ``prototypes`` needs queue entries.
    """

    hidden_dim: int = option(2048, "Width of the hidden layer of the head.", low=1)
    out_dim: int = option(128, "Width of the projections.", low=2)
    prototypes: int = option(3000, "K, the number of prototypes.", low=2)
    temperature: float = option(0.1, "τ, the student's temperature.", low=1e-3, high=10)
    sinkhorn_temp: float = option(0.05, "ε, the temperature of the assignments.", low=1e-3, high=10)
    freeze_prototypes_epochs: float = option(
        1, "Epochs at the start in which the prototypes stay as they are.", low=0
    )
    queue: int = option(
        0,
        "Projections of earlier batches that help to balance the prototypes; 0 has no queue.",
        low=0,
    )
    queue_start_epochs: float = option(15, "Epochs before the queue is used.", low=0)


class SwAV(Method):
    """Each view has to predict to which prototypes *another* view of its image was assigned.

    Assignments of the two global views are balanced over the batch by Sinkhorn-Knopp, which is
    what prevents collapse: there is no teacher. The prototypes are unit vectors; they stay as
    they are for the first epoch.

    Args:
        backbone: the encoder.
        settings: see :class:`SwAVSettings`.
    """

    Settings = SwAVSettings

    @takes(backbone=an_encoder)
    def __init__(self, backbone: Encoder, settings: SwAVSettings = SwAVSettings()):
        super().__init__()
        self.settings = settings
        # SwAV's projector is the same as BYOL's: linear, batch norm, ReLU, linear.
        head = BYOLHead(backbone.embed_dim, settings.hidden_dim, settings.out_dim)
        self.student = Network(backbone, head)
        self.prototypes = WeightNormLinear(settings.out_dim, settings.prototypes)
        self.queue = Queue(settings.queue, 2, settings.out_dim) if settings.queue else None

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        return swav_views(
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
        if self.queue is None:
            return {}
        start = round(self.settings.queue_start_epochs * steps_per_epoch)
        return {"queue": (torch.arange(total_steps) >= start).double()}  # 1: it is in use

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        features, projections = self.student(views)  # (V, B, D), (V, B, out_dim)
        projections = normalize(projections, dim=-1)
        logits = self.prototypes(projections)  # (V, B, K)
        assignments = self.assign(logits[:2].detach(), values.get("queue", 0) > 0)
        loss = swapped_prediction_loss(logits, assignments, self.settings.temperature)
        if self.queue is not None:
            self.queue.add(projections[:2].transpose(0, 1))
        if not measure:
            return {"loss": loss}
        return {
            "loss": loss,
            "assignment_entropy": entropy(assignments).mean(),
            "feature_spread": spread_of(features[:2]),  # global views: local ones have another size
        }

    @torch.no_grad()
    def assign(self, logits: Float[Tensor, "2 B K"], with_queue: bool) -> Float[Tensor, "2 B K"]:
        """Balanced assignments (2, B, K) of the two global views, each balanced by itself."""
        o, batch = self.settings, logits.shape[1]
        if with_queue and self.queue is not None:
            rank, world = rank_and_world()  # Sinkhorn-Knopp adds up what each process brings
            queued = self.prototypes(self.queue.entries[rank::world].transpose(0, 1))
            logits = torch.cat([logits, queued], dim=1)
        balanced = [sinkhorn_knopp(view, o.sinkhorn_temp) for view in logits]
        return torch.stack(balanced)[:, :batch]

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(self.settings.prototypes)}

    def before_step(self, epoch: float) -> None:
        if epoch < self.settings.freeze_prototypes_epochs:
            self.prototypes.weight.grad = None

    def after_step(self, values: Mapping[str, float]) -> None:
        if self.queue is not None:
            self.queue.advance()
