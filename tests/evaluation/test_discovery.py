"""Objects found where features tell them, pieces and cuts against loops, boxes by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from dino_tutorial.datasets.scenes import SceneDataset, boxes_of
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    box_iou,
    center_box,
    color_masks,
    corloc,
    discovery,
    discovery_scores,
    lost_masks,
    mask_boxes,
    token_cut_masks,
)

GRID = (6, 8)
METHODS = [lost_masks, token_cut_masks]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def objects(n=12, seed=0):
    """Boxes of 6 to 12 of the 48 patches, anywhere."""
    masks = torch.zeros(n, *GRID, dtype=torch.bool)
    for mask, (y, x, h, w) in zip(
        masks, torch.randint(1000, (n, 4), generator=generator(seed)).tolist(), strict=True
    ):
        height, width = 2 + h % 2, 3 + w % 2
        y, x = y % (7 - height), x % (9 - width)
        mask[y : y + height, x : x + width] = True
    return masks


def identity_features(masks, noise=0.0, seed=1):
    """One direction for the object and the opposite one for the ground, with noise."""
    sign = 2.0 * masks.flatten(1)[..., None] - 1
    direction = torch.randn(16, generator=generator(seed))
    return sign * direction + noise * torch.randn(*sign.shape[:2], 16, generator=generator(seed))


@pytest.mark.parametrize("find", METHODS)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_features_that_are_the_object_find_it_exactly(find, noise):
    masks = objects()
    found = find(identity_features(masks, noise), GRID)
    assert found.dtype == torch.bool
    assert torch.equal(found, masks)
    truth = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert discovery_scores(found, truth) == {"corloc": 1.0, "box_iou": 1.0, "mask_iou": 1.0}


@pytest.mark.parametrize("find", METHODS)
def test_shuffled_patches_find_no_object(find):
    masks = objects(60)
    features = identity_features(masks, 0.3)
    order = torch.randperm(48, generator=generator(0))
    scores = discovery_scores(find(features[:, order], GRID), masks)
    assert scores["corloc"] < 0.4
    assert scores["mask_iou"] < 0.3


@pytest.mark.parametrize("find", METHODS)
def test_images_do_not_depend_on_each_other_or_on_chunks(monkeypatch, find):
    features = torch.randn(7, 48, 5, generator=generator(2))
    together = find(features, GRID)
    assert together.flatten(1).any(1).all()
    monkeypatch.setattr(discovery, "CHUNK_ENTRIES", 2 * 48**2)
    assert torch.equal(find(features, GRID), together)
    assert torch.equal(find(features[3:4], GRID)[0], together[3])


@pytest.mark.parametrize("find", METHODS)
def test_only_the_piece_with_the_seed_is_returned(find):
    masks = torch.zeros(1, *GRID, dtype=torch.bool)
    masks[0, :2, :2] = masks[0, 2, 2] = masks[0, 4:, 5:] = True  # (2, 2) touches by a corner only
    found = find(identity_features(masks), GRID)[0]
    pieces = [(slice(0, 2), slice(0, 2)), (slice(2, 3), slice(2, 3)), (slice(4, 6), slice(5, 8))]
    expected = []
    for place in pieces:
        piece = torch.zeros(*GRID, dtype=torch.bool)
        piece[place] = True
        expected.append(piece)
    assert any(torch.equal(found, piece) for piece in expected)


def flood(mask, start):
    """The 4-connected piece of a mask around a place."""
    piece, todo = set(), [start]
    while todo:
        y, x = todo.pop()
        inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
        if inside and mask[y, x] and (y, x) not in piece:
            piece.add((y, x))
            todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    result = torch.zeros_like(mask)
    for place in piece:
        result[place] = True
    return result


@pytest.mark.parametrize("k", [1, 8, 100])
def test_lost_as_by_loops(k):
    for features in torch.randn(15, 48, 4, generator=generator(3)) + 0.3:
        degree = [sum(float(a @ b) > 0 for b in features) for a in features]
        lonely = sorted(range(48), key=lambda p: degree[p])[:k]
        seed = lonely[0]
        joined = [p for p in lonely if float(features[p] @ features[seed]) > 0]
        mask = torch.tensor([sum(float(q @ features[p]) for p in joined) > 0 for q in features])
        expected = flood(mask.view(GRID), divmod(seed, GRID[1]))
        assert torch.equal(lost_masks(features[None], GRID, k)[0], expected)


def test_token_cut_as_the_generalised_eigenproblem():
    sizes = []
    for features in torch.randn(15, 48, 6, generator=generator(4)):
        unit = F.normalize(features.double(), dim=1)
        weight = np.where((unit @ unit.T).numpy() > 0.2, 1.0, 1e-5)
        degree = np.diag(weight.sum(1))
        _, vectors = scipy.linalg.eigh(degree - weight, degree, subset_by_index=[1, 1])
        cut = vectors[:, 0]
        seed = int(np.abs(cut).argmax())
        side = (cut > cut.mean()) == (cut[seed] > cut.mean())
        expected = flood(torch.from_numpy(side).view(GRID), divmod(seed, GRID[1]))
        found = token_cut_masks(features[None], GRID)[0]
        assert torch.equal(found, expected)
        sizes.append(int(found.sum()))
    assert len(set(sizes)) > 3


def test_colour_finds_a_coloured_box_and_nothing_in_a_plain_image(monkeypatch):
    monkeypatch.setattr(discovery, "CHUNK_ENTRIES", 2 * 24 * 32)
    images = torch.randint(90, 110, (4, 3, 24, 32), generator=generator(0)).to(torch.uint8)
    truth = torch.zeros(4, 24, 32, dtype=torch.bool)
    truth[0, 5:15, 8:20] = truth[1, 12:24, 0:9] = truth[2, 3:9, 22:30] = True
    images[:, 0][truth] = 220
    images[2, 1, 20:22, 2:4] = 240  # a small bright piece elsewhere
    images[2, 0, 20:22, 2:4] = 220
    images[3] = 77
    found = color_masks(images)
    assert torch.equal(found, truth)
    assert discovery_scores(found[:3], truth[:3])["corloc"] == 1


def test_scores_by_hand():
    truth = torch.zeros(3, 8, 8, dtype=torch.bool)
    truth[:, 2:6, 2:6] = True
    masks = torch.zeros_like(truth)
    masks[0, 2:6, 2:4] = True  # half of it: IoU one half, which is enough
    masks[1, 0:4, 2:6] = True  # moved by half: one third
    scores = discovery_scores(masks, truth)
    assert scores["corloc"] == pytest.approx(1 / 3)
    assert scores["box_iou"] == scores["mask_iou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    ring = truth.clone()
    ring[:, 3:5, 3:5] = False  # its box is right, its mask is not
    assert discovery_scores(ring, truth) == pytest.approx(
        {"corloc": 1, "box_iou": 1, "mask_iou": 12 / 16}
    )


def test_one_of_several_objects_is_enough():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10]])
    truth = torch.tensor([[[20, 20, 30, 30], [0, 0, 10, 6]], [[5, 0, 15, 10], [0, 0, 0, 0]]])
    assert corloc(boxes, truth) == 0.5
    assert corloc(boxes, truth, threshold=0.3) == 1
    assert corloc(boxes, truth[:, 0]) == 0
    assert box_iou(boxes[:, None], truth).flatten().tolist() == pytest.approx([0, 0.6, 1 / 3, 0])


def test_boxes_are_those_of_the_scenes():
    masks = torch.rand(40, 9, 13, generator=generator(0)) < 0.03
    masks[0] = False
    assert torch.equal(mask_boxes(masks), boxes_of(masks))
    assert mask_boxes(masks)[0].tolist() == [0, 0, 0, 0]


def test_colour_and_center_box_on_scenes_are_neither_empty_nor_solved():
    scenes = SceneDataset("val", n=60)
    truth = scenes.masks()
    by_color = discovery_scores(color_masks(scenes.images()), truth)
    box = discovery_scores(center_box((32, 32)).expand(60, -1, -1), truth)
    for scores in (by_color, box):
        assert 0.05 < scores["mask_iou"] < 0.8


@pytest.mark.parametrize("find", METHODS)
@pytest.mark.parametrize(
    "patches",
    [
        torch.rand(2, 47, 3),
        torch.rand(48, 3),
        torch.rand(0, 48, 3),
        torch.full((1, 48, 3), torch.nan),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(find, patches):
    with pytest.raises(UserError):
        find(patches, GRID)
    with pytest.raises(UserError):
        find(torch.rand(1, 1, 3), (1, 1))
    with pytest.raises(UserError):
        lost_masks(torch.rand(1, 48, 3), GRID, k=0)
