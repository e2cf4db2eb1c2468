"""The fused loss against the plain one: values and gradients."""

import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dino_tutorial.losses import dino_loss, fused, ibot_loss
from dino_tutorial.losses.fused import fused_dino_loss, fused_ibot_loss


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


class Kept(TorchDispatchMode):
    """The largest number of bytes that tensors of a given shape took at once."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.alive, self.most = shape, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and made.shape == self.shape:
                storage = made.untyped_storage()
                self.alive[storage.data_ptr()] = weakref.ref(storage), storage.nbytes()
        alive = {place: size for place, (ref, size) in self.alive.items() if ref() is not None}
        self.most = max(self.most, sum(alive.values()))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", [2**26, 3 * 64, 1])
def test_patches_in_parts_cost_and_push_the_same(monkeypatch, dtype, part):
    monkeypatch.setattr(fused, "PART", part)
    g = torch.Generator().manual_seed(0)
    student = 5 * torch.randn(10, 64, generator=g)
    targets = torch.randn(10, 64, generator=g).softmax(dim=-1)
    weights = torch.rand(10, generator=g)
    values, gradients = [], []
    for loss in (ibot_loss, fused_ibot_loss):
        logits = student.to(dtype).requires_grad_()
        values.append(loss(logits, targets, weights, 4, 0.1))
        (3 * values[-1]).backward()
        gradients.append(logits.grad)
    assert values[1].dtype == torch.float32 and gradients[1].dtype == dtype
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(*gradients, rtol=rounding, atol=1e-6)


def test_without_masked_patches_there_is_nothing_to_learn():
    logits = torch.zeros(0, 8, requires_grad=True)
    value = fused_ibot_loss(logits, torch.zeros(0, 8), torch.zeros(0), 4, 0.1)
    value.backward()
    assert value.item() == 0 and logits.grad.shape == (0, 8)


def test_patches_need_less_memory():
    """Buffers of the size of the logits at once, with small parts: gradient and its copy."""
    shape, most = (64, 512), {}
    targets, weights = torch.full(shape, 1 / 512), torch.ones(64)
    for loss in (ibot_loss, fused_ibot_loss):
        logits = torch.zeros(shape, requires_grad=True)
        with Kept(shape) as kept, mock.patch.object(fused, "PART", 8 * 512):
            loss(logits, targets, weights, 4, 0.1).backward()
        most[loss] = kept.most / logits.nbytes
    assert most[fused_ibot_loss] <= 2 and most[ibot_loss] > most[fused_ibot_loss]
