"""What a method is: a student, perhaps a teacher, views of the images, a loss that joins them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.collapse import feature_spread
from dino_tutorial.methods.teacher import Teacher
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
    """One way to train an encoder, ready for the training loop.

    The loop calls it with the views of a batch and this step's values of :meth:`schedules`,
    takes ``loss`` from what it returns, steps the optimizer, and then calls :meth:`after_step`.

    A subclass declares ``Settings`` (its own settings, a dataclass) and ``presets`` (budget →
    dotted keys of the whole configuration), and registers itself in ``methods/__init__.py``. If
    it sets ``needs_labels``, it is built with ``n_classes`` and called with ``labels`` (B,); no
    other method ever sees a label. If it sets ``needs_teacher``, it is built with ``teacher``, the
    trained method of the run that ``objective.teacher`` names.
    """

    Settings: ClassVar[type]
    presets: ClassVar[dict[str, dict[str, Any]]]
    needs_labels: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False

    student: Network
    teacher: Teacher | None

    def __init__(self):
        super().__init__()
        self.teacher = None

    @staticmethod
    @abstractmethod
    def view_specs(views: Any) -> list[ViewSpec]:
        """The recipe of the views, from the ``views`` settings."""

    def schedules(self, total_steps: int, steps_per_epoch: int) -> dict[str, Tensor]:
        """Tables (total_steps,) of the values that :meth:`forward` takes.

        With a teacher, one is its ``momentum``.
        """
        return {}

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
    def networks(self) -> list[nn.Module]:
        """What a training step runs, and therefore what is worth compiling."""
        return [self.student] if self.teacher is None else [self.student, self.teacher.network]

    @property
    def constants(self) -> dict[str, float]:
        """Numbers that belong beside every logged row, such as ``ln_k``.

        K counts what the loss chooses among (prototypes, classes, candidates): ln K is the loss
        of an answer that gives all of them the same probability.
        """
        return {}

    def before_step(self, epoch: float) -> None:
        """Called between the backward pass and the optimizer's step, after clipping."""

    def after_step(self, values: dict[str, float]) -> None:
        """Called after the optimizer's step: the teacher, if there is one, follows the student."""
        if self.teacher is not None:
            self.teacher.update(self.student, values["momentum"])

    @property
    def encoder(self) -> nn.Module:
        """The backbone that is kept and evaluated: the teacher's, if there is one."""
        network = self.student if self.teacher is None else self.teacher.network
        return network.backbone


def refuse_local_crops(method: str, views: Any) -> None:
    """Say so when the ``views`` settings ask for crops that a method has no use for."""
    if views.local_crops:
        raise UserError(f"{method} has no use for local crops: set views.local_crops=0")


def share_right(logits: Tensor, answers: Tensor) -> Tensor:
    """How often the largest of the logits (..., K) is at the answer (...): a share in [0, 1]."""
    return (logits.argmax(dim=-1) == answers).float().mean()


def spread_of(features: Tensor) -> Tensor:
    """Feature spread of (V, B, D) features: 1 when they fill the sphere, 0 when constant."""
    with torch.no_grad():
        return feature_spread(features.flatten(0, 1).float())
