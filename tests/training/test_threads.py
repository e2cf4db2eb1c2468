"""One thread goes on alone while other work keeps the processor busy, and at no other time."""

import json

import pytest
import torch
from tiny_training import trainer

from dino_tutorial.training.threads import LONGEST_PATIENCE, PATIENCE, Threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Machine:
    """Two clocks: a step computes for a tenth of a second, and waits beside other work."""

    def __init__(self):
        self.wall = self.processor = 0.0
        self.waiting = {1: 0.0, 2: 0.0}  # share of the time, by the number of threads

    def threads(self, device: str = "cpu") -> Threads:
        return Threads(torch.device(device), lambda: self.wall, lambda: self.processor)

    def steps(self, threads: Threads, seconds: float) -> None:
        end = self.wall + seconds
        while self.wall < end:
            with threads:
                self.compute()

    def compute(self) -> None:
        self.processor += 0.1
        self.wall += 0.1 / (1 - self.waiting[torch.get_num_threads()])


def test_an_idle_machine_keeps_its_threads():
    machine = Machine()
    threads = machine.threads()
    machine.waiting[2] = 0.15  # a little always comes between
    machine.steps(threads, 1000)
    assert (torch.get_num_threads(), threads.changes) == (2, 0)


def test_a_busy_machine_is_seen_within_a_second():
    machine = Machine()
    threads = machine.threads()
    machine.waiting = {1: 0.5, 2: 0.7}
    machine.steps(threads, 1.5)
    assert (torch.get_num_threads(), threads.changes) == (1, 1)
    machine.steps(threads, 1000)
    assert (torch.get_num_threads(), threads.changes) == (1, 1)  # one waits too: still busy


def test_all_work_again_when_the_others_have_gone():
    machine = Machine()
    threads = machine.threads()
    machine.waiting = {1: 0.5, 2: 0.7}
    machine.steps(threads, 1.5)
    machine.waiting = {1: 0.0, 2: 0.0}
    machine.steps(threads, PATIENCE - 3)
    assert torch.get_num_threads() == 1
    machine.steps(threads, 4)
    assert (torch.get_num_threads(), threads.changes) == (2, 2)


def test_what_fails_is_tried_less_and_less_often():
    """One other process on two cores: one thread never waits, two always do."""
    machine = Machine()
    threads = machine.threads()
    machine.waiting = {1: 0.0, 2: 0.7}
    machine.steps(threads, 10 * LONGEST_PATIENCE)
    assert torch.get_num_threads() == 1
    tried = (threads.changes - 1) // 2
    assert 8 <= tried <= 14  # after 20, 40, 80, 160, then each 320 seconds
    assert threads.patience == LONGEST_PATIENCE


def test_patience_is_short_again_after_a_good_time():
    machine = Machine()
    threads = machine.threads()
    machine.waiting = {1: 0.0, 2: 0.7}
    machine.steps(threads, 100)
    machine.waiting = {1: 0.0, 2: 0.0}
    machine.steps(threads, 2 * LONGEST_PATIENCE)
    assert torch.get_num_threads() == 2
    machine.waiting = {1: 0.0, 2: 0.7}
    machine.steps(threads, 2)
    assert (torch.get_num_threads(), threads.patience) == (1, PATIENCE)


def test_a_number_that_was_asked_for_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine = Machine()
    threads = machine.threads()
    machine.waiting = {1: 0.5, 2: 0.9}
    machine.steps(threads, 100)
    assert (torch.get_num_threads(), threads.changes) == (2, 0)


def test_a_host_that_waits_for_its_gpu_is_not_busy():
    machine = Machine()
    threads = machine.threads("cuda")
    machine.waiting = {1: 0.5, 2: 0.9}
    machine.steps(threads, 100)
    assert (torch.get_num_threads(), threads.changes) == (2, 0)


def test_a_training_tells_once_and_leaves_all_threads_behind(tmp_path):
    run, machine, said = trainer("dino", tmp_path, train__epochs=4), Machine(), []
    machine.waiting = {1: 0.5, 2: 0.7}
    run.threads, run.warn = machine.threads(), said.append
    step = run.method.after_step
    run.method.after_step = lambda values: (step(values), machine.compute())
    run.fit()
    rows = [json.loads(row) for row in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [row["threads"] for row in rows] == [2] * 3 + [1] * (len(rows) - 3)
    assert len(rows) > 4 and len(said) == 1 and "one thread" in said[0]
    assert torch.get_num_threads() == 2
