"""DINO's loss: cross-entropy between a centred, sharpened teacher and the student, pair by pair."""

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.losses.centering import Center
from dino_tutorial.losses.fused import fused_dino_loss
from dino_tutorial.options import check_number, number, takes, tensor


@takes(student_logits=tensor("V>1 B K", "float"), student_temp=number(0, 1e6, above=True))
def dino_loss(
    student_logits: Float[Tensor, "V B K"], targets: Float[Tensor, "2 B K"], student_temp: float
) -> Float[Tensor, ""]:
    """The mean of ``−Σ_k p_t · log p_s`` over all pairs of a teacher's and *another* student view.

    The first two student views are the two global crops that the teacher sees too; a view is
    never compared with itself, which leaves ``2V − 2`` pairs.

    Args:
        student_logits: (V, B, K), global views first, then local ones.
        targets: p_t (2, B, K), the teacher's probabilities of the two global views, however they
            were made (centering, Sinkhorn-Knopp).
        student_temp: τ_s.

    Returns:
        Scalar float32, the mean over the pairs and over the batch.

    Source: Caron et al. 2021, equation 3 and algorithm 1.
    """
    views, batch, _ = student_logits.shape
    log_p = (student_logits.float() / student_temp).log_softmax(dim=-1)
    pairs = -torch.einsum("tbk,vbk->tv", targets.float(), log_p) / batch
    return (pairs.sum() - pairs.diagonal().sum()) / (2 * views - 2)


_LOGITS = tensor("V B K", "float")


class DINOLoss(Center):
    """:func:`dino_loss` for a teacher that is centred and sharpened, and the center that does it.

    In training mode ``center`` moves *after* the loss of the same call. A method's step may have
    several micro-batches, so it calls the parts that :meth:`forward` calls: ``probabilities``, the
    loss and ``note`` for each of them, ``update`` once.

    Args:
        out_dim: K, the number of prototypes.
        student_temp: τ_s of the paper.
        center_momentum: m of the paper's equation 4.

    Source: Caron et al. 2021, equations 1, 3 and 4 and algorithm 1.
    """

    def __init__(
        self, out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9
    ) -> None:
        super().__init__(out_dim, center_momentum)
        check_number("student_temp", student_temp, 0, 1e6, above=True)
        self.student_temp = student_temp

    def forward(
        self,
        student_logits: Float[Tensor, "V B K"],
        teacher_logits: Float[Tensor, "2 B K"],
        teacher_temp: float,
    ) -> Float[Tensor, ""]:
        """Return the scalar loss.

        Args:
            student_logits: (V, B, K), global views first, then local ones.
            teacher_logits: (2, B, K), the two global views; no gradient flows into them.
            teacher_temp: τ_t, this step's teacher temperature.

        Raises:
            UserError: if the shapes do not fit together.
        """
        check_number("teacher_temp", teacher_temp, 0, 1e6, above=True)
        _LOGITS("student_logits", student_logits)
        _LOGITS("teacher_logits", teacher_logits)
        self._check(student_logits, teacher_logits)
        targets = self.probabilities(teacher_logits, teacher_temp)
        loss = fused_dino_loss(student_logits, targets, self.student_temp)
        self.note(teacher_logits)
        self.update()
        return loss

    def _check(self, student_logits: Tensor, teacher_logits: Tensor) -> None:
        views, batch, out_dim = student_logits.shape
        if teacher_logits.shape != (2, batch, out_dim) or views < 2:
            raise UserError(
                f"DINOLoss wants student logits (V ≥ 2, B, K) and teacher logits (2, B, K), "
                f"got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
            )
        if out_dim != self.center.shape[1]:
            raise UserError(
                f"the logits have K = {out_dim}, the center {self.center.shape[1]}: make the loss "
                "for as many prototypes as the head has"
            )
        if not student_logits.device == teacher_logits.device == self.center.device:
            raise UserError(
                f"the logits lie on {student_logits.device} and {teacher_logits.device}, the loss "
                f"on {self.center.device}: bring them to one device with .to(...)"
            )
