"""A training that diverges never costs a checkpoint: what is saved is finite and can be resumed."""

import os
import signal

import pytest
import torch
from tiny_training import trainer

from dino_tutorial import configure, train
from dino_tutorial.training.checkpoint import CURRENT, PREVIOUS, load_checkpoint, save_checkpoint
from dino_tutorial.training.health import TrainingDiverged, check_finite, first_not_finite

RARELY = {"train__log_every": 100, "train__eval_every": 100, "train__epochs": 5}  # 10 steps


def spoil(run, at, signal_too=False):
    """Make a weight NaN once the step ``at`` is done, as a step that is too long does."""
    after_step = run.method.after_step

    def spoiled(values):
        after_step(values)
        if run.step == at:
            with torch.no_grad():
                next(run.method.parameters()).fill_(float("nan"))
            if signal_too:
                os.kill(os.getpid(), signal.SIGINT)

    run.method.after_step = spoiled


@pytest.mark.parametrize("method", ["dino", "byol", "supervised"])
def test_divergence_between_logged_steps_keeps_the_checkpoint(tmp_path, method):
    run = trainer(method, tmp_path, train__checkpoint_every=2, **RARELY)
    spoil(run, at=4)
    with pytest.raises(TrainingDiverged, match="after step 5.*before it is kept"):
        run.fit()
    state = load_checkpoint(tmp_path, warn=pytest.fail)
    assert state["step"] == 4 and first_not_finite(state) is None
    again = trainer(method, tmp_path, train__checkpoint_every=2, **RARELY)
    again.restore(state)
    again.fit()
    assert again.step == 10 and first_not_finite(again.method.state_dict()) is None


def test_ctrl_c_does_not_save_what_is_no_number(tmp_path):
    run = trainer("dino", tmp_path, train__checkpoint_every=2, **RARELY)
    spoil(run, at=4, signal_too=True)
    with pytest.raises(TrainingDiverged):
        run.fit()
    assert load_checkpoint(tmp_path)["step"] == 4


def test_the_last_step_of_all_is_looked_at(tmp_path):
    run = trainer("dino", tmp_path, train__checkpoint_every=100, **RARELY)
    spoil(run, at=9)
    with pytest.raises(TrainingDiverged, match="there is no checkpoint before it"):
        run.fit()
    assert not (tmp_path / CURRENT).exists()


def test_what_is_measured_on_the_way_is_looked_at_first(tmp_path):
    run = trainer("dino", tmp_path, evaluate=lambda: pytest.fail("NaN was measured"))
    step = run._step

    def spoiled(*arguments):
        measured = step(*arguments)
        with torch.no_grad():
            next(run.method.parameters()).fill_(float("nan"))
        return measured

    run._step = spoiled
    with pytest.raises(TrainingDiverged):
        run.fit()


def test_a_checkpoint_of_weights_that_are_no_numbers_is_passed_over(tmp_path):
    good = {"step": 3, "method": {"w": torch.ones(2)}, "optimizer": {"state": {}}}
    save_checkpoint(tmp_path, good)
    save_checkpoint(tmp_path, good | {"step": 6, "method": {"w": torch.tensor([1.0, torch.nan])}})
    told = []
    assert load_checkpoint(tmp_path, warn=told.append)["step"] == 3
    assert "NaN or infinity in method.w" in told[0] and PREVIOUS in told[0]


@pytest.mark.slow
def test_a_learning_rate_out_of_all_reason_leaves_no_broken_run(tmp_path):
    changes = {"folder": str(tmp_path), "device": "cpu", "train.epochs": 1, "name": "wild"}
    changes |= {"optim.lr": 1e6, "optim.clip": 0.0, "optim.warmup_epochs": 0}
    changes |= {"train.checkpoint_every": 1, "train.log_every": 50, "optim.name": "sgd"}
    with pytest.raises(TrainingDiverged):
        train(configure("byol", preset="smoke", changes=changes))
    folder = tmp_path / "wild"
    assert not (folder / "backbone.safetensors").exists()
    for name in (CURRENT, PREVIOUS):
        if (folder / name).exists():
            assert first_not_finite(torch.load(folder / name, weights_only=True)) is None


def test_first_not_finite_names_the_place():
    tree = {"a": [torch.ones(2), {"b": torch.tensor([torch.inf])}], "c": 3, "d": torch.tensor([1])}
    assert first_not_finite(tree) == "a.1.b"
    assert first_not_finite({"c": 1}) is None and first_not_finite(torch.ones(3)) is None
    with pytest.raises(TrainingDiverged, match="no checkpoint"):
        check_finite({"loss": float("inf"), "step": 0}, kept=False)
