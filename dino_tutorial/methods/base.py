"""What a method is: a student, perhaps a teacher, views of the images, a loss that joins them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.collapse import feature_spread
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.models import Encoder
from dino_tutorial.options.arguments import shown
from dino_tutorial.views import DrawnMasks, ViewSpec
from dino_tutorial.views.masks import DrawnBlocks
from dino_tutorial.views.settings import ViewSettings


class Network(nn.Module):
    """A backbone and the head that the loss looks at; the head is thrown away after training."""

    def __init__(self, backbone: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]]
    ) -> tuple[Float[Tensor, "V B D"], Float[Tensor, "V B K"]]:
        """View groups (V_g, B, 3, S_g, S_g) to features (V, B, D) and head outputs (V, B, K)."""
        batch = views[0].shape[1]
        features = self.backbone([group.flatten(0, 1) for group in views])  # (V·B, D)
        outputs = self.head(features)  # (V·B, K)
        return features.unflatten(0, (-1, batch)), outputs.unflatten(0, (-1, batch))


class Method(nn.Module, ABC):
    """One way to train an encoder. This class is all that the rest of the package knows of it.

    What the training loop does at each step: it draws the views that :meth:`view_specs` asks for,
    and the masks of :meth:`draw_masks`, if any; calls :meth:`forward` with this step's values of
    :meth:`schedules`; runs ``loss`` backwards; clips; calls :meth:`before_step`; steps the
    optimizer; calls :meth:`after_step`. At the end :attr:`encoder` is kept and evaluated.

    A subclass has to declare ``Settings``, a frozen dataclass that can be built without arguments
    (``objective.*`` in a configuration, see :func:`dino_tutorial.options.option`); to be built
    from ``(backbone, settings)``; to set ``student`` (and ``teacher``, if it has one); and to
    write :meth:`view_specs` and :meth:`forward`. The first line of its docstring is its help.
    :func:`dino_tutorial.runs.register` makes it known by a name, with its presets.

    Attributes:
        Settings: the dataclass of its settings.
        title: its name in figures and reports; None is the class's own.
        needs_labels: it is built with ``n_classes`` too, and called with ``labels`` (B,); no
            other method ever sees a label.
        needs_teacher: it is built with ``teacher`` too, the trained method of the run that
            ``objective.teacher`` names.
        student: what learns, a backbone and a head. What else has parameters learns as well.
        teacher: an average of the student, or None.
    """

    Settings: ClassVar[type]
    title: ClassVar[str | None] = None
    needs_labels: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False

    student: Network
    teacher: Teacher[Network] | None

    def __init__(self) -> None:
        super().__init__()
        self.teacher = None

    @staticmethod
    @abstractmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        """The recipe of the views, from the ``views`` settings."""

    def schedules(
        self, total_steps: int, steps_per_epoch: int
    ) -> dict[str, Float[Tensor, " steps"]]:
        """Tables (total_steps,) of the values that :meth:`forward` takes.

        With a teacher, one is its ``momentum``.
        """
        return {}

    @abstractmethod
    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        """The loss of a batch and, if asked, what the log shows.

        A method with ``needs_labels`` is called with ``labels`` (B,) too; one that draws masks
        with ``masks``, the :class:`~dino_tutorial.views.PatchMasks` of these views.

        Args:
            views: groups (V_g, B, 3, S_g, S_g), global views first.
            values: this step's entries of :meth:`schedules`.
            measure: whether this step is logged; measuring costs time.

        Returns:
            Scalars by name, still on the device. ``loss`` always. With ``measure`` anything else,
            and under these names the bar, the report and the diagnosis of collapses understand it:
            ``feature_spread`` (:func:`spread_of`), ``teacher_entropy`` and ``batch_entropy``
            (against ``ln_k``), ``accuracy`` in [0, 1], ``ln_k`` where it depends on the batch.
        """

    def draw_masks(
        self, batch_size: int, generator: torch.Generator
    ) -> DrawnMasks | DrawnBlocks | None:
        """The patches to mask in the two global views of a whole (global) batch, or None."""
        return None

    def lacks_images(self, n_images: int, world: int) -> str | None:
        """Why the loss cannot be had from so few images, as in "… has no negatives", or None.

        Asked before training. Batch norm is no matter of this one: it is found in the modules.

        Args:
            n_images: that :meth:`forward` is given at a time, in each process.
            world: number of processes.
        """
        return None

    @property
    def networks(self) -> list[nn.Module]:
        """What a training step runs, and therefore what is worth compiling."""
        return [self.student] if self.teacher is None else [self.student, self.teacher.network]

    @property
    def backbones(self) -> list[Encoder]:
        """The student's, and that of the teacher which follows it, if there is one."""
        networks = [self.student] if self.teacher is None else [self.student, self.teacher.network]
        return [network.backbone for network in networks]

    @property
    def constants(self) -> dict[str, float]:
        """Numbers that belong beside every logged row, such as ``ln_k``.

        K counts what the loss chooses among (prototypes, classes, candidates): ln K is the loss
        of an output that gives all of them the same probability.
        """
        return {}

    def before_step(self, epoch: float) -> None:
        """Called between the backward pass and the optimizer's step, after clipping."""

    def after_step(self, values: Mapping[str, float]) -> None:
        """Called after the optimizer's step: the teacher, if there is one, follows the student."""
        if self.teacher is not None:
            self.teacher.update(self.student, values["momentum"])

    @property
    def encoder(self) -> Encoder:
        """The backbone that is kept and evaluated, the teacher's if there is one."""
        network = self.student if self.teacher is None else self.teacher.network
        return network.backbone


def refuse_local_crops(method: str, views: ViewSettings) -> None:
    """Say so when the ``views`` settings ask for crops that a method has no use for."""
    if views.local_crops:
        raise UserError(f"{method} has no use for local crops: set views.local_crops=0")


def accuracy(logits: Float[Tensor, "*n K"], targets: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
    """How often the largest of the logits (…, K) is at the target (…): a share in [0, 1]."""
    return (logits.argmax(dim=-1) == targets).float().mean()


def spread_of(features: Float[Tensor, "V B D"]) -> Float[Tensor, ""]:
    """Feature spread of (V, B, D) features: 1 when they fill the sphere, 0 when constant.

    The V views have to be of one kind: features that tell sizes or places apart, and no images,
    would seem to be spread. See :func:`spread_within` for others.
    """
    with torch.no_grad():
        return feature_spread(features.flatten(0, 1).float())


def spread_within(features: Float[Tensor, "V B D"]) -> Float[Tensor, ""]:
    """The feature spread over the images of each of V views by itself, averaged over views."""
    return torch.stack([spread_of(view[None]) for view in features]).mean()


def an_encoder(name: str, value: object) -> None:
    """Refuse what is no network that a method can train.

    Raises:
        UserError: it is no module, or does not say how wide its features are.
    """
    if not isinstance(value, nn.Module) or not isinstance(
        getattr(value, "embed_dim", None), Integral
    ):
        raise UserError(
            f"{name} wants an encoder that has the width of its features as embed_dim, such as "
            f"vit_tiny(), not {shown(value)}"
        )
