"""Label propagation against numbers from DINO's release.

Its ``label_propagation`` and ``restrict_neighborhood`` (facebookresearch/dino, 7c446df,
``eval_video_segmentation.py``) were run on the features below, frame after frame with its queue;
these are labels of the last frame.
"""

import pytest
import torch
from torch.nn.functional import one_hot

from dino_tutorial.evaluation import propagate_labels

FRAMES, GRID, WIDTH = 6, (5, 6), 4
PATCHES = (0, 8, 13, 29)
EXPECTED = {  # (frames of context, neighbourhood, topk): labels of PATCHES, mean square of all
    (2, 1, 3): (
        [
            [0.71834, 0.17047, 0.11118],
            [0.35216, 0.03595, 0.61188],
            [0.76910, 0.01375, 0.21714],
            [0.81422, 0.00362, 0.18216],
        ],
        0.202561,
    ),
    (7, 12, 5): (
        [
            [0.26312, 0.57958, 0.15730],
            [0.53441, 0.10237, 0.36322],
            [0.77427, 0.17090, 0.05483],
            [0.46998, 0.13891, 0.39110],
        ],
        0.167103,
    ),
}


@pytest.mark.parametrize("settings", EXPECTED)
def test_labels_as_dino(settings):
    n_patches = GRID[0] * GRID[1]
    steps = torch.arange(FRAMES * n_patches * WIDTH, dtype=torch.float64)
    features = torch.sin(0.37 * steps + 0.11 * (steps // 7) ** 1.3)
    features = features.view(FRAMES, n_patches, WIDTH).float()
    first = one_hot(torch.arange(n_patches) % 7 % 3, 3).float()
    n_context, neighbourhood, topk = settings
    last = propagate_labels(features, first, GRID, n_context, neighbourhood, topk)[-1]
    labels, mean_square = EXPECTED[settings]
    torch.testing.assert_close(last[list(PATCHES)], torch.tensor(labels), atol=2e-5, rtol=0)
    assert float(last.square().mean()) == pytest.approx(mean_square, abs=2e-6)
