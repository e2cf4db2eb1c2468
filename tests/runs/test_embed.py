"""`dino-tutorial embed`: the right features beside the right names, whatever happens on the way."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial.cli import main
from dino_tutorial.datasets import open_dataset
from dino_tutorial.evaluation import extract_features, extract_patches
from dino_tutorial.models import VisionTransformer
from dino_tutorial.runs.embed import embed
from dino_tutorial.runs.encoders import OpenedEncoder, open_encoder

RUN = Path(__file__).resolve().parents[2] / "data" / "checkpoints" / "dino-scenes-laptop-s0"
SIZE = 16


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve images of three classes, none of them square, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(12):
        place = folder / ("birds", "cats", "dogs")[number % 3]
        place.mkdir(exist_ok=True)
        pixels = random.integers(0, 255, (20 + number, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    (folder / "cats" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def opened():
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=SIZE, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    return OpenedEncoder("runs/tiny", encoder.eval(), SIZE, "a")


def by_hand(opened, photos):
    """Names, labels and features, an image at a time, by other functions of the package."""
    names = sorted(f"{path.parent.name}/{path.name}" for path in photos.rglob("[0-9]*.png"))
    classes = ["birds", "cats", "dogs"]
    rows = []
    for name in names:
        with Image.open(photos / name) as image:
            side = min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
            square = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        rows.append(np.asarray(square).transpose(2, 0, 1))
    labels = torch.tensor([classes.index(name.split("/")[0]) for name in names])

    class Squares:
        def __init__(self):
            self.labels = labels

        def __len__(self):
            return len(rows)

        def images(self, indices):
            return torch.from_numpy(np.stack([rows[index] for index in indices]))

    return names, labels, Squares()


def test_a_row_an_image_by_its_name(opened, photos, tmp_path, capsys):
    told = embed(opened, photos, tmp_path / "x.npz", patches=True, device="cpu", rows=5)
    names, labels, squares = by_hand(opened, photos)
    content = np.load(tmp_path / "x.npz")  # without pickle, which is numpy's default
    assert content["files"].tolist() == names and content["labels"].tolist() == labels.tolist()
    assert content["classes"].tolist() == ["birds", "cats", "dogs"]
    expected, _ = extract_features(opened.encoder, squares)
    np.testing.assert_allclose(content["features"], expected.numpy(), atol=1e-5)
    assert content["features"].dtype == np.float32
    tokens = extract_patches(opened.encoder, squares)
    assert content["patches"].dtype == np.float16 and content["patches"].shape == (12, 16, 8)
    np.testing.assert_allclose(content["patches"], tokens.numpy(), atol=2e-3)
    assert (content["encoder"], content["image_size"]) == ("tiny", SIZE)  # no path of a machine
    assert "12 images" in told and "1 that cannot be read" in told
    assert "broken.png" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_other_forms_hold_the_same(opened, photos, tmp_path):
    for form in ("npz", "csv"):
        embed(opened, photos, tmp_path / f"x.{form}", device="cpu")
    content = np.load(tmp_path / "x.npz")
    with open(tmp_path / "x.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["file", "label", "class", "f0"] and len(header) == 3 + 8
    assert [row[0] for row in rows] == content["files"].tolist()
    assert [int(row[1]) for row in rows] == content["labels"].tolist()
    assert [row[2] for row in rows] == [name.split("/")[0] for name in content["files"]]
    values = np.array([row[3:] for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(values, content["features"])


def test_parquet_holds_the_same(opened, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for form in ("npz", "parquet"):
        embed(opened, photos, tmp_path / f"x.{form}", device="cpu")
    content = np.load(tmp_path / "x.npz")
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert list(table) == ["file", "label", "class", "features"]
    assert table["file"] == content["files"].tolist()
    assert table["label"] == content["labels"].tolist()
    assert table["class"][0] == "birds"
    np.testing.assert_array_equal(np.array(table["features"], np.float32), content["features"])


def test_parquet_says_what_it_needs(opened, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ["embed", str(RUN), "--data", str(photos), "--out", str(tmp_path / "x.parquet")]
    assert main(words) == 2
    assert "pip install 'dino-tutorial[parquet]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """What no handler catches, as SIGKILL."""


def test_a_killed_call_goes_on_and_ends_in_the_same_file(opened, photos, tmp_path, monkeypatch):
    embed(opened, photos, tmp_path / "whole.npz", patches=True, device="cpu", rows=3)
    seen = []
    forward = VisionTransformer.forward_features

    def counted(self, x, masks=None):
        seen.append(len(x))
        if len(seen) == 4:  # one for the size, two parts done
            raise Killed
        return forward(self, x, masks)

    monkeypatch.setattr(VisionTransformer, "forward_features", counted)
    call = {"patches": True, "device": "cpu", "rows": 3}
    with pytest.raises(Killed):
        embed(opened, photos, tmp_path / "x.npz", **call)
    assert not (tmp_path / "x.npz").exists() and (tmp_path / "x.npz.parts").exists()
    embed(opened, photos, tmp_path / "x.npz", **call)
    assert seen[4:] == [1, 3, 3, 1]  # what two of five parts hold was not looked at again
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "x.npz.parts").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_part_is_made_again(opened, photos, tmp_path, monkeypatch, damage, capsys):
    embed(opened, photos, tmp_path / "whole.npz", device="cpu", rows=3)
    asked = []
    forward = VisionTransformer.forward

    def stopped(self, x):
        asked.append(len(x))
        if len(asked) == 4:
            raise Killed
        return forward(self, x)

    monkeypatch.setattr(VisionTransformer, "forward", stopped)
    with pytest.raises(Killed):
        embed(opened, photos, tmp_path / "x.npz", device="cpu", rows=3)
    part = tmp_path / "x.npz.parts" / "features" / "00001.npy"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content if damage == "flipped" else content[:-20])
    asked += [0]
    embed(opened, photos, tmp_path / "x.npz", device="cpu", rows=3)
    assert asked[5:] == [1, 3, 3, 3, 1]  # for the size, the damaged part, those that were missing
    assert f"{part} is damaged (its checksum is wrong)" in capsys.readouterr().err
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_parts_of_other_weights_are_not_mixed(opened, photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "x.npz"
    monkeypatch.setattr("dino_tutorial.runs.embed.write_features", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(opened, photos, out, device="cpu")
    words = ["embed", str(RUN), "--data", str(photos), "--out", str(out), "--size", str(SIZE)]
    assert main([*words, "--device", "cpu"]) == 2
    assert "choose another --out or delete it" in capsys.readouterr().err


def test_a_folder_of_somebody_elses_where_parts_lie_keeps_what_it_holds(opened, photos, tmp_path):
    mine = tmp_path / "x.npz.parts" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    embed(opened, photos, tmp_path / "x.npz", device="cpu")
    assert (tmp_path / "x.npz").exists() and list(mine.parent.iterdir()) == [mine]
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        embed(opened, photos, tmp_path / "x.npz", device="cpu", image_size=SIZE + 1)
    assert mine.read_text() == "mine"


def test_a_diverged_encoder_writes_nothing(opened, photos, tmp_path):
    from dino_tutorial.errors import UserError

    opened.encoder.norm.bias.data[0] = torch.nan
    with pytest.raises(UserError, match="diverged"):
        embed(opened, photos, tmp_path / "x.npz", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_run_its_file_and_a_named_set(tmp_path, monkeypatch, capsys):
    """The names of a set without files are its splits and numbers, test images after the others."""
    few = {"train": 5, "test": 3}
    monkeypatch.setattr(
        "dino_tutorial.datasets.every.open_dataset",
        lambda name, split, image_size: open_dataset(
            name, split, image_size=image_size, limit=few[split]
        ),
    )
    run, file = open_encoder(RUN), open_encoder(RUN / "backbone.safetensors")
    assert run.digest == file.digest and run.image_size == file.image_size == 32
    words = ["embed", str(RUN), "--data", "patterns", "--out", str(tmp_path / "x.npz")]
    assert main([*words, "--device", "cpu"]) == 0
    assert "8 images, features of" in capsys.readouterr().out
    content = np.load(tmp_path / "x.npz")
    assert content["files"].tolist() == [*(f"train/{n}" for n in range(5)), "test/0", "test/1",
                                         "test/2"]  # fmt: skip
    test = open_dataset("patterns", "test", image_size=32, limit=3)
    expected, labels = extract_features(run.encoder, test)
    assert content["labels"][5:].tolist() == labels.tolist()
    np.testing.assert_allclose(content["features"][5:], expected.numpy(), atol=1e-5)


def test_names_that_are_no_text_come_back(opened, tmp_path):
    import os

    folder = tmp_path / "photos"
    folder.mkdir()
    strange = os.fsdecode(b"caf\xe9,\n\xc3\xa9.png")
    Image.new("RGB", (SIZE, SIZE), "red").save(folder / "a.png")
    os.rename(folder / "a.png", folder / strange)
    for form in ("npz", "csv"):
        embed(opened, folder, tmp_path / f"x.{form}", device="cpu")
    content = np.load(tmp_path / "x.npz")
    assert content["files"].tolist() == [strange] and content["labels"].tolist() == [-1]
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["file"] == "caf\\udce9,\né.png"
