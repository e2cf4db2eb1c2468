"""Distillation of a large teacher into a small student, by DINOv2's own losses (Oquab et al.)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from dino_tutorial.errors import UserError
from dino_tutorial.methods.base import Method, an_encoder
from dino_tutorial.methods.dino import DINO, PrototypeNetwork
from dino_tutorial.methods.dinov2 import (
    CENTERINGS,
    DINOv2,
    DINOv2Settings,
    Output,
    PatchNetwork,
)
from dino_tutorial.methods.teacher import Frozen
from dino_tutorial.models import Encoder
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.views import DrawnMasks, PatchMasks


@dataclass(frozen=True)
class DistillSettings(Settings):
    """Settings of the objective. What is null is as in the teacher's run, at its end.

    The student gets heads of the teacher's shapes: both choose among the same prototypes.
    ``teacher`` is the folder of a finished run of dino, dinov2 or distill; its averaged network
    teaches, heads included. ``momentum`` is that of the student's own average, which is kept.
    """

    teacher: str | None = option(
        None,
        "The folder of a finished run of dino, dinov2 or distill; its averaged network teaches.",
    )
    student_temp: float | None = option(
        None, "τ_s, the student's temperature; null is the teacher's run's.", low=1e-3, high=10
    )
    teacher_temp: float | None = option(
        None, "τ_t, the teacher's temperature; null is its run's at the end.", low=1e-3, high=10
    )
    centering: str | None = option(
        None,
        "What keeps the prototypes in use; null is as in the teacher's run.",
        among=(*CENTERINGS, None),
    )
    freeze_last_layer_epochs: float = option(
        1, "Epochs at the start in which the prototypes stay as they are.", low=0
    )
    momentum: float = option(
        0.994,
        "Momentum of the student's own average, which is kept, at the first step.",
        low=0,
        high=1,
    )
    momentum_final: float = option(
        1.0, "Where that momentum ends; a cosine leads there.", low=0, high=1
    )
    dino_weight: float = option(1.0, "Weight of DINO's loss, on class tokens.", low=0)
    ibot_weight: float = option(
        1.0, "Weight of iBOT's loss, on all patches of the global crops; 0 leaves it out.", low=0
    )
    koleo_weight: float = option(
        0.1, "Weight of KoLeo, which spreads class tokens out; 0 leaves it out.", low=0
    )


class Distill(DINOv2):
    """DINOv2 with a teacher that has been trained already, and stays as it is.

    Three more things change, as in the paper: nothing is masked for the student, so the patch
    loss runs over all patches of both global crops; the student has no stochastic depth (leave
    ``model.drop_path_rate`` at 0); and what is kept is the moving average of the student, which
    here teaches nobody.

    Checkpoints hold a fingerprint of the teacher in place of its weights, which lie in its run.

    Args:
        backbone: the student's encoder; with a patch loss, its patch size is the teacher's.
        settings: see :class:`DistillSettings`.
        teacher: the trained method whose averaged network teaches.

    Raises:
        UserError: the teacher has no heads that this student could be compared with.

    Source: Oquab et al. 2024, section 5, "Model distillation".
    """

    Settings = DistillSettings
    title = "Distillation"
    needs_teacher = True

    teacher_fingerprint: Tensor

    @takes(backbone=an_encoder)
    def __init__(self, backbone: Encoder, settings: DistillSettings, teacher: Method) -> None:
        trained = _check_teacher(teacher, backbone, settings)
        network = trained.teacher.network
        if not settings.ibot_weight:
            network = PrototypeNetwork(network.backbone, network.head)
        super().__init__(backbone, _with_teachers_heads(settings, trained))
        self.frozen = Frozen(network)
        self.loss.center.copy_(trained.loss.center)
        if isinstance(self.student, PatchNetwork):
            self.student.backbone.mask_token.requires_grad_(False)  # nothing is masked
            assert isinstance(trained, DINOv2)  # only it has a head for patches
            self.patch_loss.center.copy_(trained.patch_loss.center)
        mark = fingerprint(network)
        self.register_buffer("teacher_fingerprint", mark.clone())
        nn.Module.register_state_dict_post_hook(self, _leave_out_frozen)
        nn.Module.register_load_state_dict_post_hook(self, _check_same_teacher(mark))

    @property
    def guide(self) -> Frozen:
        """The network that gives the targets, the trained one and not the student's average."""
        return self.frozen

    def draw_masks(self, batch_size: int, generator: torch.Generator) -> DrawnMasks | None:
        """All patches of both global crops: they are compared, not masked."""
        if not isinstance(self.student, PatchNetwork):
            return None
        rows, columns = self.student.backbone.grid_size
        return DrawnMasks(torch.ones(2, batch_size, rows * columns, dtype=torch.bool))

    def _student_output(self, views: list[Tensor], masks: PatchMasks) -> Output:
        return Output(*self.student(views, masks, masked=False))

    def _watched(self, guide: Output, student: Output) -> Tensor:
        """The student's: a network that has been trained cannot collapse any more."""
        return student.features[:2].detach()


def fingerprint(network: nn.Module) -> UInt8[Tensor, "32"]:
    """(32,) uint8: the SHA-256 of all weights and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).clone()


def _check_teacher(teacher: Method, student: Encoder, settings: DistillSettings) -> DINO:
    """The teacher; or say in one sentence why it cannot teach this student."""
    if not isinstance(teacher, DINO):
        raise UserError(
            f"the teacher {settings.teacher} was trained by {type(teacher).__name__}, whose head "
            f"has no prototypes to compare over: name a run of dino, dinov2 or distill"
        )
    if not settings.ibot_weight:
        return teacher
    if not isinstance(teacher.teacher.network, PatchNetwork):
        raise UserError(
            f"the teacher {settings.teacher} has no head for patches: teach with a run of dinov2, "
            f"or set objective.ibot_weight=0"
        )
    theirs = teacher.teacher.network.backbone.patch_size
    ours = getattr(student, "patch_size", theirs)
    if ours != theirs:
        raise UserError(
            f"the teacher {settings.teacher} has patches of {theirs} pixels and the student of "
            f"{ours}, so they cannot be compared: set model.patch_size={theirs}, or "
            f"objective.ibot_weight=0"
        )
    return teacher


def _with_teachers_heads(settings: DistillSettings, teacher: DINO) -> DINOv2Settings:
    """The teacher's objective at its end, with what the student's settings replace."""
    inherited = {f.name: getattr(teacher.settings, f.name) for f in fields(teacher.settings)}
    own = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "teacher"}
    own = {name: value for name, value in own.items() if value is not None}
    return DINOv2Settings(**{**inherited, "teacher_temp_warmup_epochs": 0, **own})


def _leave_out_frozen(
    module: Distill, state: dict[str, Tensor], prefix: str, local_metadata: dict[str, object]
) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}frozen.")]:
        del state[name]


def _check_same_teacher(mark: Tensor) -> Callable[[Distill, _IncompatibleKeys], None]:
    """A hook that does not miss the frozen weights, as long as they are those of before."""

    def check(module: Distill, incompatible: _IncompatibleKeys) -> None:
        keys = incompatible.missing_keys
        keys[:] = [name for name in keys if not name.startswith("frozen.")]
        if not torch.equal(module.teacher_fingerprint.cpu(), mark):
            raise UserError(
                "the checkpoint was distilled from another teacher than the one that lies in its "
                "folder now: give the first one back, or start a new run"
            )

    return check
