"""Labels that follow identity, propagation and DAVIS' measures against loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dino_tutorial.datasets.scenes import make_clips
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    label_masks,
    patch_pixels,
    propagate_labels,
    region_and_boundary,
    video,
    video_scores,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def propagate_by_loops(features, first, grid, n_context, neighbourhood, topk, temperature):
    """Patch by patch, frame by frame."""
    features = F.normalize(features.double(), dim=-1)
    labels = [first.double()]
    for t in range(1, len(features)):
        frames = [0] + [s for s in range(t - n_context, t) if s > 0]
        rows = []
        for i in range(grid[0] * grid[1]):
            y, x = divmod(i, grid[1])
            found = []
            for s in frames:
                for j in range(grid[0] * grid[1]):
                    v, u = divmod(j, grid[1])
                    if neighbourhood is None or max(abs(y - v), abs(x - u)) <= neighbourhood:
                        cosine = float(features[t, i] @ features[s, j])
                        found.append((cosine, labels[s][j]))
            found = sorted(found, key=lambda pair: -pair[0])[:topk]
            weights = [math.exp(cosine / temperature) for cosine, _ in found]
            rows.append(sum(w * label for w, (_, label) in zip(weights, found, strict=True)))
            rows[-1] = rows[-1] / sum(weights)
        labels.append(torch.stack(rows))
    return torch.stack(labels).float()


@pytest.mark.parametrize(
    ("n_context", "neighbourhood", "topk", "temperature"),
    [
        (7, 12, 5, 0.1),
        (2, 1, 3, 0.07),
        (0, None, 2, 0.5),
        (3, 2, 100, 1.0),
        (2, 0, 5, 0.1),
    ],
)
def test_propagation_as_by_loops(monkeypatch, n_context, neighbourhood, topk, temperature):
    monkeypatch.setattr(video, "CHUNK_ENTRIES", 150)  # a few patches at a time
    features = normal(6, 20, 5) + 2 * normal(1, 20, 5, seed=1)
    first = normal(20, 3, seed=2).softmax(-1)
    settings = ((4, 5), n_context, neighbourhood, topk, temperature)
    found = propagate_labels(features, first, *settings)
    torch.testing.assert_close(found, propagate_by_loops(features, first, *settings))
    assert torch.equal(found[0], first)
    torch.testing.assert_close(found.sum(-1), torch.ones(6, 20))
    stays = neighbourhood == 0  # each patch sees only its own place
    assert torch.allclose(found[-1], first, atol=0.05) == stays


def moving_box(frames=6, size=48, patch=4):
    """A box that moves a patch a frame over a still ground, as masks and as patch features."""
    masks = torch.zeros(frames, size, size, dtype=torch.bool)
    for t in range(frames):
        masks[t, 12:28, patch * t : patch * t + 16] = True
    side = size // patch
    inside = masks[:, ::patch, ::patch].flatten(1)
    return masks, F.one_hot(inside.long(), 2).float(), (side, side)


def test_features_that_are_the_object_follow_it_perfectly_and_constant_ones_do_not():
    masks, identity, grid = moving_box()
    labels = propagate_labels(identity, masks[0], grid)
    predicted = label_masks(labels, grid, (48, 48)) == 1
    region, boundary = region_and_boundary(predicted, masks)
    # Bilinear enlargement rounds the corners: a pixel or two each.
    assert region.min() > 0.97
    assert boundary.min() == 1
    patches = labels.argmax(-1)
    assert torch.equal(patches, identity.argmax(-1))
    lost = propagate_labels(torch.ones_like(identity), masks[0], grid)
    blurred = video_scores(label_masks(lost, grid, (48, 48)) == 1, masks)
    assert blurred["J"] < 0.6
    still = video_scores(masks[:1].expand(6, -1, -1), masks)
    common = [max(0, 16 - 4 * t) for t in (1, 2, 3, 4)]  # columns of the 16
    assert still["J"] == pytest.approx(sum(c / (32 - c) for c in common) / 4)


def test_masks_of_pixels_become_labels_as_pillow_samples_them():
    mask = (normal(37, 53) > 0).int() + (normal(37, 53, seed=1) > 0.5).int()
    labels = propagate_labels(torch.ones(1, 35, 2), mask, (5, 7))
    small = Image.fromarray(mask.numpy().astype(np.uint8)).resize((7, 5), Image.Resampling.NEAREST)
    assert labels.shape == (1, 35, 3)
    assert torch.equal(labels[0].argmax(-1), torch.from_numpy(np.array(small)).long().flatten())
    empty = propagate_labels(torch.ones(2, 35, 2), torch.zeros(37, 53, dtype=torch.bool), (5, 7))
    assert torch.equal(empty[1], torch.tensor([1.0, 0.0]).expand(35, 2))


def test_small_objects_are_not_outvoted_and_absent_ones_do_not_appear():
    labels = torch.zeros(3, 16, 2)
    labels[..., 0] = 1
    labels[0, 5] = torch.tensor([0.7, 0.3])  # never above one half
    labels[1, :, 0] += 1e-6 * normal(16)  # rounding, no contrast
    labels[2] = torch.tensor([0.0, 1.0])
    masks = label_masks(labels, (4, 4), (16, 16))
    assert masks[0, 5, 5] == 1
    assert 0 < masks[0].float().mean() < 0.1
    assert not masks[1].any()
    assert masks[2].all()


def davis_by_loops(predicted, true, tolerance=0.008):
    """J and F of one frame from DAVIS' definitions, with a distance for every pair of pixels."""

    def outline(mask):
        height, width = mask.shape
        found = []
        for y in range(height):
            for x in range(width):
                below, right = min(y + 1, height - 1), min(x + 1, width - 1)
                others = (mask[below, x], mask[y, right], mask[below, right])
                if any(other != mask[y, x] for other in others):
                    found.append((y, x))
        return found

    def share(lines, others):
        if not lines:
            return 1.0
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in lines]
        return sum(near) / len(near)

    radius = math.ceil(tolerance * math.hypot(*true.shape))
    union = int((predicted | true).sum())
    region = int((predicted & true).sum()) / union if union else 1.0
    a, b = outline(predicted.numpy()), outline(true.numpy())
    precision, recall = share(a, b), share(b, a)
    if precision + recall == 0:
        return region, 0.0
    return region, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.008, 0.06])
