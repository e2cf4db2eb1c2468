"""A run that a cluster starts again, with one command for the first time and for all others.

Run as a script by torchrun, this file trains, each process with a folder for runs of its own, and
the second process dies once.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import smoke

from dino_tutorial import train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.training.loop import Trainer

pytestmark = pytest.mark.slow  # whole trainings, other processes

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


def test_a_killed_process_is_started_again_and_the_run_goes_on_by_itself(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", "--max-restarts=1", __file__, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join((str(root), str(root / "tests"))),
        },
    )
    assert done.returncode == 0, done.stderr
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


if __name__ == "__main__":
    place = Path(sys.argv[1])
    die_once(place)
    node = place / f"node-{os.environ['RANK']}"
    node.mkdir(exist_ok=True)
    os.chdir(node)
    options = ["--folder", "runs", "--set", "train.checkpoint_every=1"]
    sys.exit(main([*WORDS, *FOUR_STEPS, *options]))
