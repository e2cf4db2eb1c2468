"""Sinkhorn-Knopp and the swapped prediction loss against loops, lightly and the theory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.losses import sinkhorn_knopp, swapped_prediction_loss


def random_logits(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1  # cosines


def sinkhorn_by_loops(logits, temp, n_iters):
    """The iteration entry by entry, on plain numbers, as SwAV's appendix has it."""
    rows, columns = logits.shape
    q = [[math.exp(logits[b, k].item() / temp) for k in range(columns)] for b in range(rows)]
    for _ in range(n_iters):
        for k in range(columns):
            mass = sum(q[b][k] for b in range(rows)) * columns
            for b in range(rows):
                q[b][k] /= mass
        for b in range(rows):
            mass = sum(q[b]) * rows
            q[b] = [value / mass for value in q[b]]
    return torch.tensor([[value * rows for value in row] for row in q])


@pytest.mark.parametrize("batch, n_prototypes", [(7, 3), (4, 9), (1, 5), (6, 1)])
@pytest.mark.parametrize("n_iters", [1, 3])
def test_the_iteration_entry_by_entry(batch, n_prototypes, n_iters):
    logits = random_logits(batch, n_prototypes)
    expected = sinkhorn_by_loops(logits, 0.05, n_iters)
    torch.testing.assert_close(
        sinkhorn_knopp(logits, 0.05, n_iters), expected, rtol=1e-4, atol=1e-6
    )


def test_lightlys_numbers():
    lightly = pytest.importorskip("lightly.loss.swav_loss")
    logits = random_logits(32, 20)
    expected = lightly.sinkhorn(logits, iterations=3, epsilon=0.05)
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.05), expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 12),
    n_prototypes=st.integers(1, 12),
    scale=st.floats(0.1, 1000),
    seed=st.integers(0, 100),
)
def test_rows_sum_to_one_whatever_the_logits(batch, n_prototypes, scale, seed):
    q = sinkhorn_knopp(scale * random_logits(batch, n_prototypes, seed=seed), 0.05)
    assert (q >= 0).all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(batch))


def test_prototypes_are_used_equally_in_the_limit():
    logits = random_logits(24, 6) + 5 * torch.eye(6)[0]  # everybody prefers prototype 0
    assert (logits.argmax(dim=1) == 0).all()
    q = sinkhorn_knopp(logits, 0.5, n_iters=100)
    torch.testing.assert_close(q.sum(dim=0), torch.full((6,), 4.0), rtol=1e-4, atol=1e-4)
    assert sinkhorn_knopp(logits, 0.5).sum(dim=0)[0] < 4.5  # three iterations: nearly


def test_a_prototypes_popularity_does_not_matter():
    logits = random_logits(10, 4)
    shifted = logits + torch.tensor([3.0, -1.0, 0.5, 0.0])
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.1), sinkhorn_knopp(shifted, 0.1))


def test_assignments_carry_no_gradient_and_are_single_precision():
    q = sinkhorn_knopp(random_logits(4, 3).bfloat16().requires_grad_(), 0.05)
    assert not q.requires_grad and q.dtype == torch.float32


@pytest.mark.parametrize("shape, temp, n_iters", [((3,), 0.1, 3), ((3, 2), 0, 3), ((3, 2), 1, 0)])
@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_sense_is_refused(shape, temp, n_iters):
    with pytest.raises(ValueError, match=r"tensor \(B, K\)|temp is 0: use|n_iters must be 1"):
        sinkhorn_knopp(torch.zeros(shape), temp, n_iters)


def loss_by_pairs(logits, assignments, temp):
    terms = []
    for t in range(2):
        for v in range(len(logits)):
            if v != t:
                p = torch.softmax(logits[v].double() / temp, dim=-1)
                terms.append(-(assignments[t].double() * p.log()).sum(dim=-1).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("views", [2, 5])
def test_loss_and_gradient_pair_by_pair(views):
    logits = random_logits(views, 4, 7).requires_grad_()
    assignments = random_logits(2, 4, 7, seed=1).softmax(dim=-1).requires_grad_()
    value = swapped_prediction_loss(logits, assignments, 0.1)
    expected = loss_by_pairs(logits, assignments.detach(), 0.1)
    (gradient,) = torch.autograd.grad(expected, logits)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-4, atol=1e-6)
    assert assignments.grad is None  # assignments are constants


def test_lightlys_loss():
    lightly = pytest.importorskip("lightly.loss.swav_loss")
    logits = random_logits(5, 16, 8)
    expected = lightly.SwaVLoss()(list(logits[:2]), list(logits[2:]))
    assignments = torch.stack([sinkhorn_knopp(view, 0.05) for view in logits[:2]])
    torch.testing.assert_close(
        swapped_prediction_loss(logits, assignments, 0.1), expected[0], rtol=1e-5, atol=1e-6
    )


def test_predictions_that_say_nothing_give_ln_k():
    assignments = random_logits(2, 3, 40).softmax(dim=-1)
    value = swapped_prediction_loss(torch.ones(4, 3, 40), assignments, 0.1)
    assert value.item() == pytest.approx(math.log(40), rel=1e-5)


@pytest.mark.parametrize("views, assigned", [((1, 3, 4), (2, 3, 4)), ((4, 3, 4), (4, 3, 4))])
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_named(views, assigned):
    with pytest.raises(ValueError, match="at least 2 for V|assignments wants a tensor"):
        swapped_prediction_loss(torch.zeros(views), torch.zeros(assigned), 0.1)
