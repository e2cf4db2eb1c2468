"""Distillation from soft targets (Hinton et al. 2015)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.options import number, takes


@takes(temperature=number(0, 1e6, above=True))
def distillation_loss(
    student_logits: Float[Tensor, "B K"],
    teacher_logits: Float[Tensor, "B K"],
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    """τ² · KL(teacher ‖ student), both softened by the same temperature.

    The gradient of the divergence shrinks as 1/τ²; the factor takes that back, so that τ can be
    changed without the learning rate. The teacher gets no gradient.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: τ; 1 compares the distributions as they are.

    Returns:
        Scalar, the mean over the batch; 0 when both distributions are equal.

    Raises:
        UserError: if the shapes differ.

    Source: Hinton, Vinyals and Dean 2015, section 2.
    """
    student = (student_logits.float() / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.detach().float() / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
