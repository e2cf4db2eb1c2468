"""What a run cannot read stands by name in a file of the run; on the screen there are three."""

import pytest
from PIL import Image

from dino_tutorial import configure, train
from dino_tutorial.datasets import decode

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_report")]
BROKEN = [f"train/red/{number}.png" for number in range(100, 105)]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for colour in ("red", "green"):
        for split, count in (("train", 20), ("test", 3)):
            place = folder / split / colour
            place.mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32, 32), colour)
                image.putpixel((number, 0), (255, 255, 255))
                image.save(place / f"{number}.png")
    return folder


def start(photos, tmp_path, name):
    quick = {"device": "cpu", "train.epochs": 1, "train.batch_size": 8, "data.image_size": 32}
    quick |= {"folder": str(tmp_path / "runs"), "name": name, "train.workers": 0}
    return train(configure("byol", str(photos), "smoke", quick))


@pytest.mark.parametrize("kept", ["in memory", "on demand"])
def test_all_that_a_run_leaves_out_is_listed(kept, photos, tmp_path, monkeypatch, capsys):
    if kept == "on demand":
        monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)
    for name in BROKEN:
        (photos / name).write_bytes(b"no image")
    run = start(photos, tmp_path, "run")
    error = capsys.readouterr().err
    lines = (run.folder / "left_out.txt").read_text().splitlines()
    listed = [line.strip() for line in lines if line.startswith("  ")]
    assert sorted(listed) == [f"{name} (not an image)" for name in BROKEN]
    if kept == "in memory":
        assert error.count("cannot be read and are left out") == 1
        assert lines[0] == "photos: 5 of 45 images cannot be read and are left out:"
        assert f"and 2 more, all in {run.folder / 'left_out.txt'}." in error
