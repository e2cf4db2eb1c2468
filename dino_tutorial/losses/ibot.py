"""iBOT's loss: the student names what lies behind each masked patch."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from dino_tutorial.losses.centering import Center
from dino_tutorial.options import number, takes, tensor, whole


@takes(
    student_logits=tensor("M>=0 K", "float"),
    targets=tensor("M>=0 K", "float"),
    weights=tensor("M>=0", "float"),
    n_images=whole(),
    student_temp=number(0, 1e6, above=True),
)
def ibot_loss(
    student_logits: Float[Tensor, "M K"],
    targets: Float[Tensor, "M K"],
    weights: Float[Tensor, " M"],
    n_images: int,
    student_temp: float,
) -> Float[Tensor, ""]:
    """``(1/B) Σ_images (1/M_i) Σ_patches H(p_t, p_s)``, over the masked patches of each image.

    Only logits of masked patches are given, gathered from all images of the batch. Each image that
    has any counts the same, however many it has; images without any count as zero.

    Args:
        student_logits: (M, K) of the student, who sees the mask token in these M places.
        targets: p_t (M, K), the teacher's probabilities in the same places, however they were made
            (centering, Sinkhorn-Knopp); each row sums to 1.
        weights: (M,), 1 / M_i for a patch of image i, which has M_i masked patches.
        n_images: B, all images of the batch, those without masked patches too.
        student_temp: τ_s.

    Returns:
        Scalar float32; 0 where nothing is masked.

    Raises:
        UserError: if the shapes do not fit together.

    Source: Zhou et al. 2022, equation 2; facebookresearch/dinov2 ``ibot_patch_loss.py``.
    """
    entropies = cross_entropy(student_logits.float() / student_temp, targets, reduction="none")
    return (entropies * weights).sum() / n_images


class iBOTPatchLoss(Center):
    """:func:`ibot_loss` for a teacher that is centred and sharpened, and the center that does it.

    The center moves as :class:`~dino_tutorial.losses.DINOLoss` moves its own.

    Args:
        out_dim: K, the number of prototypes.
        student_temp: τ_s.
        center_momentum: m, as DINO's.

    Source: Zhou et al. 2022, equation 2; facebookresearch/dinov2 ``ibot_patch_loss.py``.
    """

    def __init__(
        self, out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9
    ) -> None:
        super().__init__(out_dim, center_momentum)
        self.student_temp = student_temp

    @takes(
        student_logits=tensor("M>=0 K", "float"),
        teacher_logits=tensor("M>=0 K", "float"),
        teacher_temp=number(0, 1e6, above=True),
        weights=tensor("M>=0", "float"),
        n_images=whole(),
    )
    def forward(
        self,
        student_logits: Float[Tensor, "M K"],
        teacher_logits: Float[Tensor, "M K"],
        teacher_temp: float,
        weights: Float[Tensor, " M"],
        n_images: int,
    ) -> Float[Tensor, ""]:
        """Return the scalar loss.

        Args:
            student_logits: (M, K) of the student, who sees the mask token in these M places.
            teacher_logits: (M, K) of the teacher in the same places; no gradient flows into them.
            teacher_temp: τ_t, this step's teacher temperature.
            weights: (M,), 1 / (masked patches of the same image).
            n_images: B, all images of the batch, those without masked patches too.

        Raises:
            UserError: if the shapes do not fit together.
        """
        targets = self.probabilities(teacher_logits, teacher_temp)
        loss = ibot_loss(student_logits, targets, weights, n_images, self.student_temp)
        self.note(teacher_logits)
        self.update()
        return loss
