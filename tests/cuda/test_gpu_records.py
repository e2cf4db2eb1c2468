"""Slices of the list of records for a GPU: stopped, gone on with, and not done twice."""

import contextlib
import importlib.util
import json
import time
from pathlib import Path

import pytest
import yaml
from simulated_device import simulated_cuda

from dino_tutorial.methods import METHODS
from dino_tutorial.runs import adapt, configure
from dino_tutorial.runs.cost import StepCost

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "gpu_records.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_records", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "gpu_records", module)
    spec.loader.exec_module(module)
    return module


class Clock:
    """Time that passes only where a command says so."""

    def __init__(self):
        self.now, self.ends = 0.0, 0.0

    def monotonic(self):
        return self.now

    @contextlib.contextmanager
    def stopped_after(self, seconds):
        self.ends = self.now + seconds
        yield

    def passes(self, seconds):
        """How many of these seconds pass before it is stopped."""
        spent = min(seconds, self.ends - self.now)
        self.now += spent
        return spent


class Commands:
    """A command line that notes what it is asked, and trains for a minute in all."""

    def __init__(self, places, clock, fails=(), saves=True):
        self.places, self.clock, self.fails, self.saves = places, clock, fails, saves
        self.asked = []

    def __call__(self, words):
        run = words[words.index("--name") + 1] if words[0] == "train" else Path(words[1]).name
        self.asked.append((words[0], run))
        return getattr(self, words[0])(run, self.places.runs / run)

    def train(self, run, folder):
        if run in self.fails:
            return 2
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "checkpoint.pt"
        left = float(checkpoint.read_text()) if checkpoint.exists() else 60.0
        spent = self.clock.passes(left)
        if spent < left:
            if self.saves:
                checkpoint.write_text(str(left - spent))
            return 130
        (folder / "summary.json").write_text("{}")
        return 0

    def eval(self, run, folder):
        (folder / "evaluation.json").write_text("{}")
        return 0

    def record(self, run, folder):
        assert (folder / "summary.json").exists()
        (self.places.results / run).mkdir(parents=True)
        (self.places.results / run / "summary.json").write_text("{}")
        return 0


@pytest.fixture
def listed(script, tmp_path, monkeypatch):
    """Two runs, places for them, and a device that has room."""
    clock = Clock()
    monkeypatch.setattr(script, "lacks_memory", lambda run, device: None)
    monkeypatch.setattr(script, "time", clock)
    monkeypatch.setattr(script, "stopped_after", clock.stopped_after)
    places = script.Places(tmp_path / "runs", tmp_path / "results", tmp_path / "gpu.md", "cpu")
    runs = [script.Wanted(name, "", "dino", 0, eval=()) for name in ("first", "second")]
    return runs, places, clock


def test_a_slice_stops_a_training_and_the_next_goes_on(script, listed):
    wanted, places, clock = listed
    command, failed = Commands(places, clock), {}
    slices = [script.one_slice(wanted, places, 70, failed, command) for _ in range(2)]
    assert slices == [True, True] and failed == {}
    train, measure, keep = (("train", "first"), ("eval", "first"), ("record", "first"))
    assert command.asked == [train, train, measure, keep, ("train", "second")]
    assert not script.one_slice(wanted, places, 500, failed, command)
    assert all(places.is_recorded(run) for run in wanted)
    before = len(command.asked)
    assert not script.one_slice(wanted, places, 500, failed, command)
    assert len(command.asked) == before  # nothing is done twice


def test_what_fails_or_does_not_fit_is_passed_over(script, listed, monkeypatch):
    wanted, places, clock = listed
    command, failed = Commands(places, clock, fails=("first",)), {}
    assert not script.one_slice(wanted, places, 500, failed, command)
    assert list(failed) == ["first"] and places.is_recorded(wanted[1])
    monkeypatch.setattr(script, "lacks_memory", lambda run, device: "two images need 99 GiB")
    again = {}
    assert not script.one_slice(wanted, places, 500, again, Commands(places, clock))
    assert again == {"first": "two images need 99 GiB"}


