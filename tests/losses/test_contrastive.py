"""InfoNCE and NT-Xent against their equations written out, and against lightly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

from dino_tutorial.losses import info_nce, nt_xent


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nt_xent_by_pairs(projections, temperature):
    """Equation 1 of SimCLR for every ordered pair of views, in float64."""
    z = torch.cat([projections[0], projections[1]]).double()
    n, terms = len(z) // 2, []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        similarity = [
            torch.exp(cosine_similarity(z[i], z[k], dim=0) / temperature) for k in range(2 * n)
        ]
        others = sum(similarity[k] for k in range(2 * n) if k != i)
        terms.append(-torch.log(similarity[j] / others))
    return torch.stack(terms).mean()


def info_nce_by_pairs(query, key, negatives, temperature):
    """Equation 1 of MoCo query by query, in float64; None: the other keys are the negatives."""
    terms = []
    for i in range(len(query)):
        others = negatives if negatives is not None else torch.cat([key[:i], key[i + 1 :]])
        candidates = torch.cat([key[i][None], others]).double()
        similarity = cosine_similarity(query[i].double()[None], candidates, dim=1) / temperature
        terms.append(-torch.log(similarity[0].exp() / similarity.exp().sum()))
    return torch.stack(terms).mean()


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(2, 6),
    width=st.integers(2, 9),
    temperature=st.floats(0.05, 1.0),
    seed=st.integers(0, 1000),
)
def test_nt_xent_and_gradient_pair_by_pair(batch, width, temperature, seed):
    projections = vectors(2, batch, width, seed=seed).requires_grad_()
    value = nt_xent(projections, temperature)
    expected = nt_xent_by_pairs(projections, temperature)
    (gradient,) = torch.autograd.grad(value, projections)
    (expected_gradient,) = torch.autograd.grad(expected, projections)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_negatives", [None, 1, 7])
def test_info_nce_and_gradient_query_by_query(n_negatives):
    query, key = vectors(4, 6).requires_grad_(), vectors(4, 6, seed=1).requires_grad_()
    negatives = None if n_negatives is None else 3 * vectors(n_negatives, 6, seed=2)
    value = info_nce(query, key, negatives, 0.2)
    expected = info_nce_by_pairs(query, key, negatives, 0.2)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(value, [query, key])
    wanted = torch.autograd.grad(expected, [query, key])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_nt_xent_has_lightlys_numbers():
    lightly = pytest.importorskip("lightly.loss")
    one, two = vectors(16, 8), vectors(16, 8, seed=1)
    expected = lightly.NTXentLoss(temperature=0.3)(one, two)
    torch.testing.assert_close(nt_xent(torch.stack([one, two]), 0.3), expected)


def test_info_nce_with_a_queue_has_lightlys_numbers():
    lightly = pytest.importorskip("lightly.loss")
    query, key, queue = vectors(16, 8), vectors(16, 8, seed=1), normalize(vectors(32, 8, seed=2))
    loss = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(32, 8))
    loss(query, key)  # the bank comes into being at the first call
    loss.memory_bank.bank = queue.clone()
    torch.testing.assert_close(info_nce(query, key, queue, 0.2), loss(query, key))


def test_equal_vectors_give_the_loss_of_a_guess():
    same = torch.ones(5, 3)
    assert nt_xent(torch.stack([same, same])).item() == pytest.approx(math.log(9), abs=1e-5)
    assert info_nce(same, same).item() == pytest.approx(math.log(5), abs=1e-5)
    assert info_nce(same, same, torch.ones(64, 3)).item() == pytest.approx(math.log(65), abs=1e-4)


def test_the_own_view_is_no_negative_and_length_does_not_matter():
    one, two = torch.eye(4), torch.eye(4)  # each finds its other view, orthogonal to the rest
    value = nt_xent(torch.stack([100 * one, 0.01 * two]), 0.1)
    assert value.item() == pytest.approx(math.log(1 + 6 * math.exp(-10)), rel=1e-3)


def test_a_false_negative_costs_ln_two():
    """A second image that looks the same leaves the query with two equally good answers."""
    alone, twice = torch.eye(8)[:1], torch.eye(8)[[0, 0]]
    assert info_nce(alone, alone, torch.eye(8)[1:], 0.01).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(twice, twice, temperature=0.01).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: nt_xent(torch.ones(3, 4, 5)), r"tensor \(2, B, D\), not one of shape \(3, 4, 5\)"),
        (lambda: nt_xent(torch.ones(2, 1, 5)), "at least two images"),
        (lambda: nt_xent(torch.ones(2, 4, 5), 0), "temperature is 0: use a number"),
        (lambda: info_nce(torch.ones(4, 5), torch.ones(3, 5)), "B is 3, but 4 in query"),
        (lambda: info_nce(*torch.ones(2, 4, 5), torch.ones(9, 6)), "D is 6, but 5 in query"),
        (lambda: info_nce(*torch.ones(2, 4, 5), temperature=-1), "temperature is -1: use a number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
