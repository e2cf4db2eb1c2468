"""Run the package's command line in two processes over gloo."""

import os
import subprocess
import sys


def in_two_processes(*words: str) -> None:
    """``dino-tutorial WORDS`` under torchrun; fails with what it wrote if it fails."""
    pair = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "dino_tutorial",
            *words,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert pair.returncode == 0, pair.stderr
