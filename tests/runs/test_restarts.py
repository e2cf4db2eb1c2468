"""A run that a cluster starts again, with one command for the first time and for all others."""

import json
import os
import signal
import warnings
from pathlib import Path

import pytest
from faults import run, smoke
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from dino_tutorial import train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.training.loop import Trainer

pytestmark = [
    pytest.mark.slow,  # whole trainings, other processes
    pytest.mark.usefixtures("without_report"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

WORDS = ["train", "dino", "--preset", "smoke", "--device", "cpu", "--resume=auto"]
FOUR_STEPS = ["--set", "train.epochs=0.5", "--set", "train.log_every=1"]


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]


def die_once(folder: Path) -> None:
    """Have the second process killed after its third step, the first time."""
    tick, mark = Trainer._row, folder / "has-died"

    def row(self, *arguments):
        if self.step == 2 and self.processes.rank == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return tick(self, *arguments)

    Trainer._row = row


def launch(folder: Path) -> int:
    """What torchrun does with these options, but for two fresh interpreters at each start."""
    options = ["--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1"]
    options += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # as --standalone has it
    config, _, _ = config_from_args(parse_args([*options, "a script"]))
    config.start_method = "fork"
    return max(elastic_launch(config, train_and_die_once)(folder).values())


def train_and_die_once(place: Path) -> int:
    """Train with a folder for runs of this process's own."""
    warnings.resetwarnings()  # pytest has made errors of them, and DistributedDataParallel has one
    die_once(place)
    node = place / f"node-{os.environ['RANK']}"
    node.mkdir(exist_ok=True)
    os.chdir(node)
    options = ["--folder", "runs", "--set", "train.checkpoint_every=1"]
    return main([*WORDS, *FOUR_STEPS, *options])


def test_a_killed_process_is_started_again_and_the_run_goes_on_by_itself(tmp_path):
    code, said = run(lambda: launch(tmp_path))
    assert code == 0, said
    assert (tmp_path / "has-died").exists()
    (folder,) = (tmp_path / "node-0" / "runs").iterdir()
    assert not list((tmp_path / "node-1").iterdir())  # it has never seen a checkpoint
    assert steps(folder) == [0, 1, 2, 3]
    assert json.loads((folder / "summary.json").read_text())["steps"] == 4


def test_auto_starts_what_is_not_there_and_goes_on_with_what_is(tmp_path):
    first = train(smoke(tmp_path), resume="auto")
    before = (first.folder / "backbone.safetensors").read_bytes()
    again = train(smoke(tmp_path), resume="auto")
    assert again.folder == first.folder and steps(again.folder) == [0, 1, 2, 3]
    assert (again.folder / "backbone.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="was started with seed"):
        train(smoke(tmp_path, seed=3), resume="auto")


def test_auto_is_the_only_other_way_to_resume(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "dino", "--resume=never", "--folder", str(tmp_path)])
    assert "auto" in capsys.readouterr().err
