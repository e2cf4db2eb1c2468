"""What a method is: a student, a teacher, views of the images, and a loss that joins them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dino_tutorial.evaluation.collapse import feature_spread
from dino_tutorial.training.teacher import Teacher
from dino_tutorial.views import DrawnMasks, ViewSpec


class Network(nn.Module):
    """A backbone and the head that the loss looks at; the head is thrown away after training."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """View groups (V_g, B, 3, S_g, S_g) to features (V, B, D) and head outputs (V, B, K)."""
        batch = views[0].shape[1]
        features = self.backbone([group.flatten(0, 1) for group in views])  # (V·B, D)
        outputs = self.head(features)  # (V·B, K)
        return features.unflatten(0, (-1, batch)), outputs.unflatten(0, (-1, batch))


class Method(nn.Module, ABC):
    """One self-supervised method, ready for the training loop.

    The loop calls it with the views of a batch and this step's values of :meth:`schedules`,
    takes ``loss`` from what it returns, steps the optimizer, and then calls :meth:`after_step`.

    A subclass declares ``Options`` (its own settings, a dataclass) and ``presets`` (budget →
    dotted keys of the whole configuration), and registers itself in ``methods/__init__.py``.
    """

    Options: ClassVar[type]
    presets: ClassVar[dict[str, dict[str, Any]]]

    student: Network
    teacher: Teacher

    @staticmethod
    @abstractmethod
    def view_specs(views: Any) -> list[ViewSpec]:
        """The recipe of the views, from the ``views`` settings."""

    @abstractmethod
    def schedules(self, total_steps: int, steps_per_epoch: int) -> dict[str, Tensor]:
        """Tables (total_steps,) of the values that :meth:`forward` takes; one is ``momentum``."""

    @abstractmethod
    def forward(
        self, views: list[Tensor], values: dict[str, float], measure: bool
    ) -> dict[str, Tensor]:
        """Return ``loss`` and, if ``measure``, what the log shows (scalars, still on the device).

        Args:
            views: groups (V_g, B, 3, S_g, S_g), global views first.
            values: this step's entries of :meth:`schedules`.
            measure: whether this step is logged; measuring costs time.

        A method that draws masks is called with ``hidden`` too, the ``PatchMasks`` of these views.
        """

    def draw_masks(self, batch_size: int, generator: torch.Generator) -> DrawnMasks | None:
        """The patches to hide in the two global views of a whole (global) batch, or None."""
        return None

    @property
    def constants(self) -> dict[str, float]:
        """Numbers that belong beside every logged row, such as ln K."""
        return {}

    def before_step(self, epoch: float) -> None:
        """Called between the backward pass and the optimizer's step, after clipping."""

    def after_step(self, values: dict[str, float]) -> None:
        """Called after the optimizer's step: the teacher follows the student."""
        self.teacher.update(self.student, values["momentum"])

    @property
    def encoder(self) -> nn.Module:
        """The backbone that is kept and evaluated: the teacher's."""
        return self.teacher.network.backbone


def spread_of(features: Tensor) -> Tensor:
    """Feature spread of (V, B, D) features: 1 when they fill the sphere, 0 when constant."""
    with torch.no_grad():
        return feature_spread(features.flatten(0, 1).float())