def test_region_and_boundary_as_by_loops(tolerance):
    def blobs(seed):
        return F.avg_pool2d(normal(7, 1, 27, 39, seed=seed), 9, stride=1)[:, 0] > 0.08

    predicted, true = blobs(0), blobs(1)
    predicted[5], true[5], true[6] = False, False, False  # both empty; only the truth empty
    predicted[2] = true[2].roll(1, dims=1)
    region, boundary = region_and_boundary(predicted, true, tolerance)
    expected = [davis_by_loops(p, t, tolerance) for p, t in zip(predicted, true, strict=True)]
    torch.testing.assert_close(region, torch.tensor([j for j, _ in expected]))
    torch.testing.assert_close(boundary, torch.tensor([f for _, f in expected]))
    assert boundary[5] == 1
    assert boundary[6] == 0
    assert boundary[2] > 0.9
    assert 0.05 < boundary[0] < 0.95


def test_scores_leave_out_the_first_and_the_last_frame():
    true = torch.zeros(5, 20, 20, dtype=torch.bool)
    true[:, 5:15, 5:15] = True
    predicted = true.clone()
    predicted[0] = predicted[4] = predicted[2] = False
    expected = {"J": 2 / 3, "F": 2 / 3, "J&F": 2 / 3, "J_recall": 2 / 3, "F_recall": 2 / 3}
    assert video_scores(predicted, true) == pytest.approx(expected)


def test_pixels_follow_the_objects_of_the_scenes_better_than_constant_features():
    clips = make_clips(4, frames=6)
    scores = []
    for frames, masks in zip(clips.frames, clips.masks, strict=True):
        pixels = patch_pixels(frames, 4)
        assert pixels.shape == (6, 64, 48)
        scores.append(
            [
                video_scores(
                    label_masks(propagate_labels(x, masks[0], (8, 8)), (8, 8), (32, 32)) == 1, masks
                )["J"]
                for x in (pixels, torch.ones_like(pixels))
            ]
        )
    ours, constant = torch.tensor(scores).mean(0)
    assert ours > constant + 0.05


def test_patch_pixels_are_cut_row_by_row():
    images = torch.randint(256, (2, 3, 8, 12), generator=torch.Generator().manual_seed(0))
    found = patch_pixels(images.to(torch.uint8), 4, mean=(0, 0, 0), std=(1, 1, 1))
    expected = images[1, :, 4:8, 8:12].float() / 255
    torch.testing.assert_close(found[1, 5].view(3, 4, 4), expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda: propagate_labels(torch.ones(3, 5, 2), torch.ones(6, 2), (2, 3)),
        lambda: propagate_labels(torch.ones(3, 6, 2), torch.ones(5, 2), (2, 3)),
        lambda: propagate_labels(torch.ones(3, 6, 2), torch.ones(1, 9, dtype=torch.int64), (2, 3)),
        lambda: propagate_labels(torch.ones(3, 6, 2), torch.ones(6, 2), (2, 3), topk=0),
        lambda: propagate_labels(torch.ones(3, 6, 2), torch.ones(6, 2), (2, 3), temperature=0.0),
        lambda: region_and_boundary(torch.ones(2, 4, 4), torch.ones(3, 4, 4)),
        lambda: video_scores(torch.ones(2, 4, 4), torch.ones(2, 4, 4)),
        lambda: patch_pixels(torch.zeros(1, 3, 10, 8, dtype=torch.uint8), 4),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(call):
    with pytest.raises(UserError):
        call()
