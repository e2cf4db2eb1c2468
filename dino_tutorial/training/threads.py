"""How many threads the processor works with: as many as help.

Threads wait for each other after each small operation. On an idle machine two of them gain a
third; beside other work one waits, each time, until the other gets its turn, and a step takes many
times as long as with one thread alone. So both are tried on a piece of work like a step's: at the
start, and again and again, because other work comes and goes.
"""

import os
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

TRIED_EVERY = 20.0  # seconds
ROUNDS, PASSES = 3, 2  # a trial is the median of some rounds
PATIENCE = 0.3  # seconds that the trial of one number may take


class Threads:
    """Changes torch's number of threads to what is fastest now.

    Sums are added up in another order with another number of threads, and results differ in their
    last bits. So the number that torch comes with stays until another is clearly faster, and a
    number that was asked for by ``OMP_NUM_THREADS`` stays always.

    Args:
        seconds: what a piece of work takes with the threads set now.
        clock: seconds that only grow.

    Attributes:
        told: whether the reader knows that the number changes.
    """

    def __init__(
        self,
        seconds: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds or seconds_of_work
        self.clock = clock
        self.most = 1 if "OMP_NUM_THREADS" in os.environ else torch.get_num_threads()
        self.tried = float("-inf")
        self.told = False

    def adapt(self) -> int | None:
        """Try all numbers if the last trial is long ago; the new number where it has changed."""
        if self.most == 1 or self.clock() - self.tried < TRIED_EVERY:
            return None
        before = torch.get_num_threads()
        best = self._fastest(before)
        torch.set_num_threads(best)
        self.tried = self.clock()
        return best if best != before else None

    def _fastest(self, before: int) -> int:
        times = {}
        for number in {1, before, self.most}:
            torch.set_num_threads(number)
            times[number] = self.seconds()
        best = min(times, key=times.__getitem__)
        return best if times[best] < 0.85 * times[before] else before


def seconds_of_work() -> float:
    """What a piece of work like a step's takes now: small products, norms, activations."""
    tokens = torch.ones(32, 64, 96)
    wide, narrow = torch.ones(384, 96), torch.ones(96, 384)
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < PATIENCE:
        start = time.perf_counter()
        for _ in range(PASSES):
            hidden = F.gelu(F.linear(F.layer_norm(tokens, (96,)), wide))
            tokens = tokens + F.linear(hidden, narrow)
            tokens = tokens / tokens.norm(dim=-1, keepdim=True)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
