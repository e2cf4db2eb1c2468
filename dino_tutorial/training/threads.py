"""How many threads the processor works with: all, or one while other work keeps them waiting.

Threads wait for each other after each small operation. On an idle machine two of them gain a fifth
to a third; beside other work each waits until the others get their turn, and a step takes several
times as long as with one thread alone.

The sign of it costs nothing to see: a step of an idle machine keeps its thread on the processor all
the time, whereas beside other work wall-clock seconds pass and processor seconds do not.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

STEPS, SECONDS = 4, 0.4  # what is looked at together: at least so many, and so long
BUSY, FREE = 0.2, 0.1  # shares of waiting above which others are there, and below which none is
PATIENCE = 20.0  # seconds with one thread before all are tried again; doubled when that fails
LONGEST_PATIENCE = 320.0


@contextmanager
def threads_restored() -> Iterator[None]:
    """What comes after has the number of threads again that was there before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads:
    """A context around each step that sets torch's number of threads for the next ones.

    Sums are added up in another order with another number of threads, and results differ in their
    last bits. So nothing changes on a machine without other work, and a number that was asked for
    by ``OMP_NUM_THREADS`` never changes.

    Args:
        device: of the training. Where it is no CPU a step waits for the device, which says nothing
            of other work, and nothing changes.
        wall, processor: seconds that have passed, and those that this thread was computing.

    Attributes:
        most: the number that torch began with.
        changes: how often the number has changed.
    """

    def __init__(
        self,
        device: torch.device,
        wall: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        self.wall, self.processor = wall, processor
        fixed = device.type != "cpu" or "OMP_NUM_THREADS" in os.environ
        self.most = 1 if fixed else torch.get_num_threads()
        self.changes = 0
        self.patience = PATIENCE
        self.changed_at = wall()
        self._look_anew()

    def __enter__(self) -> "Threads":
        self.entered = self.wall(), self.processor()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.steps += 1
        self.seconds += self.wall() - self.entered[0]
        self.computed += self.processor() - self.entered[1]
        if self.most > 1 and self.steps >= STEPS and self.seconds >= SECONDS:
            self._decide(waited=1.0 - self.computed / self.seconds)
            self._look_anew()

    def _look_anew(self) -> None:
        self.steps, self.seconds, self.computed = 0, 0.0, 0.0

    def _decide(self, waited: float) -> None:
        stayed = self.wall() - self.changed_at
        alone = torch.get_num_threads() == 1
        if not alone and waited > BUSY:
            # All were tried in vain: the next time later. They were good for long: as at first.
            again = self.changes > 0 and stayed < PATIENCE
            self.patience = min(2 * self.patience, LONGEST_PATIENCE) if again else PATIENCE
            self._set(1)
        elif alone and waited < FREE and stayed > self.patience:
            self._set(self.most)

    def _set(self, number: int) -> None:
        torch.set_num_threads(number)
        self.changed_at = self.wall()
        self.changes += 1
