"""A memory of what earlier batches looked like: negatives for MoCo, more images for SwAV."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from dino_tutorial.parallel import gather_over_processes


class Queue(nn.Module):
    """The newest entries of all processes, the newest first; older ones fall off the end.

    A buffer, so that a checkpoint holds it and a resumed run continues with the same entries.
    Every process has the same ones. It starts with random directions.

    Args:
        length: number of entries.
        shape: of one entry; its last dimension is the one that is normalised.
    """

    entries: Float[Tensor, "n ..."]

    def __init__(self, length: int, *shape: int):
        super().__init__()
        self.register_buffer("entries", normalize(torch.randn(length, *shape), dim=-1))
        self._waiting: list[Tensor] = []

    def add(self, entries: Float[Tensor, "B ..."]) -> None:
        """Put (B, *shape) unit vectors in line; they enter at :meth:`advance`."""
        self._waiting.append(entries.detach().float())

    @torch.no_grad()
    def advance(self) -> None:
        """After a step: what all processes and micro-batches have added enters the queue."""
        new = gather_over_processes(torch.cat(self._waiting))
        self._waiting.clear()
        self.entries.copy_(torch.cat([new, self.entries])[: len(self.entries)])
