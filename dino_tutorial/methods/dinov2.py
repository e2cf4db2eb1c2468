"""DINOv2: DINO's loss on the image, iBOT's on its patches, KoLeo between images (Oquab et al.)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.collapse import entropy
from dino_tutorial.losses import KoLeoLoss, ibot_loss, iBOTPatchLoss, sinkhorn_knopp
from dino_tutorial.losses.centering import Center
from dino_tutorial.losses.fused import fused_dino_loss, fused_ibot_loss
from dino_tutorial.methods.base import an_encoder
from dino_tutorial.methods.dino import DINO, DINOSettings, PrototypeNetwork, measures
from dino_tutorial.methods.teacher import Frozen, Teacher
from dino_tutorial.models import DINOHead, Encoder, VisionTransformer
from dino_tutorial.options import option, takes
from dino_tutorial.views import DrawnMasks, PatchMasks
from dino_tutorial.views.masks import DrawnBlocks, draw_blocks

CENTERINGS = ("softmax", "sinkhorn")


@dataclass(frozen=True)
class DINOv2Settings(DINOSettings):
    """DINO's settings with DINOv2's defaults (``ssl_default_config.yaml``), and its own.

    With ``ibot_weight = koleo_weight = 0`` and ``centering = "softmax"`` this is DINO.
    """

    norm_last_layer: bool = option(
        False, "Keep all prototypes at length 1; otherwise their lengths are learned."
    )
    teacher_temp: float = option(
        0.07,
        "τ_t, the teacher's temperature after its warm-up; smaller is sharper.",
        low=1e-3,
        high=10,
    )
    teacher_temp_warmup_epochs: float = option(
        30, "Epochs over which the teacher's temperature goes from start to end.", low=0
    )
    momentum: float = option(
        0.992,
        "λ, the momentum of the teacher at the first step: the share that stays of it.",
        low=0,
        high=1,
    )
    centering: str = option(
        "softmax",
        "What keeps the prototypes in use: a running center, or Sinkhorn-Knopp on each batch.",
        among=CENTERINGS,
    )
    dino_weight: float = option(1.0, "Weight of DINO's loss, on class tokens.", low=0)
    ibot_weight: float = option(
        1.0, "Weight of iBOT's loss, on masked patches; 0 masks nothing.", low=0
    )
    koleo_weight: float = option(
        0.1, "Weight of KoLeo, which spreads class tokens out; 0 leaves it out.", low=0
    )
    patch_out_dim: int = option(65536, "K', the number of prototypes of patches.", low=2)
    patch_bottleneck_dim: int = option(
        256, "Width of the normalised vectors that are compared with them.", low=2
    )
    mask_share: float = option(0.5, "Share of the global crops that are masked.", low=0.01, high=1)
    mask_ratio: tuple[float, float] = option(
        (0.1, 0.5),
        "Smallest and largest share of the patches that are masked in such a crop.",
        low=0,
        high=1,
    )


class Output(NamedTuple):
    """A network's features (V, B, D) and logits (V, B, K), and those (M, K') of masked patches."""

    features: Float[Tensor, "V B D"]
    logits: Float[Tensor, "V B K"]
    patch_logits: Float[Tensor, "M K2"] | None = None


class PatchNetwork(PrototypeNetwork):
    """A vision transformer with one head for class tokens and another for patch tokens."""

    backbone: VisionTransformer

    def __init__(self, backbone: VisionTransformer, head: DINOHead, patch_head: DINOHead) -> None:
        super().__init__(backbone, head)
        self.patch_head = patch_head

    def forward(  # type: ignore[override]  # DINOv2 alone calls it, and always with masks
        self, views: list[Float[Tensor, "_ B 3 _ _"]], masks: PatchMasks, masked: bool
    ) -> tuple[Float[Tensor, "V B D"], Float[Tensor, "V B K"], Float[Tensor, "M K2"]]:
        """View groups to features (V, B, D), logits (V, B, K) and patch logits (M, K').

        Args:
            views: groups (V_g, B, 3, S_g, S_g); the first two views are the global ones.
            masks: the patches of the global views that the patch head is asked for.
            masked: whether the backbone sees the mask token in their place.
        """
        batch = views[0].shape[1]
        local = [views[0][2:], *views[1:]] if len(views[0]) > 2 else views[1:]
        seen = self.backbone.forward_features(
            views[0][:2].flatten(0, 1), masks.masks if masked else None
        )
        rest = [self.backbone(group.flatten(0, 1)) for group in local]
        features = torch.cat([seen.cls, *rest])  # (V·B, D)
        logits = self.head(features)
        patches = seen.patches.flatten(0, 1).index_select(0, masks.indices)  # (M, D)
        return (
            features.unflatten(0, (-1, batch)),
            logits.unflatten(0, (-1, batch)),
            self.patch_head(patches),
        )


class DINOv2(DINO):
    """DINO, and the teacher's output for each patch that is masked for the student.

    Half of the global crops are masked for the student; the teacher sees all of them. Only masked
    patches go through the patch head. KoLeo acts on the student's class tokens before the head,
    for each global crop by itself, so never between two crops of one image.

    The targets come from :attr:`guide`, which here is the teacher. A method whose targets come
    from another network, as in distillation, overrides it.

    Args:
        backbone: the student's vision transformer; the teacher starts as a copy.
        settings: see :class:`DINOv2Settings`.

    Source: Oquab et al. 2024, section 4; facebookresearch/dinov2 ``ssl_meta_arch.py``.
    """

    Settings: ClassVar[type] = DINOv2Settings

    settings: DINOv2Settings

    @takes(backbone=an_encoder)
    def __init__(self, backbone: Encoder, settings: DINOv2Settings = DINOv2Settings()):
        if not settings.dino_weight + settings.ibot_weight + settings.koleo_weight:
            raise UserError(
                "objective.dino_weight, ibot_weight and koleo_weight are all 0, so nothing is "
                "to be learned: give one of them a weight"
            )
        super().__init__(backbone, settings)
        self.koleo = KoLeoLoss()
        if isinstance(self.student, PatchNetwork):
            self.student.backbone.mask_token.requires_grad_(True)
            self.patch_loss = iBOTPatchLoss(
                settings.patch_out_dim, settings.student_temp, settings.center_momentum
            )

    @property
    def guide(self) -> Teacher[PrototypeNetwork] | Frozen:
        """The network that gives the targets."""
        return self.teacher

    @property
    def compares_patches(self) -> bool:
        return self.settings.ibot_weight > 0

    @property
    def networks(self) -> list[nn.Module]:
        return [self.student, self.guide.network]

    @property
    def heads(self) -> list[DINOHead]:
        patches = [self.student.patch_head] if isinstance(self.student, PatchNetwork) else []
        return [*super().heads, *patches]

    def _network(self, backbone: Encoder) -> PrototypeNetwork:
        if not self.compares_patches:
            return super()._network(backbone)
        if not isinstance(backbone, VisionTransformer):
            raise UserError(
                "DINOv2 masks patches, which only a vision transformer has: choose a model.arch "
                "that begins with vit, or objective.ibot_weight=0"
            )
        o, width = self.settings, backbone.embed_dim
        return PatchNetwork(
            backbone,
            self._head(width, o.out_dim, o.head_bottleneck_dim),
            self._head(width, o.patch_out_dim, o.patch_bottleneck_dim),
        )

    def draw_masks(
        self, batch_size: int, generator: torch.Generator
    ) -> DrawnMasks | DrawnBlocks | None:
        """Blocks of patches in half of the global crops."""
        if not isinstance(self.student, PatchNetwork):
            return None
        o, (rows, columns) = self.settings, self.student.backbone.grid_size
        draw = draw_blocks(2 * batch_size, (rows, columns), generator, o.mask_ratio, o.mask_share)
        return DrawnBlocks(draw, torch.arange(2 * batch_size).view(2, batch_size))

    def lacks_images(self, n_images: int, world: int) -> str | None:
        """KoLeo looks for neighbours among the images of one process."""
        if n_images > 1 or not self.settings.koleo_weight:
            return None
        return "KoLeo keeps it away from others (objective.koleo_weight=0 leaves KoLeo out)"

    def forward(
        self,
        views: list[Float[Tensor, "_ B 3 _ _"]],
        values: Mapping[str, float],
        measure: bool,
        masks: PatchMasks | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        o, temp = self.settings, values["teacher_temp"]
        guide, student = self._outputs(views, masks)
        targets = self._targets(self.loss, guide.logits, temp)
        parts = {"dino_loss": fused_dino_loss(student.logits, targets, o.student_temp)}
        measured = measures(targets, self._watched(guide, student)) if measure else {}
        if masks is not None:
            assert guide.patch_logits is not None and student.patch_logits is not None
            patch_targets = self._targets(self.patch_loss, guide.patch_logits, temp)
            # Runs on the CPU keep the bits that they have always had; a GPU lacks memory first.
            on_cpu = student.patch_logits.device.type == "cpu"
            patch_loss = ibot_loss if on_cpu else fused_ibot_loss
            parts["ibot_loss"] = patch_loss(
                student.patch_logits, patch_targets, masks.weights, len(masks.masks), o.student_temp
            )
            if measure:
                measured["patch_entropy"] = _mean_entropy(patch_targets, masks.weights)
        if o.koleo_weight > 0:
            parts["koleo_loss"] = sum(self.koleo(crop) for crop in student.features[:2])
        weights = {
            "dino_loss": o.dino_weight,
            "ibot_loss": o.ibot_weight,
            "koleo_loss": o.koleo_weight,
        }
        loss = cast(Tensor, sum(weights[name] * part for name, part in parts.items()))
        return {"loss": loss} | (parts | measured if measure else {})

    def after_step(self, values: Mapping[str, float]) -> None:
        if self.compares_patches:
            self.patch_loss.update()
        super().after_step(values)

    def _outputs(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], masks: PatchMasks | None
    ) -> tuple[Output, Output]:
        """The guide's for the global views, and the student's for all, who sees less of them."""
        global_views = [views[0][:2]]
        if not self.compares_patches:
            return Output(*self.guide(global_views)), Output(*self.student(views))
        if masks is None:
            raise ValueError("DINOv2 with ibot_weight > 0 wants masks: give those of draw_masks")
        return (
            Output(*self.guide(global_views, masks, masked=False)),
            self._student_output(views, masks),
        )

    def _student_output(self, views: list[Tensor], masks: PatchMasks) -> Output:
        return Output(*self.student(views, masks, masked=True))

    def _watched(self, guide: Output, student: Output) -> Tensor:
        """The features (2, B, D) of the global crops whose spread would tell of a collapse."""
        return guide.features

    def _targets(
        self, center: Center, logits: Float[Tensor, "*rows K"], temp: float
    ) -> Float[Tensor, "*rows K"]:
        """The guide's probabilities (…, K): centred by the running mean, or balanced."""
        if self.settings.centering == "sinkhorn":
            return sinkhorn_knopp(logits.flatten(0, -2), temp).view(logits.shape)
        center.note(logits)
        return center.probabilities(logits, temp)


def _mean_entropy(targets: Float[Tensor, "M K"], weights: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """The mean over masked images of the mean entropy of their masked patches."""
    return (entropy(targets) * weights).sum() / weights.sum().clamp(min=1)
