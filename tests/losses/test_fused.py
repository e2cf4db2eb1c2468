"""The fused loss against the plain one: values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.losses import dino_loss
from dino_tutorial.losses.fused import fused_dino_loss


def both(views, batch, out_dim, temp, seed=0, dtype=torch.float32, scale=1.0):
    """(value, gradient) by the plain and by the fused function, of the same inputs."""
    g = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(views, batch, out_dim, generator=g)
    targets = torch.randn(2, batch, out_dim, generator=g).softmax(dim=-1)
    found = []
    for loss in (dino_loss, fused_dino_loss):
        logits = student.to(dtype).requires_grad_()
        value = loss(logits, targets, temp)
        (3 * value).backward()
        found.append((value.detach(), logits.grad))
    return found


@settings(max_examples=25, deadline=None)
@given(
    views=st.integers(2, 6),
    batch=st.integers(1, 5),
    out_dim=st.integers(2, 40),
    temp=st.floats(0.05, 1.0),
    seed=st.integers(0, 1000),
)
def test_equal_for_any_shape_and_temperature(views, batch, out_dim, temp, seed):
    (value, gradient), (fused, fused_gradient) = both(views, batch, out_dim, temp, seed)
    torch.testing.assert_close(fused, value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fused_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_equal_in_every_precision(dtype, scale):
    """Both compute in float32 whatever they are given; only the gradient has the logits' type."""
    (value, gradient), (fused, fused_gradient) = both(4, 3, 512, 0.1, dtype=dtype, scale=scale)
    assert fused.dtype == value.dtype == torch.float32
    assert fused_gradient.dtype == gradient.dtype == dtype
    torch.testing.assert_close(fused, value, rtol=1e-5, atol=1e-6)
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(fused_gradient, gradient, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("loss, reached", [(dino_loss, True), (fused_dino_loss, False)])
def test_a_gradient_reaches_the_targets_of_the_plain_loss_alone(loss, reached):
    student = torch.randn(3, 2, 8, requires_grad=True)
    targets = torch.rand(2, 2, 8, requires_grad=True)
    loss(student, targets, 0.1).backward()
    assert student.grad.abs().sum() > 0 and (targets.grad is not None) == reached
