"""Parameter groups, clipping and the teacher against loops over parameters."""

import pytest
import torch
from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.models import VisionTransformer
from dino_tutorial.training import Teacher, clip_gradients, param_groups
from dino_tutorial.training.health import check_teacher_is_a_copy
from dino_tutorial.training.optim import (
    build_optimizer,
    clip_modules,
    set_learning_rate,
    split_by_module,
)


def small_vit(**overrides):
    return VisionTransformer(16, 8, 16, 3, 2, **overrides)


def names_by_group(model, groups):
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in groups]


def test_biases_and_norms_are_not_decayed_but_positions_are():
    model = small_vit()
    groups = param_groups(model, 0.1)
    decayed, free = sorted(
        zip(names_by_group(model, groups), groups, strict=True), key=lambda g: not g[1]["decays"]
    )
    assert {"pos_embed", "cls_token"} <= decayed[0] and decayed[1]["weight_decay"] == 0.1
    assert free[1]["weight_decay"] == 0.0
    assert all(n.endswith("bias") or "norm" in n for n in free[0])
    assert decayed[0] | free[0] == {n for n, p in model.named_parameters() if p.requires_grad}


def test_layer_decay_multiplies_once_a_block():
    model = small_vit()
    groups = param_groups(model, 0.0, layer_decay=0.5, patch_embed_lr_mult=0.2)
    rate = {
        name: group["lr_mult"]
        for names, group in zip(names_by_group(model, groups), groups, strict=True)
        for name in names
    }
    assert rate["norm.weight"] == 1.0
    assert rate["blocks.2.norm1.weight"] == 0.5
    assert rate["blocks.0.norm1.weight"] == 0.125
    assert rate["pos_embed"] == 0.0625
    patch = next(name for name in rate if name.startswith("patch_embed"))
    assert rate[patch] == pytest.approx(0.0625 * 0.2)


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    (group,) = param_groups(model, 0.1)
    assert group["params"] == [model.bias]


def test_learning_rate_and_weight_decay_reach_the_groups():
    model = small_vit()
    optimizer = build_optimizer("adamw", param_groups(model, 0.1, layer_decay=0.5), 0.0)
    set_learning_rate(optimizer, 1e-2, 0.3)
    for group in optimizer.param_groups:
        assert group["lr"] == 1e-2 * group["lr_mult"]
        assert group["weight_decay"] == (0.3 if group["decays"] else 0.0)


def test_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="adamw"):
        build_optimizer("adamax", [], 0.1)


@pytest.mark.parametrize("rule", ["parameter", "global"])
def test_clipping_bounds_the_right_norm(rule):
    g = torch.Generator().manual_seed(0)
    sizes = (0.1, 5.0, 40.0)
    parameters = [nn.Parameter(torch.zeros(4, 3)) for _ in sizes]
    for parameter, size in zip(parameters, sizes, strict=True):
        noise = torch.randn(4, 3, generator=g)
        parameter.grad = size * noise / noise.norm()
    before = [p.grad.clone() for p in parameters]
    total = clip_gradients(parameters, 3.0, rule)
    expected_total = sum(size**2 for size in sizes) ** 0.5
    assert total.item() == pytest.approx(expected_total, rel=1e-5)
    for parameter, old, size in zip(parameters, before, sizes, strict=True):
        limit = min(1.0, 3.0 / (size if rule == "parameter" else expected_total))
        torch.testing.assert_close(parameter.grad, old * limit, rtol=1e-4, atol=1e-6)


class Parts(nn.Module):
    """A method in outline: a student of two modules, something beside it, a frozen teacher."""

    def __init__(self):
        super().__init__()
        self.student = nn.ModuleDict(
            {"backbone": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)), "head": nn.Linear(3, 2)}
        )
        self.predictor = nn.Linear(2, 2)
        self.teacher = nn.Linear(3, 3).requires_grad_(False)


def test_each_module_is_clipped_by_its_own_norm():
    g = torch.Generator().manual_seed(0)
    method = Parts()
    modules = split_by_module(method)
    owners = [method.student["backbone"], method.student["head"], method.predictor]
    assert [[id(p) for p in module] for module in modules] == [
        [id(p) for p in owner.parameters()] for owner in owners
    ]
    for module, size in zip(modules, (10.0, 0.5, 4.0), strict=True):
        for parameter in module:
            parameter.grad = torch.randn(parameter.shape, generator=g)
        norm = sum(p.grad.pow(2).sum() for p in module).sqrt()
        for parameter in module:
            parameter.grad *= size / norm
    total = clip_modules(modules, 3.0)
    assert total.item() == pytest.approx((10**2 + 0.5**2 + 4**2) ** 0.5, rel=1e-5)
    after = [sum(p.grad.pow(2).sum() for p in module).sqrt().item() for module in modules]
    assert after == pytest.approx([3.0, 0.5, 3.0], rel=1e-5)


def test_zero_clips_nothing():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), 100.0)
    assert clip_gradients([parameter], 0.0, "global").item() == pytest.approx(100 * 3**0.5)
    assert (parameter.grad == 100).all()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.bn = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.bn(self.linear(x))


def test_teacher_averages_weights_and_buffers_by_the_formula():
    torch.manual_seed(0)
    student = Normed()
    teacher = Teacher(student)
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    for momentum in (0.9, 0.5):
        student(torch.randn(8, 4))
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        teacher(torch.randn(8, 4))  # its own batches leave no trace in it
        teacher.update(student, momentum)
        for name, value in student.state_dict().items():
            if value.is_floating_point():
                expected[name] = momentum * expected[name] + (1 - momentum) * value
            else:
                expected[name] = value
    for name, value in teacher.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_teacher_has_no_drop_path_and_no_gradient():
    torch.manual_seed(0)
    student = small_vit(drop_path_rate=0.9)
    teacher = Teacher(student)
    x = torch.randn(6, 3, 16, 16)
    assert torch.equal(teacher(x), teacher(x))
    assert not torch.equal(student(x), student(x))
    assert not teacher(x).requires_grad
    assert student.training and student.blocks[2] is not teacher.network.blocks[2]


def test_a_shared_teacher_is_named():
    student = nn.Linear(3, 2)
    teacher = Teacher(student)
    check_teacher_is_a_copy(student, teacher)
    teacher.network = student
    with pytest.raises(UserError, match="share the weights of 'weight'.*copy"):
        check_teacher_is_a_copy(student, teacher)
    teacher.network = nn.Linear(3, 2)
    teacher.network.weight.data = student.weight.data
    with pytest.raises(UserError, match="second name"):
        check_teacher_is_a_copy(student, teacher)
