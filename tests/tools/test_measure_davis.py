"""The measurement behind the book's record of DAVIS-2016, on a tiny copy, and the record itself."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial.datasets import Davis
from dino_tutorial.evaluation import label_masks, patch_pixels, propagate_labels, video_scores

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "measure_davis.py"
RECORD = ROOT / "data" / "results" / "davis16-val" / "summary.json"


def write_films(folder, names=("bear", "boat"), frames=4):
    """A bright box that moves to the right over noise."""
    noise = np.random.default_rng(0)
    for name in names:
        for part in ("frames", "masks"):
            (folder / part / name).mkdir(parents=True)
        for t in range(frames):
            mask = np.zeros((40, 64), np.uint8)
            mask[8:32, 8 + 4 * t : 32 + 4 * t] = 255
            frame = noise.integers(0, 80, (40, 64, 3), np.uint8) + mask[..., None] // 2
            Image.fromarray(frame).save(folder / "frames" / name / f"{t:05}.jpg", quality=95)
            Image.fromarray(mask).save(folder / "masks" / name / f"{t:05}.png")
    return folder


def test_a_tiny_copy_is_measured(tmp_path, monkeypatch):
    films = write_films(tmp_path / "films")
    run = ROOT / "data" / "checkpoints" / "dino-scenes-laptop-s0"
    into = tmp_path / "record"
    arguments = [str(films), str(run), "--short-side", "40", "--into", str(into)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    summary = json.loads((into / "summary.json").read_text())
    assert summary["films"] == 2 and list(summary["by_film"]) == ["bear", "boat"]
    assert summary["neighbourhood"] == 1  # a fifth of five patches
    assert set(summary["scores"]) == {
        "dino-scenes-laptop-s0",
        "untrained",
        "pixels",
        "colours",
        "outline left in place",
    }
    film = Davis(films, short_side=40, multiple=8)[1]
    labels = propagate_labels(patch_pixels(film.frames, 8), film.masks[0], (5, 8), neighbourhood=1)
    expected = video_scores(label_masks(labels, (5, 8), (40, 64)) == 1, film.masks)
    assert summary["by_film"]["boat"]["pixels"]["J"] == pytest.approx(expected["J"], abs=1e-3)
    # A box of 24 columns that is left behind by 4 and by 8 of them.
    left = np.mean([20 / 28, 16 / 32])
    assert summary["scores"]["outline left in place"]["J"] == pytest.approx(left, abs=1e-3)
    assert "FOLDER" in (into / "command.txt").read_text()  # and not where the films lie
    assert str(films) not in (into / "command.txt").read_text()


def test_the_means_of_the_record_are_those_of_its_films():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert record["films"] == len(record["by_film"])
    for features, means in record["scores"].items():
        for measure in ("J", "F"):
            values = torch.tensor([film[features][measure] for film in record["by_film"].values()])
            assert means[measure] == pytest.approx(float(values.mean()), abs=1e-3)
        assert means["J&F"] == pytest.approx((means["J"] + means["F"]) / 2, abs=1e-3)
