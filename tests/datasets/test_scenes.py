"""The embedded scenes: the same everywhere, and the ground truth is true."""

import math

import numpy as np
import pytest
import torch

from dino_tutorial.datasets.scenes import (
    CLASSES,
    CORRUPTIONS,
    SEVERITIES,
    SceneDataset,
    boxes_of,
    corrupt,
    curated_seeds,
    make_clips,
    render,
    sample_factors,
    sets,
    uncurated_pool,
)
from dino_tutorial.datasets.scenes.drawing import CAMERA_HEIGHT, LOOKS, object_pose
from dino_tutorial.datasets.scenes.factors import FULL, RANGES
from dino_tutorial.errors import UserError

FACTOR_CHECKSUM = 55387112511692
# (scene, row, column): RGB at 32 pixels
PIXELS: dict[str, dict[tuple[int, int, int], tuple[int, int, int]]] = {
    "colour": {
        (0, 5, 5): (103, 108, 110),
        (1, 16, 16): (198, 193, 164),
        (2, 26, 9): (32, 83, 32),
        (3, 9, 25): (162, 167, 171),
        (4, 20, 20): (200, 255, 201),
        (5, 12, 18): (91, 92, 93),
        (6, 28, 28): (169, 170, 173),
        (7, 16, 10): (139, 172, 140),
        (8, 3, 30): (59, 71, 69),
        (9, 22, 6): (137, 136, 131),
    },
    "pattern": {
        (0, 5, 5): (166, 159, 222),
        (1, 16, 16): (240, 232, 255),
        (2, 26, 9): (197, 190, 219),
        (3, 9, 25): (49, 122, 115),
        (4, 20, 20): (178, 210, 255),
        (5, 12, 18): (90, 104, 90),
        (6, 28, 28): (52, 229, 236),
        (7, 16, 10): (116, 188, 205),
        (8, 3, 30): (103, 92, 54),
        (9, 22, 6): (146, 106, 142),
    },
}


@pytest.fixture(autouse=True)
def drawn_anew(drawing, monkeypatch):
    monkeypatch.setattr(sets, "render", drawing)


def fingerprint(factors):
    """Order-dependent sum over names and scenes, in plain Python integers."""
    total = 0
    for place, name in enumerate(sorted(factors)):
        for index, value in enumerate(factors[name].tolist()):
            total = (total + (place + 1) * (index + 7) * value) % (1 << 61)
    return total


def test_factors_are_pinned():
    assert fingerprint(sample_factors(torch.arange(50), "train", 0)) == FACTOR_CHECKSUM


@pytest.mark.parametrize("look", LOOKS)
def test_pixels_are_pinned(look):
    images = SceneDataset("train", 32, n=10, look=look).images()
    for (index, row, column), expected in PIXELS[look].items():
        seen = images[index, :, row, column].tolist()
        assert max(abs(a - b) for a, b in zip(seen, expected, strict=True)) <= 3, (index, seen)


def test_factors_stay_in_their_ranges_and_use_them():
    factors = sample_factors(torch.arange(4000), "train", 5)
    for name, count in RANGES.items():
        assert factors[name].min() >= 0 and factors[name].max() < count
        # Uniform: the mean of 4000 draws is within five standard errors of the middle.
        mean = factors[name].double().mean().item()
        assert abs(mean - (count - 1) / 2) <= 5 * count / (12 * 4000) ** 0.5, name
    assert len(factors["class"].unique()) == len(CLASSES)


def test_splits_seeds_and_factors_are_independent():
    index = torch.arange(2000)
    base = sample_factors(index, "train", 0)
    for other in (sample_factors(index, "test", 0), sample_factors(index, "train", 1)):
        assert (base["x"] == other["x"]).sum() <= 3
    together = torch.stack([base[n].double() for n in RANGES if RANGES[n] > 1])
    correlation = torch.corrcoef(together).fill_diagonal_(0)
    assert correlation.abs().max() < 0.12


