"""Every method trains on a CUDA device as on the CPU, and waits for it only to log."""

import pytest
import torch
from simulated_device import DeviceTensor, Ledger, simulated_cuda
from tiny_training import pictures, trainer

from dino_tutorial import configure
from dino_tutorial.methods import METHODS
from dino_tutorial.runs import Run, report

STEPS = 3  # the first and the last are logged, the one between is not
LENGTHS = {"train__epochs": STEPS / 8, "train__batch_size": 8, "train__log_every": 2}
# What goes other ways on a GPU: micro-batches, each clip rule, recomputed activations, drop path.
VARIANTS = {
    "dinov2-in-parts": {
        "train__accumulate": 2,
        "train__checkpoint_activations": True,
        "model__drop_path_rate": 0.2,
        "model__drop_path_uniform": True,
        "objective__centering": "sinkhorn",
    },
    "byol-lars": {"optim__name": "lars", "optim__clip_rule": "global", "optim__clip": 1.0},
    "supervised-resnet": {
        "model__arch": "resnet10",
        "model__patch_size": None,
        "model__embed_dim": None,
        "model__depth": None,
        "model__num_heads": None,
    },
}
TRAINED = {name: {} for name in METHODS} | VARIANTS


def begun(name, folder, device="cpu", **changes):
    """A trainer before its first step."""
    method = name.partition("-")[0]
    teacher = trainer("dinov2", folder / "teacher").method if method == "distill" else None
    return trainer(
        method, folder, device=device, teacher=teacher, **LENGTHS | TRAINED[name] | changes
    )


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_trains_as_on_the_cpu_and_waits_only_to_log(name, tmp_path):
    on_cpu = begun(name, tmp_path / "cpu")
    on_cpu.fit()
    steps: list[Ledger] = []
    with simulated_cuda() as ledger:
        there = begun(name, tmp_path / "cuda", "cuda:0")
        assert all(isinstance(p, DeviceTensor) for p in there.parameters)
        tick = there.clock.tick
        there.clock.tick = lambda: (tick(), steps.append(ledger.take()))
        there.fit()
    assert len(steps) == STEPS and all(step.kernels for step in steps)
    assert steps[1].waits == []
    assert [wait.where.partition(":")[0] for wait in steps[2].waits] == ["training/loop.py"]
    assert not any(step.wide for step in steps)
    assert steps[1].copies <= 1 + 3 * there.train.accumulate  # which images; views of a size; masks
    for a, b in zip(on_cpu.rows, there.rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)


def test_the_neighbours_of_a_report_are_found_on_the_device(tmp_path, monkeypatch):
    """Of photographs that takes minutes on two cores; the figures need a few images alone."""
    (tmp_path / "config.yaml").write_text(configure("dino", preset="smoke").dump())
    (tmp_path / "summary.json").write_text('{"method": "dino"}')
    (tmp_path / "environment.json").write_text("{}")
    monkeypatch.setattr(report, "write_report", lambda path, data: data)
    images, found = pictures(), []
    with simulated_cuda() as ledger:
        for device in ("cpu", "cuda:0"):
            run = trainer("dino", tmp_path / device, device=device)
            encoder = run.method.encoder.eval()
            ledger.take()
            found.append(
                report.report_on(Run(tmp_path), encoder, run.augment, images, images, images)
            )
            assert bool(ledger.take().kernels) == (device != "cpu")
    for name, ours in vars(found[0]).items():
        if isinstance(ours, torch.Tensor):
            theirs = getattr(found[1], name)
            assert type(theirs) is torch.Tensor, name
            torch.testing.assert_close(theirs, ours, equal_nan=True, rtol=1e-4, atol=1e-4)
