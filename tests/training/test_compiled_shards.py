"""A compiled DINOv2 in shards of two processes computes what it does when it is not compiled.

Graphs are taken down and differentiated as for any device, and run by PyTorch's own kernels: no
code is made.
"""

from functools import partialmethod
from pathlib import Path
from unittest import mock

import pytest
import torch
from tiny_training import trainer
from torch import nn
from two_processes import call_in_two_processes

from dino_tutorial.parallel import process_group
from dino_tutorial.views.color import color_jitter_

pytestmark = pytest.mark.slow  # other processes

COMPILE = partialmethod(nn.Module.compile, backend="aot_eager")


def train(processes, folder, compiled):
    """Loss and norm of the gradients of a step, whose crops have two sizes."""
    changes = {"train__steps": 1, "train__sharding": "fsdp"}
    with mock.patch.object(nn.Module, "compile", COMPILE):
        run = trainer(
            "dinov2", folder, processes, **changes, model__depth=1, train__compile=compiled
        )
    run.augment._jitter = color_jitter_  # tests/cuda/test_kernels.py compiles it
    run.fit()
    return run.rows[0]["loss"], run.rows[0]["grad_norm"]


def train_both_ways(folder: Path):
    with process_group("cpu") as processes:
        plain = train(processes, folder / "plain", False)
        torch._dynamo.utils.counters.clear()
        compiled = train(processes, folder / "compiled", True)
        frames = dict(torch._dynamo.utils.counters["frames"])
        torch.save((plain, compiled, frames), folder / f"{processes.rank}.pt")


def test_compiled_shards_train_as_others_do(tmp_path):
    call_in_two_processes(train_both_ways, tmp_path)
    for rank in range(2):
        plain, compiled, frames = torch.load(tmp_path / f"{rank}.pt")
        assert frames["ok"] > 0
        assert compiled == pytest.approx(plain, rel=1e-5)
