"""MoCo: momentum contrast (He et al. 2020), with head and views of v2 (Chen et al. 2020)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dino_tutorial.losses import info_nce
from dino_tutorial.methods.base import Method, Network, an_encoder, refuse_local_crops, spread_of
from dino_tutorial.methods.queue import Queue
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.models import Encoder, ProjectionHead
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.views import ViewSpec, simclr_views
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class MoCoSettings(Settings):
    """Settings of the objective; the defaults are v2's."""

    hidden_dim: int = option(2048, "Width of the hidden layer of the head.", low=1)
    out_dim: int = option(128, "Width of queries and keys.", low=2)
    temperature: float = option(0.2, "τ, the temperature of the similarities.", low=1e-3, high=10)
    queue: int = option(65536, "Keys of earlier batches that serve as negatives.", low=1)
    momentum: float = option(
        0.999,
        "m, the momentum of the key network: the share that stays of it at each step.",
        low=0,
        high=1,
    )


class MoCo(Method):
    """A query has to find its key among the keys of many earlier batches, kept in a queue.

    The paper's query encoder is the student, its key encoder the teacher, whose slow change
    keeps the queue consistent. The student's backbone is the one that is kept, as in the paper.

    Keys are made with the teacher in evaluation mode, that is with the averaged statistics of
    batch norm. Statistics of the batch would tell a query which key is its own; the paper
    shuffles the batch over GPUs against that, this is Cai et al.'s way (2021, "Exponential
    moving average normalization"). It makes no difference to encoders without batch norm.

    Args:
        backbone: the student's encoder; the teacher starts as a copy.
        settings: see :class:`MoCoSettings`.
    """

    Settings = MoCoSettings

    teacher: Teacher[Network]

    @takes(backbone=an_encoder)
    def __init__(self, backbone: Encoder, settings: MoCoSettings = MoCoSettings()):
        super().__init__()
        self.settings = settings
        head = ProjectionHead(backbone.embed_dim, settings.hidden_dim, settings.out_dim)
        self.student = Network(backbone, head)
        self.teacher = Teacher(self.student)
        self.queue = Queue(settings.queue, settings.out_dim)

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        refuse_local_crops("moco", views)
        return simclr_views(views.global_size, views.global_scale, **views.operations())

    def schedules(
        self, total_steps: int, steps_per_epoch: int
    ) -> dict[str, Float[Tensor, " steps"]]:
        return {"momentum": torch.full((total_steps,), self.settings.momentum, dtype=torch.float64)}

    def train(self, mode: bool = True) -> "MoCo":
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        (pair,) = views  # one group: (2, B, 3, S, S)
        features, queries = self.student([pair[:1]])  # (1, B, D), (1, B, out_dim)
        keys = normalize(self.teacher([pair[1:]])[1][0].float(), dim=-1)  # (B, out_dim)
        loss = info_nce(queries[0], keys, self.queue.entries, self.settings.temperature)
        self.queue.add(keys)
        if not measure:
            return {"loss": loss}
        return {"loss": loss, "feature_spread": spread_of(features)}

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(1 + self.settings.queue)}

    def after_step(self, values: Mapping[str, float]) -> None:
        """The step's keys enter the queue; the teacher follows the student."""
        self.queue.advance()
        super().after_step(values)

    @property
    def encoder(self) -> Encoder:
        return self.student.backbone
