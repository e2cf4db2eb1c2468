"""Inputs that the checks of arguments have to let through."""

import math

import pytest
import torch
from torch import nn

from dino_tutorial.datasets.scenes.factors import sample_factors
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.discovery import mask_boxes
from dino_tutorial.evaluation.knn import knn_accuracies
from dino_tutorial.evaluation.segmentation import confusion_matrix
from dino_tutorial.losses.contrastive import info_nce
from dino_tutorial.losses.dino import dino_loss
from dino_tutorial.losses.koleo import KoLeoLoss
from dino_tutorial.training.optim import clip_gradients

pytestmark = pytest.mark.usefixtures("unchecked")


def test_numbers_in_tensors_are_taken_as_numbers():
    """A learned temperature keeps its gradient; counts and lists are handed on as plain numbers."""
    temperature = torch.tensor(0.1, requires_grad=True)
    loss = dino_loss(torch.randn(3, 2, 4), torch.rand(2, 2, 4), temperature)
    assert torch.autograd.grad(loss, temperature)[0].isfinite()
    logits, targets = torch.randn(3, 2, 4), torch.rand(2, 2, 4)
    every = torch.vmap(lambda t: dino_loss(logits, targets, t))(torch.tensor([0.1, 1.0]))
    one_by_one = torch.stack([dino_loss(logits, targets, t) for t in (0.1, 1.0)])
    torch.testing.assert_close(every, one_by_one)
    labels = torch.tensor([0, 1, 2])
    assert confusion_matrix(labels, labels, labels.max() + 1).tolist() == torch.eye(3).tolist()
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    assert knn_accuracies(x, y, x, y, torch.tensor([1, 2])).keys() == {1, 2}


def test_batches_that_may_be_empty():
    """Nothing to find nothing in: no features, no negatives, no masks."""
    assert KoLeoLoss()(torch.zeros(0, 4)) == 0
    assert info_nce(torch.ones(2, 4), torch.ones(2, 4), torch.zeros(0, 4)) == 0
    assert mask_boxes(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 4)
    assert len(sample_factors(torch.zeros(0, dtype=torch.long))["class"]) == 0


def test_gradients_are_clipped_of_any_parameters():
    """A generator, as torch takes it; a bound of infinity only measures."""
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    norm = clip_gradients(layer.parameters(), math.inf, "global")
    torch.testing.assert_close(norm, torch.tensor(6.0).sqrt())
    assert torch.equal(layer.weight.grad, before)
    with pytest.raises(UserError, match="parameters wants a list"):
        clip_gradients(layer.weight, 1.0, "global")
