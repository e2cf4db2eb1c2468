"""The script for SLURM: a shell reads it, torchrun and the command line take what it gives them."""

import re
import shlex
import subprocess
from pathlib import Path

from torch.distributed.run import get_args_parser

from dino_tutorial.cli import build_parser

SCRIPT = Path(__file__).resolve().parents[2] / "book" / "_static" / "train.sbatch"
VALUES = {
    "data": "photos",
    "head": "node-1",
    "SLURM_NNODES": "2",
    "SLURM_JOB_ID": "17",
}


def words():
    """Of the command that each node runs, with the job's values in place of variables."""
    text = SCRIPT.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^srun (torchrun .*)$", text, re.MULTILINE)
    line = line.replace('"${@:2}"', "--name first")  # what follows the folder
    return shlex.split(re.sub(r"\$(\w+)", lambda found: VALUES[found[1]], line))


def test_a_shell_can_read_it():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0


def test_torchrun_and_the_command_line_take_its_options():
    found = get_args_parser().parse_args(words()[1:])
    assert (found.nnodes, found.nproc_per_node, found.max_restarts) == ("2", "gpu", 3)
    assert (found.rdzv_backend, found.rdzv_endpoint) == ("c10d", "node-1:29500")
    assert found.module and found.training_script == "dino_tutorial"
    options = build_parser().parse_args(found.training_script_args)
    assert options.resume == "auto" and options.name == "first" and options.data == "photos"
