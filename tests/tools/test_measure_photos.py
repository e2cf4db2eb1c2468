"""The measurement behind the record of real photos, on tiny copies, and the record itself."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_measure_davis import write_films

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "measure_photos.py"
RECORD = ROOT / "data" / "results" / "frozen-photos"
RUN = ROOT / "data" / "checkpoints" / "dino-scenes-laptop-s0"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("measure_photos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SEGMENTS = module.SEGMENTS | {"steps": 10}
    module.GAPS, module.PAIRS = (1,), 2
    return module


def write_images(folder, classes, each, side):
    noise = np.random.default_rng(1)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = noise.integers(0, 255, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def test_tiny_copies_are_measured(script, tmp_path, monkeypatch):
    films = write_films(tmp_path / "films", ("bear", "boat", "car", "dog"), frames=3)
    write_images(tmp_path / "cifar" / "test", ("cat", "frog"), 2, 32)
    write_images(tmp_path / "cifar" / "train", ("cat", "frog"), 1, 32)
    write_images(tmp_path / "photos", ("a", "b"), 6, 40)
    into = tmp_path / "record"
    arguments = [
        str(RUN),
        "--davis",
        str(films),
        "--cifar10",
        str(tmp_path / "cifar"),
        "--photos",
        str(tmp_path / "photos"),
        "--short-side",
        "40",
        "--into",
        str(into),
    ]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    script.main()

    summary = json.loads((into / "summary.json").read_text())
    names = {RUN.name, "untrained", "pixels", "colours"}
    segments = summary["segments"]
    assert set(segments["scores"]) == names | {"place alone", "whole frame"}
    assert set(segments["by_film"]["pixels"]) == {"bear", "boat", "car", "dog"}
    # A box of 24 by 24 in 40 by 64 pixels.
    assert segments["scores"]["whole frame"]["J"] == pytest.approx(24 * 24 / (40 * 64), abs=1e-3)
    assert segments["scores"]["colours"]["J"] > 0.6  # the box is bright
    assert set(summary["matches"]["1"]) == names | {"same place", "at random"}
    assert summary["classes"]["images"] == 4 and set(summary["classes"]["map"]) == names
    assert summary["copies"]["scores"]["pixels"]["average_precision"] > 0.5
    assert str(tmp_path) not in (into / "command.txt").read_text()


def test_matches_are_counted_on_the_object(script):
    one = torch.tensor([[True, True, True, False]])
    other = torch.tensor([[False, True, True, False]])
    partner = torch.tensor([[1, -1, 0, 2]])  # right, none, wrong, and one of the background
    assert script.matched(partner, one, other) == (0.5, pytest.approx(2 / 3))
    assert script.matched(torch.full((1, 4), -1), one, other) == (None, 0.0)


def test_the_threshold_is_the_one_of_the_largest_overlap(script):
    masks = torch.zeros(3, 20, 20, dtype=torch.bool)
    masks[:, 5:9, 5:15] = True  # a tenth of the pixels
    scores = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) + 5 * masks
    threshold = script.best_threshold(scores, masks)
    assert ((scores > threshold) == masks).float().mean() > 0.98


def test_the_means_of_the_record_are_those_of_its_films():
    summary = json.loads((RECORD / "summary.json").read_text(encoding="utf-8"))
    environment = json.loads((RECORD / "environment.json").read_text(encoding="utf-8"))
    assert not environment["commit"].endswith("+")
    for name, films in summary["segments"]["by_film"].items():
        assert len(films) == summary["films"]
        mean = sum(films.values()) / len(films)
        assert summary["segments"]["scores"][name]["J"] == pytest.approx(mean, abs=1e-3)
