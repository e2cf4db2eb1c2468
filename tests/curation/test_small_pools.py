"""Pools of a few images: different ones stay, copies go, and what leaves nothing is told."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial.curation import copy_descriptors
from dino_tutorial.curation.command import curate_pool
from dino_tutorial.curation.whitening import image_whitening
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.errors import UserError

SCENES = SceneDataset("val", 64, 120).images()


def save(folder, pixels, start=0):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(pixels, start):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03d}.png")
    return str(folder)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12, 30, 97, 120])
def test_different_images_all_stay(tmp_path, n):
    pool = save(tmp_path / "pool", SCENES[:n])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = curate_pool(pool, tmp_path / "out", device="cpu")
    assert (summary["images"], summary["copies"], summary["kept"]) == (n, 0, n)
    assert summary["selected"] == -(-n // 2)
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("n", [1, 2, 3, 12, 60])
def test_copies_go_from_small_pools_too(tmp_path, n):
    pool = save(tmp_path / "pool", SCENES[:n])
    for number in range(n):
        image = Image.open(tmp_path / "pool" / f"{number:03d}.png")
        image.resize((90, 90)).save(tmp_path / "pool" / f"{number:03d}_copy.jpg", quality=80)
    summary = curate_pool(pool, tmp_path / "out", device="cpu")
    assert (summary["images"], summary["copies"], summary["kept"]) == (2 * n, n, n)
    assert summary["pool"] == "pool"


def test_noise_and_natural_spectra_stay_apart(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    (tmp_path / "pool").mkdir()
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "pool" / f"{number}.png")
    summary = curate_pool(str(tmp_path / "pool"), tmp_path / "out", device="cpu")
    assert summary["copies"] == 0 and summary["kept"] == 12


def test_the_whitening_of_images_at_large_parts_strangers_and_not_copies():
    whitening = image_whitening()
    found = whitening(copy_descriptors(SCENES).numpy())
    cosines = found @ found.T
    np.fill_diagonal(cosines, 0)
    assert cosines.max() < 0.75 and np.quantile(cosines, 0.999) < 0.45
    for number in range(10):
        image = Image.fromarray(SCENES[number].permute(1, 2, 0).numpy())
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=60)
        again = np.array(Image.open(stored).convert("RGB"))
        copy = torch.from_numpy(again).permute(2, 0, 1)[None]
        assert whitening(copy_descriptors(copy).numpy())[0] @ found[number] > 0.9


def test_a_pool_that_leaves_nothing_says_why(tmp_path):
    black = tmp_path / "black"
    black.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), "black").save(black / f"{number}.png")
    with pytest.raises(UserError, match="of 3, 3 are of a single colour.*give other images$"):
        curate_pool(str(black), tmp_path / "one", device="cpu")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="can be read"):
        curate_pool(str(broken), tmp_path / "two", device="cpu")
    same = save(tmp_path / "same", SCENES[:4])
    with pytest.raises(UserError, match="4 are like images of the evaluation set"):
        curate_pool(same, tmp_path / "three", evaluation=same, device="cpu")
