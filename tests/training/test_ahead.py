"""Items are made ahead in another thread, and nothing else about them changes."""

import threading

import pytest
import torch

from dino_tutorial.training.ahead import ahead


def test_items_come_in_order_and_each_is_begun_before_it_is_asked_for():
    begun, second = [], threading.Event()

    def items():
        for number in range(4):
            begun.append(number)
            if number == 1:
                second.set()
            yield number, threading.current_thread().name

    got = ahead(items())
    first = next(got)
    assert second.wait(10) and begun[:2] == [0, 1]  # nobody has asked for the second yet
    rest = list(got)
    assert [number for number, _ in (first, *rest)] == [0, 1, 2, 3]
    assert all(name != threading.current_thread().name for _, name in (first, *rest))


def test_what_goes_wrong_is_raised_where_the_item_is_taken():
    def items():
        yield 1
        raise OSError("the disk is gone")

    got = ahead(items())
    assert next(got) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(got)


def test_stopping_early_ends_the_thread():
    before = threading.active_count()
    got = ahead(iter(range(1000)))
    next(got)
    got.close()
    assert threading.active_count() == before


def test_operations_of_the_other_thread_use_no_further_threads():
    """And this thread keeps the number that it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        counts = list(ahead(torch.get_num_threads() for _ in range(2)))
        assert counts == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
