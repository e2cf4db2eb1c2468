"""Public sets, in torchvision's layout on disk or with a stand-in class; never the network."""

import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from dino_tutorial.datasets import torchvision_sets
from dino_tutorial.datasets.torchvision_sets import TORCHVISION_SETS, default_root, open_torchvision
from dino_tutorial.errors import UserError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def save(path, colour, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def cifar_batches(folder):
    """A tiny CIFAR-10: five training batches of two pictures and a test batch, each with noise."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        batch = {"data": generator.integers(0, 256, (2, 3072), np.uint8), "labels": [3, 5]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = {"label_names": [f"class {number}" for number in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))


@pytest.fixture
def unchecked(monkeypatch):
    """torchvision takes our tiny files for the real ones if they exist."""

    def exists(path, md5=None):
        return Path(path).is_file()

    for module in ("cifar", "stl10", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists)


@pytest.mark.parametrize("place", ["cifar10", "."])
def test_cifar10_pixels_labels_classes(tmp_path, unchecked, place):
    folder = tmp_path / place / "cifar-10-batches-py"
    cifar_batches(folder)
    train = open_torchvision("cifar10", root=tmp_path)
    raw = np.concatenate(
        [pickle.loads((folder / f"data_batch_{n}").read_bytes())["data"] for n in range(1, 6)]
    )
    assert np.array_equal(train.images().numpy(), raw.reshape(-1, 3, 32, 32))
    assert train.labels.tolist() == [3, 5] * 5 and train.classes[5] == "class 5"
    assert len(open_torchvision("cifar10", "test", root=tmp_path)) == 2

    part = open_torchvision("cifar10", root=tmp_path, limit=4)
    resized = open_torchvision("cifar10", root=tmp_path, limit=4, image_size=16)
    assert part.image_size == 32 and resized.images().shape == (4, 3, 16, 16)
    assert torch.equal(part.labels, resized.labels)
    difference = part.images().float().mean((2, 3)) - resized.images().float().mean((2, 3))
    assert difference.abs().max() < 3  # the same four pictures


def test_stl10_and_its_unlabelled_images(tmp_path, unchecked):
    folder = tmp_path / "stl10" / "stl10_binary"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8)
    for split in ("train", "test", "unlabeled"):
        # The files are column-major: the last two axes are stored swapped.
        pixels.transpose(0, 1, 3, 2).tofile(folder / f"{split}_X.bin")
        np.array([1, 2, 10], np.uint8).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    train = open_torchvision("stl10", root=tmp_path)
    assert np.array_equal(train.images().numpy(), pixels) and train.labels.tolist() == [0, 1, 9]
    unlabelled = open_torchvision("stl10-unlabeled", root=tmp_path)
    assert unlabelled.classes == () and unlabelled.labels.tolist() == [-1] * 3
    assert open_torchvision("stl10-unlabeled", "test", root=tmp_path).labels.tolist() == [0, 1, 9]


def test_imagenette_has_names_for_its_classes(tmp_path):
    for split in ("train", "val"):
        for number, wnid in enumerate(torchvision.datasets.Imagenette._WNID_TO_CLASS):
            path = tmp_path / "imagenette-160px" / "imagenette2-160" / split / wnid / "0.JPEG"
            save(path, (number, 0, 0))
    test = open_torchvision("imagenette", "test", root=tmp_path)
    assert test.image_size == 160 and test.labels.tolist() == list(range(10))
    assert test.classes[0] == "tench" and test.classes[9] == "parachute"


def test_eurosat_holds_out_a_tenth(tmp_path):
    for number in range(60):
        kind = ("Forest", "River")[number % 2]
        path = tmp_path / "eurosat" / "eurosat" / "2750" / kind / f"{kind}_{number}.jpg"
        save(path, (4 * number, 0, 0), (64, 64))
    train, test = (open_torchvision("eurosat", split, root=tmp_path) for split in ("train", "test"))
    assert len(train) + len(test) == 60 and 1 <= len(test) <= 15
    assert train.classes == ("Forest", "River") and train.image_size == 64


def test_pets(tmp_path):
    base = tmp_path / "pets" / "oxford-iiit-pet"
    for number, name in enumerate(["Bengal_1", "great_pyrenees_7"]):
        save(base / "images" / f"{name}.jpg", (200 * number, 0, 0))
    (base / "annotations").mkdir()
    for split in ("trainval", "test"):
        lines = "great_pyrenees_7 2 2 1\nBengal_1 1 1 1\n"
        (base / "annotations" / f"{split}.txt").write_text(lines)
    dataset = open_torchvision("pets", "test", root=tmp_path)
    assert dataset.classes == ("Bengal", "Great Pyrenees") and dataset.labels.tolist() == [1, 0]
    assert dataset.image_size == 256 and dataset.images()[0, 0].float().mean() > 190


def test_flowers102(tmp_path, unchecked):
    savemat = pytest.importorskip("scipy.io", reason="Flowers102 needs SciPy").savemat
    base = tmp_path / "flowers102" / "flowers-102"
    for number in range(1, 7):
        save(base / "jpg" / f"image_{number:05d}.jpg", (40 * number, 0, 0))
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 4, 5, 102]])})
    ids = {"trnid": np.array([[6, 1]]), "valid": np.array([[2, 3]]), "tstid": np.array([[4, 5]])}
    savemat(base / "setid.mat", ids)
    train = open_torchvision("flowers102", root=tmp_path)
    assert train.labels.tolist() == [101, 0] and train.classes[101] == "blackberry lily"
    assert train.images()[0, 0].float().mean() > 230


def test_imagenet_is_taken_from_its_folder(tmp_path):
    with pytest.raises(UserError, match="imagenet cannot be downloaded for you"):
        open_torchvision("imagenet", root=tmp_path)
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            save(tmp_path / split / wnid / "0.JPEG", (1, 2, 3))
    dataset = open_torchvision("imagenet", "test", root=tmp_path, image_size=32)
    assert dataset.name == "imagenet" and dataset.classes == ("n01440764", "n02102040")


# Downloading


@pytest.mark.parametrize("name", sorted(set(TORCHVISION_SETS) - {"imagenet"}))
def test_offline_is_one_clear_sentence(tmp_path, name):
    with pytest.raises(UserError) as caught:
        open_torchvision(name, root=tmp_path / "data")
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} is not in {tmp_path / 'data'}")
    assert "Name or service not known" in sentence and "unpack" in sentence
    assert "\n" not in sentence
    assert list((tmp_path / "data").iterdir()) == []


class FakeEuroSAT:
    """Like torchvision's: it believes in any folder that exists; the test says how far it gets."""

    fails = None

    def __init__(self, root, download=False):
        folder = Path(root) / "eurosat" / "2750"
        if download:
            for number in range(20):
                save(folder / "abcd"[number % 4] / f"{number}.jpg", (number, 0, 0), (64, 64))
                if number == 7 and self.fails:
                    raise self.fails
        if not folder.exists():
            raise RuntimeError("Dataset not found.")


def test_interrupted_download_is_not_taken_for_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "EuroSAT", FakeEuroSAT)
    for failure, expected in [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), UserError),
        (RuntimeError("File not found or corrupted."), UserError),
    ]:
        monkeypatch.setattr(FakeEuroSAT, "fails", failure)
        with pytest.raises(expected):
            open_torchvision("eurosat", root=tmp_path)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(FakeEuroSAT, "fails", None)
    parts = [open_torchvision("eurosat", split, root=tmp_path) for split in ("train", "test")]
    assert sum(len(part) for part in parts) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["eurosat"]


def test_incomplete_copy_is_not_overwritten(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not a complete copy of cifar10"):
        open_torchvision("cifar10", root=tmp_path)
    assert (tmp_path / "cifar10" / "notes.txt").read_text() == "mine"


def test_root_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_TUTORIAL_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("DINO_TUTORIAL_DATA")
    assert default_root() == Path.home() / ".cache" / "dino_tutorial"


def test_smallest_imagenette_that_covers_the_canvas():
    sizes = (None, 96, 160, 161, 320, 321)
    versions = [torchvision_sets._imagenette_version(size) for size in sizes]
    assert versions == ["160px", "160px", "160px", "320px", "320px", "full"]
