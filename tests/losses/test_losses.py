"""The losses against their equations, written out the slow way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from dino_tutorial.losses import DINOLoss, byol_loss, dino_loss


def dino_by_pairs(student, teacher, center, student_temp, teacher_temp):
    """Algorithm 1 of the DINO paper with every pair spelled out, in float64."""
    student, teacher = student.double(), teacher.double()
    terms = []
    for t in range(2):
        target = torch.exp((teacher[t] - center) / teacher_temp)
        target = target / target.sum(dim=-1, keepdim=True)
        for v in range(len(student)):
            if v != t:
                log_p = torch.log_softmax(student[v] / student_temp, dim=-1)
                terms.append(-(target * log_p).sum(dim=-1).mean())
    return torch.stack(terms).mean()


@settings(max_examples=25, deadline=None)
@given(
    views=st.integers(2, 6),
    batch=st.integers(1, 5),
    out_dim=st.integers(2, 40),
    student_temp=st.floats(0.05, 1.0),
    teacher_temp=st.floats(0.03, 0.2),
    seed=st.integers(0, 1000),
)
def test_dino_loss_and_gradient(views, batch, out_dim, student_temp, teacher_temp, seed):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(views, batch, out_dim, generator=g).requires_grad_()
    teacher = torch.randn(2, batch, out_dim, generator=g)
    loss = DINOLoss(out_dim, student_temp)
    loss.center.copy_(torch.randn(1, out_dim, generator=g))
    expected = dino_by_pairs(student, teacher, loss.center, student_temp, teacher_temp)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    targets = loss.probabilities(teacher, teacher_temp)
    plain = dino_loss(student, targets, student_temp)
    module = loss(student, teacher, teacher_temp)
    for value in (plain, module):
        (gradient,) = torch.autograd.grad(3 * value, student)
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, 3 * expected_gradient, rtol=1e-3, atol=1e-5)


def test_dino_loss_survives_large_logits():
    student = torch.tensor([[[500.0, 0.0]], [[0.0, 500.0]]], requires_grad=True)
    teacher = torch.tensor([[[9.0, -9.0]], [[9.0, -9.0]]])
    value = DINOLoss(2)(student, teacher, 0.04)
    value.backward()
    assert value.item() == pytest.approx(2500.0)  # one pair free, one 5000 wrong
    assert student.grad.isfinite().all()


def test_uniform_teacher_and_student_give_ln_k():
    loss = DINOLoss(4096)
    value = loss(torch.zeros(4, 3, 4096), torch.zeros(2, 3, 4096), 0.04)
    assert value.item() == pytest.approx(math.log(4096), abs=1e-4)
    assert math.log(4096) == pytest.approx(8.3178, abs=1e-4)


def test_center_moves_after_the_loss_and_only_in_training():
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, generator=g), torch.randn(2, 3, 8, generator=g)
    loss = DINOLoss(8, center_momentum=0.9)
    first = loss(student, teacher, 0.04)
    torch.testing.assert_close(loss.center[0], 0.1 * teacher.mean(dim=(0, 1)))
    assert first == DINOLoss(8)(student, teacher, 0.04)  # this loss was not centred by itself
    center = loss.center.clone()
    loss.eval()(student, teacher, 0.04)
    assert torch.equal(loss.center, center)


def test_no_gradient_reaches_the_teacher():
    student = torch.randn(2, 3, 8, requires_grad=True)
    teacher = torch.randn(2, 3, 8, requires_grad=True)
    DINOLoss(8)(student, teacher, 0.04).backward()
    assert teacher.grad is None and student.grad is not None


def test_half_precision_logits_get_half_precision_gradients():
    student = torch.randn(3, 2, 16, dtype=torch.bfloat16, requires_grad=True)
    value = DINOLoss(16)(student, torch.randn(2, 2, 16, dtype=torch.bfloat16), 0.04)
    value.backward()
    assert value.dtype == torch.float32 and student.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "student, teacher",
    [
        ((3, 2, 8), (2, 2, 9)),
        ((3, 2, 8), (3, 2, 8)),
        ((1, 2, 8), (2, 2, 8)),
        ((3, 2, 9), (2, 2, 9)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_named(student, teacher):
    with pytest.raises(ValueError, match="K"):
        DINOLoss(8)(torch.zeros(student), torch.zeros(teacher), 0.04)


def test_byol_loss_is_the_squared_distance_of_unit_vectors():
    g = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(5, 7, generator=g), torch.randn(5, 7, generator=g)
    distance = normalize(prediction, dim=-1) - normalize(target, dim=-1)
    expected = distance.pow(2).sum(dim=-1).mean()
    torch.testing.assert_close(byol_loss(prediction, target), expected)


@pytest.mark.parametrize("scale, expected", [(2.0, 0.0), (-3.0, 4.0)])
def test_byol_loss_ends_of_the_scale(scale, expected):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    assert byol_loss(x, scale * x).item() == pytest.approx(expected, abs=1e-5)


def test_byol_loss_stops_the_target_gradient():
    prediction, target = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    byol_loss(prediction, target).backward()
    assert target.grad is None and prediction.grad.abs().sum() > 0
