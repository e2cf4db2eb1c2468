"""What was made from images is not gone on with from others, however alike their names are."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import trainer

from dino_tutorial.cli import main
from dino_tutorial.datasets import ArrayDataset, decode, open_dataset, write_shards
from dino_tutorial.datasets.files import ImageFiles
from dino_tutorial.datasets.subset import Subset
from dino_tutorial.errors import UserError
from dino_tutorial.training.checkpoint import load_checkpoint

QUICK = ["--preset", "smoke", "--device", "cpu", "--set", "data.image_size=32"]


def draw(path, seed):
    """A bitmap, so that all have one size in bytes, with a time of last change of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(10**18 + seed, 10**18 + seed))


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        draw(tmp_path / "images" / "train" / f"{number:02d}.bmp", number)
    for number in range(4):
        draw(tmp_path / "images" / "test" / f"{number}.bmp", 100 + number)
    return tmp_path / "images"


def replace(folder):
    draw(folder / "train" / "03.bmp", 1003)


def shrink(folder):
    (folder / "train" / "05.bmp").unlink()


def rename(folder):
    (folder / "train" / "04.bmp").rename(folder / "train" / "04b.bmp")


def grow(folder):
    draw(folder / "train" / "zz.bmp", 999)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", ["folder", "files", "shards"])
def test_a_fingerprint_tells_other_images(folder, tmp_path, monkeypatch, in_memory, kind):
    if not in_memory:
        monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)

    def known():
        if kind == "files":
            return ImageFiles(folder).fingerprint()
        if kind == "folder":
            return open_dataset(folder).fingerprint()
        shutil.rmtree(tmp_path / "tars", ignore_errors=True)
        write_shards(ImageFiles(folder), tmp_path / "tars" / "train")
        write_shards(ImageFiles(folder), tmp_path / "tars" / "test")
        for path in (tmp_path / "tars").rglob("*.tar"):
            os.utime(path, ns=(1, 1))
        return open_dataset(tmp_path / "tars").fingerprint()

    before = known()
    assert known() == before
    for change in (grow, shrink, rename, replace):
        now_before = known()
        change(folder)
        now = known()
        if kind != "shards" or change in (grow, shrink):  # members are named by their number
            assert now != now_before, change
    assert before["images"] in (40, 44)


def test_a_fingerprint_of_arrays_and_their_subsets():
    pixels = torch.arange(4, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    one = ArrayDataset(pixels, torch.tensor([0, 1, 0, 1]))
    assert one.fingerprint() == ArrayDataset(pixels.clone(), one.labels).fingerprint()
    assert one.fingerprint() != ArrayDataset(pixels + 1, one.labels).fingerprint()
    assert one.fingerprint() != ArrayDataset(pixels, 1 - one.labels).fingerprint()
    first, last = (Subset(one, torch.tensor([n])).fingerprint() for n in (0, 2))
    assert first["images"] == 1 and first != last
    assert open_dataset("scenes", limit=4).fingerprint() == (
        open_dataset("scenes", limit=4).fingerprint()
    )
    others = [open_dataset("scenes", limit=4, seed=1), open_dataset("patterns", limit=4)]
    assert open_dataset("scenes", limit=4).fingerprint() not in [o.fingerprint() for o in others]


def test_a_checkpoint_knows_its_images(tmp_path):
    run = trainer("byol", tmp_path, train__epochs=0.5)
    run.fit()
    state = load_checkpoint(tmp_path)
    again = trainer("byol", tmp_path, train__epochs=0.5)
    again.restore(state)
    again.dataset = ArrayDataset(again.dataset.images() // 2, again.dataset.labels, name="tiny")
    with pytest.raises(UserError, match="have changed since"):
        again.restore(state)
    del state["data"]  # as an older version wrote it
    again.restore(state)


@pytest.mark.slow
@pytest.mark.parametrize("change", [grow, shrink, rename])
def test_resuming_on_other_images_is_refused(folder, tmp_path, capsys, change):
    words = ["train", "byol", "--data", str(folder), "--folder", str(tmp_path / "runs"), *QUICK]
    words += ["--name", "one"]
    assert main(words) == 0
    (tmp_path / "runs" / "one" / "summary.json").unlink()
    assert main([*words, "--resume"]) == 0
    change(folder)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    assert "images of images have changed since" in capsys.readouterr().err


@pytest.mark.slow
def test_resuming_where_files_were_written_again_is_told(folder, tmp_path, capfd):
    words = ["train", "byol", "--data", str(folder), "--folder", str(tmp_path / "runs"), *QUICK]
    words += ["--name", "one"]
    assert main(words) == 0
    replace(folder)
    assert main([*words, "--resume"]) == 0
    told = capfd.readouterr()
    assert "other times than when" in told.out + told.err


@pytest.mark.slow
def test_descriptions_of_replaced_images_are_not_used_again(folder, tmp_path, capsys):
    words = ["curate", "--pool", str(folder / "train"), "--out", str(tmp_path / "out")]
    assert main(words) == 0 and main(words) == 0
    replace(folder)
    capsys.readouterr()
    assert main(words) == 2
    assert "describes other images: image files were written again" in capsys.readouterr().err