def test_a_part_that_takes_longer_than_a_slice_does_not_go_round_for_ever(script, listed):
    wanted, places, clock = listed
    command, failed = Commands(places, clock, saves=False), {}
    script.one_slice(wanted[:1], places, 40, failed, command)
    assert failed == {"first": "a part of it that cannot be divided takes longer than a slice"}


def test_a_slice_ends_as_if_somebody_pressed_ctrl_c(script):
    with pytest.raises(KeyboardInterrupt), script.stopped_after(0.05):
        time.sleep(60)


def test_the_memory_is_asked_before_anything_runs(script, monkeypatch):
    run = script.Wanted("one", "", "dino", 0, preset="smoke")
    assert script.lacks_memory(run, "cpu") is None
    monkeypatch.setattr(script, "usable_memory", lambda device: 2**20)
    assert script.lacks_memory(run, "cpu").startswith("two images need 0.0 GiB")


def test_the_list_can_be_run(script, tmp_path):
    """Every entry is a configuration, at full and at smoke size; what it refers to stands above."""
    places = script.Places(tmp_path / "runs", tmp_path / "results", tmp_path / "gpu.md", "cuda")
    full = script.read_list(script.LIST, places, smoke=False, data={"cifar10": "photos"})
    small = script.read_list(script.LIST, places, smoke=True, data={})
    assert {run.method for run in full} == set(METHODS)
    assert "photos" in {run.data for run in full} and {run.data for run in small} == {"scenes"}
    seen = set()
    for run in full:
        config = configure(run.method, run.data, run.preset, run.changes)
        others = [v for v in run.changes.values() if str(v).startswith(str(tmp_path))]
        assert {Path(other).name for other in others} <= seen
        seen.add(run.name)
        assert config.train.batch_size == script._batch(run)
    assert len(seen) == len(full) == len(small)
    for run in small:
        assert configure(run.method, run.data, run.preset, run.changes).train.steps == 4


def options(folder, device, **entry):
    """A trial of a list of one run."""
    run = {"name": "one", "shows": "a trial", "method": "dino", "set": {"train.compile": True}}
    (folder / "list.yaml").write_text(yaml.safe_dump([run | entry]))
    return ["--size=smoke", f"--device={device}", f"--into={folder}", f"--list={folder}/list.yaml"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_a_trial_on_the_cpu_makes_records_and_their_table(script, tmp_path, capsys):
    words = options(tmp_path, "cpu", eval=["--linear", "--k", "200"])
    assert script.main(words) == 0
    assert "1 of 1 records are there" in capsys.readouterr().out
    rows = (tmp_path / "gpu.md").read_text().splitlines()
    (one,) = (row for row in rows if row.startswith("| `one-s0` | a trial |"))
    summary = json.loads((tmp_path / "results" / "one-s0" / "summary.json").read_text())
    assert f"| 4 | {summary['train_seconds'] / 60:.1f} |" in one
    assert one.count("%") == 3  # k-NN with 20 neighbours, with 200, and the linear probe
    assert script.main(words) == 0  # again: nothing to do, and the same table
    assert (tmp_path / "gpu.md").read_text().splitlines() == rows


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_a_trial_on_the_simulated_device(script, tmp_path, monkeypatch):
    """All but the memory, which tensors without values tell, and the device cannot hold those."""
    for module in (script, adapt):
        monkeypatch.setattr(module, "simulated", lambda *_: StepCost(2**30, 2**20, 1))
    with simulated_cuda():
        assert script.main(options(tmp_path, "cuda")) == 0
    summary = json.loads((tmp_path / "results" / "one-s0" / "summary.json").read_text())
    assert summary["device"] == "cuda"
    assert "a simulated device" in (tmp_path / "gpu.md").read_text()
