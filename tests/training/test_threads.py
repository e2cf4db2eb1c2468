"""The number of threads follows what is fastest, and nothing else changes it."""

import pytest
import torch

from dino_tutorial.training.threads import TRIED_EVERY, Threads, seconds_of_work


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Machine:
    """Seconds of a piece of work by the number of threads, and a clock."""

    def __init__(self, **seconds: float):
        self.by_number = {1: seconds["one"], 2: seconds["two"]}
        self.now, self.trials = 0.0, 0

    def seconds(self) -> float:
        self.trials += 1
        return self.by_number[torch.get_num_threads()]

    def threads(self) -> Threads:
        return Threads(self.seconds, lambda: self.now)


def test_an_idle_machine_keeps_what_it_has():
    machine = Machine(one=1.0, two=0.7)
    assert machine.threads().adapt() is None
    assert torch.get_num_threads() == 2
    assert machine.trials == 2


def test_a_busy_machine_gets_one_and_an_idle_one_all_again():
    machine = Machine(one=1.0, two=14.0)
    threads = machine.threads()
    assert threads.adapt() == 1
    assert torch.get_num_threads() == 1
    machine.by_number[2] = 0.7
    machine.now = TRIED_EVERY + 0.1
    assert threads.adapt() == 2
    assert torch.get_num_threads() == 2


def test_a_small_difference_changes_nothing():
    machine = Machine(one=0.9, two=1.0)
    assert machine.threads().adapt() is None
    assert torch.get_num_threads() == 2


def test_nothing_is_tried_before_its_time():
    machine = Machine(one=1.0, two=0.7)
    threads = machine.threads()
    threads.adapt()
    machine.by_number[2], machine.now = 14.0, TRIED_EVERY - 0.1
    assert threads.adapt() is None
    assert (torch.get_num_threads(), machine.trials) == (2, 2)


def test_a_number_that_was_asked_for_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine = Machine(one=1.0, two=14.0)
    assert machine.threads().adapt() is None
    assert (torch.get_num_threads(), machine.trials) == (2, 0)


def test_work_takes_time_and_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert 0 < seconds_of_work() < 60
    assert torch.equal(torch.get_rng_state(), before)
