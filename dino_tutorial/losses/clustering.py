"""Online clustering: balanced assignments to prototypes, and SwAV's loss that swaps them."""

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.losses.fused import fused_dino_loss
from dino_tutorial.options import number, takes, tensor, whole
from dino_tutorial.parallel import logsumexp_over_processes


@takes(logits=tensor("B>=0 K", "float"), temp=number(0, 1e6, above=True), n_iters=whole())
@torch.no_grad()
def sinkhorn_knopp(
    logits: Float[Tensor, "B K"], temp: float, n_iters: int = 3
) -> Float[Tensor, "B K"]:
    """Soft assignments of samples to prototypes in which all prototypes are used equally.

    Starting at ``exp(logits / temp)``, each iteration gives every prototype (column) the same
    mass over the whole batch, then every sample (row) mass 1. The batch is that of all processes
    together; how many samples each of them brings may differ. All is done on logarithms, so
    that no logits overflow and no row vanishes.

    Args:
        logits: (B, K), of any floating-point type, not yet divided by a temperature.
        temp: the ε of SwAV (0.05), the teacher temperature of DINOv2.
        n_iters: iterations; with 3 the rows sum to 1 and the columns nearly to B / K.

    Returns:
        (B, K) float32 without gradient; each row sums to 1.

    Raises:
        UserError: if the logits are not (B, K), or temp or n_iters is not positive.

    Source: Caron et al. 2020 (SwAV), section 3.1 and appendix A; Cuturi 2013.
    """
    log_q = logits.float() / temp
    for _ in range(n_iters):
        log_q = log_q - logsumexp_over_processes(log_q)  # each prototype: the same mass
        log_q = log_q.log_softmax(dim=1)  # each sample: mass 1
    return log_q.exp()


@takes(logits=tensor("V>1 B K", "float"), temp=number(0, 1e6, above=True))
def swapped_prediction_loss(
    logits: Float[Tensor, "V B K"], assignments: Float[Tensor, "2 B K"], temp: float
) -> Float[Tensor, ""]:
    """Cross-entropy of each view's prediction against the assignment of every other view.

    Only the two global views have assignments; a view is never compared with its own. The mean
    over the ``2V − 2`` pairs and over the batch.

    Args:
        logits: (V, B, K) cosines of the views with the prototypes, global views first.
        assignments: (2, B, K) of the two global views, rows that sum to 1; constants.
        temp: τ, by which the logits are divided before the softmax.

    Returns:
        Scalar. Predictions that say nothing give ln K.

    Raises:
        UserError: if the shapes do not fit together.

    Source: Caron et al. 2020 (SwAV), equations 1 and 2, and section 3.2 for multi-crop.
    """
    return fused_dino_loss(logits, assignments.float(), temp)  # the same pairs as DINO's