def test_a_subset_equals_the_whole():
    whole = SceneDataset("train", 32, n=70)
    chosen = torch.tensor([3, 69, 0, 41])
    alone = render(sample_factors(chosen, "train", 0), 32)
    difference = whole.images(chosen).int() - alone.images.int()
    assert difference.abs().max() <= 1  # the same arithmetic, whatever the vector width
    assert torch.equal(whole.labels[chosen], sample_factors(chosen, "train", 0)["class"])
    images, labels = whole.__getitems__(chosen.tolist())
    assert torch.equal(images, whole.images(chosen)) and torch.equal(labels, whole.labels[chosen])


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", [32, 48, 96, 224])
def test_any_size_shows_the_same_scene(size, look):
    factors = sample_factors(torch.arange(12), "train", 0)
    small, large = render(factors, 32, look), render(factors, size, look)
    assert large.images.shape == (12, 3, size, size) and large.images.dtype == torch.uint8
    shrunk = torch.nn.functional.interpolate(
        large.images.float(), size=32, mode="bilinear", antialias=True
    )
    assert (shrunk - small.images.float()).abs().mean() < 12
    share = [r.mask.float().mean((1, 2)) for r in (small, large)]
    assert (share[0] - share[1]).abs().max() < 0.03
    depth = torch.nn.functional.adaptive_avg_pool2d(large.depth[:, None], 4)
    coarse = torch.nn.functional.adaptive_avg_pool2d(small.depth[:, None], 4)
    assert (depth - coarse).abs().max() < 0.08


@pytest.mark.parametrize("look", LOOKS)
def test_masks_boxes_depth_and_instances_agree(look):
    dataset = SceneDataset("train", 64, n=40, look=look)
    index = torch.arange(40)
    scenes, boxes = dataset.scenes(index), dataset.boxes(index)
    assert torch.equal(scenes.mask, scenes.instances == 1)
    assert torch.equal(dataset.masks(index), scenes.mask)
    assert torch.equal(dataset.depth(index), scenes.depth)
    for mask, box in zip(scenes.mask, boxes.tolist(), strict=True):
        rows, columns = np.nonzero(mask.numpy())
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes_of(torch.zeros(1, 8, 8, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]
    # The object rises from the table, so it is nearer than the same scene without it.
    bare = render(
        {**dataset.factors(index), "present": torch.ones(40, dtype=torch.int64)}, 64, look
    )
    assert (bare.instances != 1).all()
    # The table is level, and nothing lies below it: the picture shows all of the depth.
    assert bare.depth[bare.instances == 0].median() == bare.depth.max() == CAMERA_HEIGHT
    nearer = (bare.depth - scenes.depth)[scenes.mask]
    assert nearer.mean() > 0.1 and (nearer > -0.3).all()
    near = torch.nn.functional.max_pool2d(scenes.mask.float(), 3, 1, 1) > 0  # its edge is mixed
    untouched = (scenes.instances == 0) & (bare.instances == 0) & ~near
    assert torch.allclose(bare.depth[untouched], scenes.depth[untouched], atol=0.15)


def test_patterned_kinds_cannot_be_told_by_their_colours():
    """Of one object in ten thousand hues, the mean colour is the same for every kind."""
    scenes = SceneDataset("train", 32, n=3000, look="pattern")
    drawn = scenes.scenes()
    weight = drawn.mask.float()
    mean = (drawn.images.float() * weight[:, None]).sum((2, 3)) / weight.sum((1, 2))[:, None]
    # How far the colour leans to red and to yellow, whatever its lightness.
    lean = torch.stack((mean[:, 0] - mean[:, 1], mean[:, 0] + mean[:, 1] - 2 * mean[:, 2]), 1)
    for kind in range(len(CLASSES)):
        here = lean[scenes.labels == kind]
        error = here.std(0) / len(here) ** 0.5
        assert ((here.mean(0) - lean.mean(0)).abs() < 4 * error).all(), CLASSES[kind]


def test_the_mask_is_where_the_object_changes_the_picture():
    factors = sample_factors(torch.arange(20), "train", 0)
    scenes = render(factors, 96)
    repainted = render({**factors, "value": 65535 - factors["value"]}, 96)
    change = (scenes.images.int() - repainted.images.int()).abs().sum(1)
    near = torch.nn.functional.max_pool2d(scenes.mask.float(), 3, 1, 1).bool()
    # Elsewhere nothing changes, but for tips of arms and fins that are narrower than a pixel.
    assert ((change > 3) & ~near).sum() <= 5 and change[~near].max() < 30
    inner = torch.nn.functional.avg_pool2d(scenes.mask.float(), 3, 1, 1) == 1
    assert (change[inner] > 3).float().mean() > 0.8  # a value in the middle hardly changes


@pytest.mark.parametrize("look", LOOKS)
def test_clips_move_smoothly_and_keep_their_object(look):
    clips = make_clips(6, frames=5, size=48, seed=3, look=look)
    assert clips.frames.shape == (6, 5, 3, 48, 48) and clips.masks.shape == (6, 5, 48, 48)
    assert clips.masks.flatten(2).any(2).all()
    both = (clips.masks[:, 1:] & clips.masks[:, :-1]).flatten(2).sum(2)
    either = (clips.masks[:, 1:] | clips.masks[:, :-1]).flatten(2).sum(2)
    assert (both / either).mean() > 0.6
    assert not torch.equal(clips.masks[:, 0], clips.masks[:, -1])
    longer = make_clips(6, frames=7, size=48, seed=3, look=look)
    assert (longer.frames[:, :5].int() - clips.frames.int()).abs().max() <= 1


@pytest.mark.parametrize("look", LOOKS)
def test_the_pool_has_a_long_tail_junk_and_true_duplicates(look):
    pool = uncurated_pool(3000, size=16, seed=0, look=look)
    counts = pool.labels[pool.labels >= 0].bincount(minlength=10).double()
    expected = 1 / torch.arange(1, 11).double()
    share = counts / counts.sum()
    assert (share - expected / expected.sum()).abs().max() < 0.04
    assert 0.2 < (pool.labels == -1).double().mean() < 0.3
    copies = (pool.duplicate_of >= 0).nonzero()[:, 0]
    sources = pool.duplicate_of[copies]
    assert 0.17 < len(copies) / 3000 < 0.23
    assert (sources < copies).all() and (pool.duplicate_of[sources] == -1).all()
    assert torch.equal(pool.labels[copies], pool.labels[sources])

    def centred(x):
        x = x.float().flatten(1)
        return torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1)

    close = (centred(pool.images[copies]) * centred(pool.images[sources])).sum(1)
    apart = (centred(pool.images[copies]) * centred(pool.images[sources.roll(1)])).sum(1)
    assert close.median() > 0.8 and apart.median() < 0.3
    assert (pool.images[copies] != pool.images[sources]).flatten(1).any(1).all()


