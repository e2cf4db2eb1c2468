"""Have the next item made in a thread of its own, while this one works with the last."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import torch

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items in the same order, each begun when the one before it is handed over.

    PyTorch's operations let other Python threads run, so on two cores the views of the next step
    cost no time. Unlike threads inside an operation, which meet at a barrier many times a step,
    the two wait for each other once: on a busy machine that is the difference. What making an
    item raises is raised here.
    """
    end = object()
    # torch counts threads for each thread that calls it: this one shall not start more.
    with ThreadPoolExecutor(1, "ahead", torch.set_num_threads, (1,)) as other:
        coming = other.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = other.submit(next, items, end)
            yield cast(T, item)
