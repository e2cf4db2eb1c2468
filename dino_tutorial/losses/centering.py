"""Centering: the teacher's running mean, subtracted from what it says before it is sharpened."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.options import check_number, check_whole, number, takes, tensor
from dino_tutorial.parallel import sum_over_processes


class Center(nn.Module):
    """An exponential average of the teacher's mean logits, and the targets that it centres.

    One step of training: :meth:`probabilities` makes the targets and :meth:`note` takes the same
    logits down, both for each micro-batch; :meth:`update`, once at the end, moves the center. So
    a step's targets are centred by the steps before it, and gradient accumulation and several
    processes change nothing.

    Args:
        out_dim: K, the number of prototypes.
        center_momentum: m, the share of the old center that is kept.

    ``center`` (1, K) starts at zero and is saved with a model.

    Source: Caron et al. 2021, equation 4.
    """

    center: Float[Tensor, "1 K"]

    def __init__(self, out_dim: int, center_momentum: float = 0.9) -> None:
        super().__init__()
        check_whole("out_dim", out_dim, 1, 2**31 - 1)
        check_number("center_momentum", center_momentum, 0, 1)
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))
        self._sums: list[Tensor] = []  # of the logits that were noted, one (K,) a micro-batch
        self._count = 0  # how many logits these sums are of

    @takes(teacher_logits=tensor("... K", "float"), teacher_temp=number(0, 1e6, above=True))
    @torch.no_grad()
    def probabilities(
        self, teacher_logits: Float[Tensor, "*rows K"], teacher_temp: float
    ) -> Float[Tensor, "*rows K"]:
        """The targets ``softmax((t − center) / teacher_temp)``.

        Args:
            teacher_logits: t (…, K).
            teacher_temp: τ_t; the lower, the sharper.

        Returns:
            (…, K) float32 without gradient; each row sums to 1.
        """
        if teacher_logits.shape[-1] != self.center.shape[1]:
            raise UserError(
                f"teacher_logits have K = {teacher_logits.shape[-1]} prototypes, the center "
                f"{self.center.shape[1]}: give as many"
            )
        return ((teacher_logits.float() - self.center) / teacher_temp).softmax(dim=-1)

    @torch.no_grad()
    def note(self, teacher_logits: Float[Tensor, "*rows K"]) -> None:
        """Take down a micro-batch's logits (…, K) for :meth:`update`; in training mode alone."""
        if self.training:
            self._sums.append(teacher_logits.float().flatten(0, -2).sum(dim=0))
            self._count += teacher_logits.shape[:-1].numel()

    @torch.no_grad()
    def update(self) -> None:
        """``center ← m · center + (1 − m) · mean`` of all that was noted, then forget it.

        The mean runs over micro-batches and processes, which may have noted different numbers of
        logits, none included. Without any the center stays.
        """
        if not self._sums:
            return
        total = torch.stack(self._sums).sum(dim=0)
        total = sum_over_processes(torch.cat([total, torch.full_like(total[:1], self._count)]))
        total, count = total[:-1], total[-1:]
        mean = torch.where(count > 0, total / count.clamp(min=1), self.center)  # no host waits
        self.center.lerp_(mean, 1 - self.center_momentum)
        self._sums.clear()
        self._count = 0