def test_curated_seeds_are_balanced():
    images, labels = curated_seeds(per_class=3, size=32, seed=0)
    assert images.shape == (30, 3, 32, 32)
    assert labels.bincount().tolist() == [3] * 10


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_repeat(kind):
    images = SceneDataset("test", 32, n=24).images()
    before = images.clone()
    damage = []
    for severity in SEVERITIES:
        corrupted = corrupt(images, kind, severity, seed=1)
        assert corrupted.shape == images.shape and corrupted.dtype == torch.uint8
        assert torch.equal(corrupted, corrupt(images, kind, severity, seed=1))
        damage.append((corrupted.float() - images.float()).square().mean().item())
    assert torch.equal(images, before)
    assert damage[0] > 1 and damage == sorted(damage) and len(set(damage)) == 5


def test_mistakes_are_told():
    with pytest.raises(UserError, match="split 'validation'"):
        SceneDataset("validation")
    with pytest.raises(UserError, match="n must be 1"):
        SceneDataset(n=0)
    with pytest.raises(UserError, match="16 to 512"):
        render(sample_factors(torch.arange(1)), 8)
    with pytest.raises(UserError, match="look 'colors'.*colour, pattern"):
        SceneDataset(n=1, look="colors")
    with pytest.raises(UserError, match="corruption 'rain'"):
        corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "rain", 1)
    with pytest.raises(UserError, match="from 1 to 5"):
        corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "fog", 6)


def test_things_have_a_right_way_round_and_films_turn_without_a_jump():
    headings = object_pose(sample_factors(torch.arange(500)), (0.7, 1.0)).angle.flatten()
    assert (headings + math.pi / 2).abs().max() <= 1.0
    assert (headings + math.pi / 2).std() > 0.5
    turn = torch.arange(0, FULL, FULL // 24)
    around = sample_factors(torch.zeros(len(turn), dtype=torch.int64)) | {"angle": turn}
    angles = object_pose(around, (0.7, 1.0)).angle
    steps = angles.flatten().diff(append=angles[:1, 0, 0])
    assert steps.abs().max() < 0.3
