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
    data = {"cifar10": "photos", "davis": "films"}
    full = script.read_list(script.LIST, places, smoke=False, data=data)
    small = script.read_list(script.LIST, places, smoke=True, data=data)
    scripts = [run for run in full if run.words]
    made = {str(places.runs / run.name) for run in scripts if run.makes_images}
    full, small = ([run for run in runs if not run.words] for runs in (full, small))
    assert {run.method for run in full} == set(METHODS)
    assert "photos" in {run.data for run in full}
    used = {run.data.removesuffix("/curated") for run in small}
    assert used == {"scenes", *made} and len(made) == 2
    seen = set()
    for run in full:
        config = configure(run.method, run.data, run.preset, run.changes)
        others = [v for v in run.changes.values() if str(v).startswith(str(tmp_path))]
        assert {Path(other).name for other in others} <= seen
        seen.add(run.name)
        assert config.train.batch_size == script._batch(run)
    assert len(seen) == len(full) == len(small)
    for run in scripts:
        first, rest = run.words[0], run.words[1]
        assert (ROOT / first).exists() if first != "-m" else importlib.util.find_spec(rest)
        runs = {Path(word).name for word in run.words if word.startswith(str(places.runs))}
        assert runs <= seen | {run.name}
    for run in small:
        assert configure(run.method, run.data, run.preset, run.changes).train.steps == 4


def test_a_script_wants_its_images_and_is_called_once(script, tmp_path, capsys):
    places = script.Places(tmp_path / "runs", tmp_path / "results", tmp_path / "gpu.md", "cpu")
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).mkdir(parents=True); print(sys.argv[2:])"
    entries = [
        {"name": "films", "shows": "", "images": "davis", "script": ["-c", code, "OUT", "IMAGES"]},
        {"name": "made", "shows": "", "makes_images": True, "script": ["-c", code, "OUT"]},
        {"name": "wrong", "shows": "", "script": ["-c", "raise SystemExit(3)"]},
    ]
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(entries))
    without = script.read_list(tmp_path / "list.yaml", places, smoke=False, data={})
    assert [run.name for run in without] == ["made", "wrong"]
    assert "films: left out, for it wants --data davis=FOLDER" in capsys.readouterr().err
    wanted = script.read_list(tmp_path / "list.yaml", places, smoke=False, data={"davis": "here"})
    assert wanted[0].words[2:] == (str(places.results / "films"), "here")
    for _ in range(2):  # a folder that is there would be an error
        failed = {}
        assert not script.one_slice(wanted, places, 500, failed)
        assert list(failed) == ["wrong"]
    kept = places.results / "films"
    assert not any(str(tmp_path) in file.read_text() for file in kept.iterdir())  # it is public
    assert kept.is_dir() and (places.runs / "made").is_dir()


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


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_a_trial_trains_on_the_pool_and_on_what_curation_chose_of_it(script, tmp_path):
    whole = yaml.safe_load(script.LIST.read_text())
    few = [entry for entry in whole if "curated" in entry["name"]]
    assert [entry["name"] for entry in few] == [
        *("gpu-uncurated", "gpu-curated", "gpu-curated-pool", "gpu-uncurated-pool"),
    ]
    for entry in few[2:]:
        entry["seeds"] = [0]
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(few))
    words = ["--size=smoke", "--device=cpu", f"--into={tmp_path}", f"--list={tmp_path}/list.yaml"]
    assert script.main(words) == 0
    rows = (tmp_path / "gpu.md").read_text().splitlines()
    sources = {"gpu-curated-pool-s0": "curated", "gpu-uncurated-pool-s0": "gpu-uncurated"}
    for name, source in sources.items():
        (row,) = (row for row in rows if row.startswith(f"| `{name}` "))
        assert row.count("%") == 1  # k-NN on patterned scenes, not on the pool
        assert f"source: {source}\n" in (tmp_path / "results" / name / "config.yaml").read_text()
    assert not any(row.startswith("| `gpu-curated`") for row in rows)


@pytest.mark.slow
def test_a_step_is_timed_beside_others(script, tmp_path):
    places = script.Places(tmp_path / "runs", tmp_path / "results", tmp_path / "gpu.md", "cpu")
    wanted = script.read_list(script.LIST, places, smoke=True, data={})
    (step,) = (run for run in wanted if run.name == "gpu-step")
    assert not script.one_slice([step], places, 500, {})
    summary = json.loads((places.results / "gpu-step" / "summary.json").read_text())
    assert {"ours", "lightly"} <= set(summary["steps"])
    assert all(row["best"]["images_per_second"] > 0 for row in summary["steps"].values())
    assert set(summary["views"]) == {"ours, on the device", "PIL"}
    script.write_card([step], places)
    assert "| `gpu-step` | step and views beside lightly's" in places.card.read_text()
