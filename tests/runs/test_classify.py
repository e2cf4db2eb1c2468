"""`dino-tutorial classify`: right on images held out, and right about others, by name."""

import csv
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial.cli import main
from dino_tutorial.datasets import open_dataset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import accuracy, extract_features, knn_classify, linear_probe
from dino_tutorial.models import VisionTransformer
from dino_tutorial.runs.classify import classify
from dino_tutorial.runs.embed import embed
from dino_tutorial.runs.encoders import OpenedEncoder

SIZE = 16
COLOURS = {"blue": (30, 40, 220), "green": (20, 200, 30), "red": (230, 20, 20)}


def paint(path, colour, random):
    noise = random.integers(-20, 20, (20, 24, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The linear classifier is tested elsewhere; here it need not take seconds."""
    monkeypatch.setattr(
        "dino_tutorial.runs.classify.linear_probe", partial(linear_probe, steps=200)
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images by class, some of whose names lie, and others without a class."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(60):
        colour = list(COLOURS)[number % 3]
        named = "red" if number in (7, 22) else colour  # the noise of labels
        paint(root / "by-class" / named / f"{number:03}.png", colour, random)
    for number in range(6):
        paint(root / "new" / f"{number}.png", list(COLOURS)[number % 3], random)
    (root / "new" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture
def opened():
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=SIZE, patch_size=4, embed_dim=32, depth=1, num_heads=2)
    return OpenedEncoder("tiny", encoder.eval(), SIZE, "a")


def test_accuracy_is_that_of_images_held_out(opened, photos):
    found = classify(opened, photos / "by-class", k=3, device="cpu")
    data = str(photos / "by-class")
    bank, queries = (open_dataset(data, split, image_size=SIZE) for split in ("train", "test"))
    assert (found.fitted, found.measured, found.classes) == (len(bank), len(queries), 3)
    (x, y), (test_x, test_y) = (extract_features(opened.encoder, s) for s in (bank, queries))
    assert found.knn == pytest.approx(accuracy(knn_classify(x, y, test_x, 3), test_y))
    assert found.knn > 0.7 and found.linear > 0.7
    most = y.bincount().argmax()
    assert found.majority == pytest.approx((test_y == most).double().mean().item())


def test_others_get_a_class_by_their_name(opened, photos, tmp_path):
    out = tmp_path / "new.csv"
    found = classify(opened, photos / "by-class", photos / "new", out, k=5, device="cpu")
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert found.predicted == len(rows) == 6  # the broken one is left out
    assert [row["file"] for row in rows] == [f"{number}.png" for number in range(6)]
    for number, row in enumerate(rows):
        assert row["knn"] == row["linear"] == list(COLOURS)[number % 3]
        assert 0.5 < float(row["knn_share"]) <= 1 and 0.5 < float(row["linear_probability"]) <= 1


def test_features_out_of_files_say_the_same(opened, photos, tmp_path):
    for name in ("by-class", "new"):
        embed(opened, photos / name, tmp_path / f"{name}.npz", device="cpu")
    folders = classify(
        opened, photos / "by-class", photos / "new", tmp_path / "a.csv", device="cpu"
    )
    nobody = OpenedEncoder("tiny", torch.nn.Identity(), SIZE, "a")  # nothing is described again
    files = classify(
        nobody, tmp_path / "by-class.npz", tmp_path / "new.npz", tmp_path / "b.csv", device="cpu"
    )
    assert files == folders
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    with pytest.raises(UserError, match="features of another encoder than other"):
        classify(OpenedEncoder("other", opened.encoder, SIZE, "b"), tmp_path / "by-class.npz")


def test_folders_called_train_and_test_are_what_they_say(opened, tmp_path):
    random = np.random.default_rng(0)
    for number in range(36):
        colour = list(COLOURS)[number % 3]
        split = "train" if number < 30 else "test"
        paint(tmp_path / "photos" / split / colour / f"{number}.png", colour, random)
    found = classify(opened, tmp_path / "photos", device="cpu")
    assert (found.fitted, found.measured) == (30, 6)
    embed(opened, tmp_path / "photos", tmp_path / "x.npz", device="cpu")
    assert classify(opened, tmp_path / "x.npz", device="cpu") == found


def test_what_nothing_is_fitted_to_is_named(opened, tmp_path, capsys):
    random = np.random.default_rng(0)
    for number in range(36):
        colour = list(COLOURS)[number % 3]
        split = "train" if number < 24 and colour != "red" else ("test", "val")[number % 2]
        paint(tmp_path / "photos" / split / colour / f"{number}.png", colour, random)
    embed(opened, tmp_path / "photos", tmp_path / "x.npz", device="cpu")
    capsys.readouterr()
    for data in (tmp_path / "photos", tmp_path / "x.npz"):
        found = classify(opened, data, device="cpu")
        assert (found.fitted, found.measured, found.classes) == (16, 10, 2)
        assert 0 < found.knn <= 0.4  # six of the ten are red, and nothing says so
        left_out, classes = capsys.readouterr().err.splitlines()[-2:]
        assert "10 images beside train and test are left out: val/" in left_out
        assert classes == (
            f"{data}: classes without training images, whose test images count as wrong: red."
        )


def test_one_image_of_each_class_is_too_few(opened, photos, tmp_path):
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        shutil.copy(next((photos / "by-class" / colour).iterdir()), tmp_path / colour)
    with pytest.raises(UserError, match=f"^{tmp_path} has images of one class only.*: add images"):
        classify(opened, tmp_path, device="cpu")


def test_the_command_says_it_in_lines(opened, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dino_tutorial.runs.encoders.open_encoder", lambda name: opened)
    words = ["classify", "tiny", "--data", str(photos / "by-class"), "--device", "cpu"]
    words += ["--predict", str(photos / "new"), "--out", str(tmp_path / "new.csv")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("k-NN") and lines[0].endswith("%")
    assert lines[2].startswith("the most frequent class")
    assert lines[-1] == f"classes of 6 images: {tmp_path / 'new.csv'}"


def test_features_of_images_of_another_size_are_not_mixed(opened, photos, tmp_path):
    embed(opened, photos / "by-class", tmp_path / "known.npz", device="cpu")
    embed(opened, photos / "new", tmp_path / "new.npz", device="cpu", image_size=2 * SIZE)
    with pytest.raises(UserError, match=f"of {2 * SIZE} pixels, not of {SIZE}: embed"):
        classify(opened, tmp_path / "known.npz", tmp_path / "new.npz", tmp_path / "p.csv")
    with pytest.raises(UserError, match=f"of {SIZE} pixels, not of {2 * SIZE}: embed"):
        classify(opened, tmp_path / "known.npz", image_size=2 * SIZE)
    assert not (tmp_path / "p.csv").exists()


def test_two_images_of_each_class_are_enough(opened, photos, tmp_path):
    for colour in COLOURS:
        (tmp_path / colour).mkdir()
        for path in sorted((photos / "by-class" / colour).iterdir())[:2]:
            shutil.copy(path, tmp_path / colour)
    found = classify(opened, tmp_path, device="cpu")
    assert found.fitted + found.measured == 2 * len(COLOURS) and found.measured >= 1


def test_images_without_classes_are_refused_before_the_encoder_looks_at_them(opened, photos):
    looks = []
    handle = opened.encoder.register_forward_pre_hook(lambda *_: looks.append(1))
    with pytest.raises(UserError, match="has no classes"):
        classify(opened, photos / "new", device="cpu")
    handle.remove()
    assert looks == []
