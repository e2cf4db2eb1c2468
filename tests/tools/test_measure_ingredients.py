"""What is measured of DINOv2's parts: scenes found again, colour told, and all of it in gray."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.views import Augment, ViewSpec

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "measure_ingredients.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("measure_ingredients", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scenes():
    return SceneDataset("val", size=16, n=30, look="pattern")


class Pixels(nn.Module):
    def forward(self, images):
        return images.flatten(1)


class Constant(nn.Module):
    def forward(self, images):
        return torch.ones(len(images), 4)


def test_a_scene_is_found_by_what_knows_it_and_by_nothing_else(script, scenes):
    same = Augment([ViewSpec(16, (1.0, 1.0), (1.0, 1.0), flip_p=0, jitter_p=0, gray_p=0)] * 2)
    assert script.same_scene_map(Pixels(), same, scenes) == pytest.approx(1, abs=1e-6)
    # Everything is equally similar: each scene is one of thirty.
    assert script.same_scene_map(Constant(), same, scenes) == pytest.approx(1 / 30, abs=1e-6)


def test_explained_is_one_for_a_linear_map_and_nothing_for_noise(script):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 9, 5, generator=rng)
    linear = x @ torch.randn(5, 3, generator=rng) + 7
    assert script.explained(3 * x - 2, linear) == pytest.approx(1, abs=1e-4)
    assert abs(script.explained(x, torch.randn(60, 9, 3, generator=rng))) < 0.1


def test_chroma_is_the_mean_colour_of_a_patch_without_its_brightness(script):
    images = torch.zeros(1, 3, 4, 8, dtype=torch.uint8)
    images[:, 0, :, :4] = 255  # red on the left, white on the right
    images[:, :, :, 4:] = 255
    wanted = torch.tensor([[[2 / 3, -1 / 3, -1 / 3], [0, 0, 0]]], dtype=torch.float64)
    torch.testing.assert_close(script.chroma(images, 4), wanted)


def test_gray_scenes_keep_their_brightness_and_their_pixels_classes(script, scenes):
    gray = script.Gray(scenes, 10)
    assert len(gray) == len(gray.images()) == len(gray.labels) == 10
    assert torch.equal(gray.masks(), scenes.masks(torch.arange(10)))
    assert script.chroma(gray.images(), 4).abs().max() < 1e-12
    red, green, blue = scenes.images(torch.arange(10)).double().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert (gray.images()[:, 0] - luma).abs().max() <= 0.51
