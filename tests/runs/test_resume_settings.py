"""A run is resumed with whatever changes nothing of its result, and with nothing else."""

import os

import numpy as np
import pytest
from PIL import Image

from dino_tutorial import configure, train
from dino_tutorial.errors import UserError
from dino_tutorial.runs.resume import resumed_config
from dino_tutorial.training.checkpoint import PREVIOUS, load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_report")]  # whole trainings


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A run on a folder, taken back to its first checkpoint."""
    root = tmp_path_factory.mktemp("resumed")
    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        (root / "images" / "train" / kind).mkdir(parents=True)
        (root / "images" / "test" / kind).mkdir(parents=True)
        for number in range(36):
            split = "train" if number < 32 else "test"
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / kind / f"{number}.png")
    run = train(config(root))
    return root, load_checkpoint(run.folder)["method"]


def config(root, source=None, **changes):
    fixed = {"folder": str(root / "runs"), "device": "cpu", "name": "one", "train.epochs": 2}
    fixed |= {"train.checkpoint_every": 2, "data.image_size": 32}
    return configure("byol", str(source or root / "images"), "smoke", fixed | changes)


def go_back(root):
    folder = root / "runs" / "one"
    if (folder / PREVIOUS).exists():
        os.replace(folder / PREVIOUS, folder / "checkpoint.pt")
    (folder / "summary.json").unlink()


@pytest.mark.parametrize(
    "changes",
    [
        {"train.workers": 1},
        {"train.log_every": 1, "train.eval_every": 1},
        {"train.checkpoint_every": 1},
        {"train.checkpoint_activations": True},
    ],
)
def test_what_changes_no_result_may_change(started, changes):
    root, expected = started
    go_back(root)
    run = train(config(root, **changes), resume=True)
    found = load_checkpoint(run.folder)["method"]
    assert all((found[name] == value).all() for name, value in expected.items())


def test_a_place_may_be_spelled_in_another_way(started, monkeypatch):
    root, expected = started
    monkeypatch.chdir(root)
    os.symlink(root / "images", root / "link", target_is_directory=True)
    monkeypatch.setenv("HOME", str(root))
    for source in ("./images", f"{root}/images/", root / "link", "~/images"):
        train(config(root, source), resume=True)
        found = resumed_config(config(root, source), str(source), None, {})
        assert found.source == str(root / "images")


@pytest.mark.parametrize("changes", [{"optim.lr": 1e-4}, {"train.epochs": 3}, {"seed": 5}])
def test_what_changes_the_result_is_refused(started, changes):
    root, _ = started
    with pytest.raises(UserError, match="was started with"):
        train(config(root, **changes), resume=True)
