"""Settings that do not go together are refused in one sentence, before a folder is made."""

from contextlib import nullcontext

import pytest

from dino_tutorial import configure, train
from dino_tutorial.errors import UserError
from dino_tutorial.runs import build_method
from dino_tutorial.runs.checks import check_accumulation


def refused(method, folder, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    with pytest.raises(UserError) as error:
        train(configure(method, preset="smoke", changes=changes | {"folder": str(folder / "runs")}))
    assert not (folder / "runs").exists()
    return str(error.value)


def test_accumulation_that_does_not_divide(tmp_path):
    sentence = refused("dino", tmp_path, train__accumulate=5)
    assert "train.accumulate = 5 does not divide the 32 images" in sentence


def test_accumulation_beyond_the_batch(tmp_path):
    assert "does not divide" in refused("dino", tmp_path, train__accumulate=64)


@pytest.mark.parametrize("method", ["byol", "swav"])
def test_one_image_has_no_batch_statistics(method, tmp_path):
    sentence = refused(method, tmp_path, train__accumulate=32)
    assert f"one image at a time in a process, and {method} normalises" in sentence
    assert "train.batch_size = 32 with train.accumulate = 32" in sentence


@pytest.mark.parametrize(("device", "refuses"), [("cpu", True), ("cuda", False)])
def test_processes_share_statistics_on_cuda_alone(device, refuses):
    config = configure("byol", preset="smoke", changes={"train.batch_size": 2})
    with pytest.raises(UserError, match="larger batch") if refuses else nullcontext():
        check_accumulation(config, build_method(config), device, world=2)


def test_without_batch_statistics_one_image_at_a_time_will_do(tmp_path):
    changes = {"train.accumulate": 32, "train.epochs": 0.125, "folder": str(tmp_path)}
    assert train(configure("dino", preset="smoke", changes=changes)).complete
