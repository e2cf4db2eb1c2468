"""Compiling by itself: on a GPU, in a long run, where it can; and never at the price of a run."""

import pytest
import torch
from simulated_device import simulated_cuda
from torch import nn

from dino_tutorial import configure, train
from dino_tutorial.methods import METHODS
from dino_tutorial.runs import environment, lifecycle
from dino_tutorial.runs.environment import choose_compile

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def compilers(monkeypatch):
    """What is installed, by name; taken away by removing it."""
    there = {"gcc", "triton"}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(environment.shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(environment, "find_spec", lambda name: name if name in there else None)
    return there


def test_a_long_run_on_a_gpu_is_compiled(compilers):
    with simulated_cuda():
        assert choose_compile(None, CUDA, 5000) and not choose_compile(None, CUDA, 4999)
        assert choose_compile(True, CUDA, 1) and not choose_compile(False, CUDA, 10**6)
    assert not choose_compile(None, CPU, 10**6) and choose_compile(True, CPU, 1)


@pytest.mark.parametrize("missing", ["gcc", "triton"])
def test_nothing_is_compiled_where_something_for_it_is_missing(missing, compilers):
    compilers.remove(missing)
    with simulated_cuda():
        assert not choose_compile(None, CUDA, 5000)


def test_nor_for_a_card_that_is_too_old(compilers, monkeypatch):
    with simulated_cuda():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (6, 1))
        assert not choose_compile(None, CUDA, 5000)


@pytest.mark.usefixtures("without_report")
def test_a_run_says_that_it_compiles_and_keeps_that_it_did(
    compilers, monkeypatch, tmp_path, capsys
):
    asked = []
    monkeypatch.setattr(environment, "COMPILED_STEPS", 4)
    monkeypatch.setattr(nn.Module, "compile", lambda module: asked.append(module))
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    changes = {"folder": str(tmp_path), "data.limit": 64, "train.steps": 4}
    changes |= {"train.compile": None}
    with simulated_cuda():
        run = train(configure("dino", preset="smoke", changes=changes | {"device": "cuda"}))
    assert len(asked) == 2 and run.summary["compiled"] is True
    assert "the networks are compiled" in capsys.readouterr().err
    assert run.config.train.compile is None
    on_cpu = train(configure("dino", preset="smoke", changes=changes | {"device": "cpu"}))
    assert len(asked) == 2 and on_cpu.summary["compiled"] is False
    assert "compiled" not in capsys.readouterr().err


def test_what_cannot_be_compiled_runs_as_it_is():
    def broken(graph, inputs):
        raise RuntimeError("no such GPU")

    torch._dynamo.reset()
    module = torch.compile(nn.Linear(3, 2), backend=broken)
    with pytest.raises(Exception, match="no such GPU"):
        module(torch.zeros(1, 3))
    torch._dynamo.reset()
    with lifecycle.eager_where_it_fails():
        assert module(torch.zeros(1, 3)).shape == (1, 2)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("preset", "compile"),
    [("smoke", False), ("laptop", False), ("gpu", None), ("photo", None), ("paper", None)],
)
def test_the_presets_for_gpus_leave_it_open(preset, compile):
    assert all(configure(method, preset=preset).train.compile is compile for method in METHODS)
