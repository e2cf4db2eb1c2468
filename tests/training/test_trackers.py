"""Rows reach the program that was asked for, and a missing one is told before anything is made."""

import sys
from types import SimpleNamespace

import pytest

from dino_tutorial import configure, train
from dino_tutorial.cli import main
from dino_tutorial.runs import read_config
from dino_tutorial.training.log import read_rows
from dino_tutorial.training.trackers import LOGGERS

pytestmark = pytest.mark.usefixtures("without_report")

SHORT = {"data.limit": 64, "train.steps": 2, "optim.warmup_epochs": 0.5, "device": "cpu"}


class Service:
    """What of wandb and of trackio is called."""

    def __init__(self) -> None:
        self.calls: list = []

    def init(self, **words):
        self.calls.append(("init", words))

    def log(self, row, step):
        self.calls.append((step, row))

    def finish(self):
        self.calls.append("finish")


class Writer:
    made: list = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.open = folder, purge_step, [], True
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.open = False


def short_run(tmp_path, logger):
    changes = SHORT | {"folder": str(tmp_path), "name": "short", "train.logger": logger}
    return train(configure("dino", preset="smoke", changes=changes))


def measured(row):
    return {name: value for name, value in row.items() if name != "step" and value is not None}


@pytest.mark.parametrize("logger", ["wandb", "trackio"])
def test_a_service_gets_every_row(logger, tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, logger, service)
    run = short_run(tmp_path, logger)
    rows = read_rows(run.folder / "metrics.jsonl")
    begin, *logged, end = service.calls
    assert begin == ("init", {"project": "dino-tutorial", "name": "short", "resume": "allow"})
    assert logged == [(row["step"], measured(row)) for row in rows] and len(rows) == 2
    assert end == "finish"


def test_tensorboard_writes_into_the_runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    run = short_run(tmp_path, "tensorboard")
    (writer,) = Writer.made
    assert writer.folder == str(run.folder / "tensorboard")
    assert writer.purge_step == 0 and not writer.open
    losses = [(value, step) for name, value, step in writer.scalars if name == "loss"]
    assert losses == [(row["loss"], row["step"]) for row in run.metrics]


@pytest.mark.parametrize("logger", [name for name, module in LOGGERS.items() if module])
def test_a_missing_package_is_told_before_anything_is_made(logger, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, LOGGERS[logger], None)
    sets = [f"--set={key}={value}" for key, value in SHORT.items() if key != "device"]
    words = ["train", "dino", "--preset", "smoke", "--folder", str(tmp_path / "runs"), *sets]
    assert main([*words, f"--set=train.logger={logger}"]) == 2
    error = capsys.readouterr().err
    assert f"pip install 'dino-tutorial[{logger}]'" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_of_an_older_version_has_none(tmp_path):
    run = short_run(tmp_path, "none")
    path = run.folder / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "logger" not in line]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept))
    assert read_config(path).train.logger == "none"
