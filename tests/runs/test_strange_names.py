"""Names that a user or a disk gave reach every sink whole: figures, pages, lists, the terminal."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial.cli import main
from dino_tutorial.datasets import open_dataset
from dino_tutorial.errors import printable
from dino_tutorial.plots import image_grid, neighbour_rows, to_png, to_svg
from dino_tutorial.plots.curation import share_curves
from dino_tutorial.plots.style import save_figure

LATIN = os.fsdecode(b"caf\xe9")  # as an old archive leaves it
NAMES = ["a$_$b", "$\\frac{$", "x_{", "<b>&amp;\"'", "\x1b[31mred", "two\nlines", "{0}%s", LATIN]


def fill(folder, names, n=20):
    rng = np.random.default_rng(0)
    for kind in names:
        (folder / kind).mkdir(parents=True)
        for number in range(n):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{kind[:1]}{number}.png")
    return folder


def test_printable_keeps_what_can_be_shown_and_spells_the_rest():
    assert printable("Straße 東京 naïve\xa0x 🦖 a$b<c>") == "Straße 東京 naïve\xa0x 🦖 a$b<c>"
    assert printable(LATIN) == "caf\\xe9" and printable("\x1b[31m\n") == "\\x1b[31m\\n"
    assert printable("\u202egnp.exe") == "\\u202egnp.exe" and printable("\ud800") == "\\ud800"


@pytest.mark.parametrize("name", NAMES)
def test_figures_show_any_name_as_it_is(name, tmp_path):
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    found = torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)
    counts = {"pool": np.array([1, 2]), "selected": np.array([1, 1])}
    for figure in (
        image_grid(pixels, [name, name]),
        neighbour_rows(pixels, found, labels, 1 - labels[:, None], (name, "other")),
        share_curves(counts, [name, "other"]),
    ):
        assert to_png(figure).startswith(b"\x89PNG")
        to_svg(figure, "f").encode()
        for ending in ("svg", "html", "pdf"):
            save_figure(figure, tmp_path / f"figure.{ending}", title=name)
    svg = to_svg(share_curves(counts, ["a$_$b", "other"]), "f")
    assert "a$_$b" in svg


@pytest.mark.slow
def test_a_run_on_folders_of_any_name(tmp_path, capsys):
    """Training ends with its report, and show and record work, whatever the classes are called."""
    folder = fill(tmp_path / os.fsdecode(b"donn\xe9es $_$"), NAMES)
    words = ["train", "byol", "--data", str(folder), "--folder", str(tmp_path / "runs")]
    words += ["--preset", "smoke", "--device", "cpu", "--set", "train.epochs=0.5"]
    assert main([*words, "--name", "one"]) == 0
    run = tmp_path / "runs" / "one"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "caf\\xe9" in page or "a$_$b" in page
    assert "<b>&amp;" not in page and "\x1b" not in page
    for ending in ("png", "html", "svg"):
        out = tmp_path / f"neighbours.{ending}"
        assert main(["show", str(run), "neighbours", "--out", str(out)]) == 0
    assert main(["record", str(run), "--into", str(tmp_path / "kept"), "--weights"]) == 0
    assert main([*words, "--name", "one", "--resume"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_pool_of_files_of_any_name(tmp_path):
    folder = fill(tmp_path / "pool", ["a$_$b", LATIN])
    words = ["curate", "--pool", str(folder), "--out", str(tmp_path / "out"), "--shards"]
    assert main(words) == 0
    chosen = (tmp_path / "out" / "selected.txt").read_bytes().splitlines()
    assert chosen and all(os.path.exists(os.fsencode(folder) + b"/" + name) for name in chosen)
    assert any(b"\xe9" in name for name in chosen)
    classes = open_dataset(tmp_path / "out" / "curated").classes
    assert set(classes) <= {"a$_$b", "caf\\xe9"}


def test_a_refusal_with_a_strange_name_is_one_sentence(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "dino_tutorial", "train", "dino", "--data", f"./{LATIN}\x1b[31m"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr.isascii() and b"\x1b" not in done.stderr and b"caf" in done.stderr
