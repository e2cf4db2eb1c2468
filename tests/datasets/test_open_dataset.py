"""Data sets by name or path, and what is said about names that mean nothing."""

import pytest
import torch
from PIL import Image

from dino_tutorial.datasets import (
    DATASETS,
    ArrayDataset,
    describe,
    open_dataset,
    write_shards,
)
from dino_tutorial.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for kind, colour in (("cat", "red"), ("dog", "blue")):
        for number in range(10):
            path = tmp_path / "pictures" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), colour).save(path)
    return tmp_path / "pictures"


def test_scenes():
    train = open_dataset("scenes", limit=12)
    test = open_dataset("scenes", "test", image_size=40, limit=6, seed=3)
    assert len(train) == 12 and train.images().shape == (12, 3, 32, 32)
    assert len(test) == 6 and test.image_size == 40 and len(test.classes) == 10
    assert train.look == "colour" and open_dataset("patterns", limit=1).look == "pattern"
    assert len(open_dataset("scenes")) == 10_000 and len(open_dataset("scenes", "test")) == 2_000


def test_folder_by_path(folder):
    dataset = open_dataset(folder, limit=5)
    assert len(dataset) == 5 and dataset.classes == ("cat", "dog") and dataset.image_size == 12


def test_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_dataset("~/pictures").classes == ("cat", "dog")


def test_shards_by_path(folder, tmp_path):
    write_shards(open_dataset(folder), tmp_path / "tars", per_shard=4)
    for name in (tmp_path / "tars", tmp_path / "tars" / "shard-{000000..000003}.tar"):
        assert open_dataset(str(name)).classes == ("cat", "dog")


def test_images_beside_an_archive_are_a_folder(folder):
    (folder / "download.tar").write_bytes(b"whatever")
    assert open_dataset(folder).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar01", "Did you mean cifar10?"),
        ("Imagenete", "Did you mean imagenette?"),
        ("zzz", "or one of patterns, scenes, cifar10"),
        ("", "there is no data set"),
        ("no/such/folder", "there is no folder or file no/such/folder"),
        ("./cifar10", "there is no folder or file"),
        ("missing-{0..3}.tar", "there is no shard"),
    ],
)
def test_unknown_name(name, expected):
    with pytest.raises(UserError) as caught:
        open_dataset(name)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"split": "val"}, {"image_size": 0}, {"image_size": 10**6}, {"limit": 0}, {"limit": -3}],
)
def test_values_out_of_range(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        open_dataset("scenes", **wrong)


def test_describe():
    dataset = ArrayDataset(torch.zeros(2048, 3, 32, 32, dtype=torch.uint8), None, (), "blank")
    assert describe(dataset) == "blank: 2,048 images, no labels, 32 x 32 px, 6 MiB in memory"


def test_every_set_has_a_description():
    expected = "patterns scenes cifar10 cifar100 stl10 imagenette pets flowers102 eurosat imagenet"
    assert set(expected.split()) <= set(DATASETS) and all(DATASETS.values())
