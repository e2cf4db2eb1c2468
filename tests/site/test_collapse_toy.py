"""The DINO that trains in the reader's browser is the package's, and keeps its presets' word."""

import math
from pathlib import Path

import pytest
import torch
from site_scripts import run_script
from torch.nn.functional import linear, normalize

from dino_tutorial.losses import DINOLoss, dino_loss

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
TOY = STATIC / "collapse-toy.js"
ASKED = Path(__file__).with_name("collapse_toy.js")
LN_K = math.log(8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return lambda expression: run_script([TOY, ASKED], expression, tmp_path_factory.mktemp("toy"))


def network(values: dict) -> dict[str, torch.Tensor]:
    shapes = {"w1": (-1, 2), "b1": (-1,), "w2": (8, -1), "b2": (-1,), "v": (8, 8)}
    return {
        name: torch.tensor(values[name], dtype=torch.float64).reshape(shape)
        for name, shape in shapes.items()
    }


def logits_of(net: dict[str, torch.Tensor], views: torch.Tensor) -> torch.Tensor:
    hidden = torch.tanh(linear(views, net["w1"], net["b1"]))
    feature = normalize(linear(hidden, net["w2"], net["b2"]), dim=-1)
    return linear(feature, normalize(net["v"], dim=-1))  # (2, B, K)


def check(made: dict, name: str, expected: dict[str, torch.Tensor]) -> None:
    for key, value in network(made[name]).items():
        assert torch.allclose(value, expected[key], rtol=0, atol=1e-5), f"{name}.{key}"


def test_three_steps_are_those_of_the_package(run):
    made = run("threeSteps()")
    options = made["options"]
    student = {k: v.requires_grad_() for k, v in network(made["before"]).items()}
    teacher = network(made["before"])
    loss_fn = DINOLoss(8, options["studentTemp"], options["centerMomentum"]).train()
    adam = torch.optim.Adam(student.values(), options["learningRate"], betas=(0.9, 0.99))
    for drawn, loss_of_script in zip(made["views"], made["losses"], strict=True):
        views = torch.tensor(drawn, dtype=torch.float64).reshape(2, -1, 2)
        targets_from = logits_of(teacher, views)
        loss = loss_fn(logits_of(student, views), targets_from, options["teacherTemp"])
        assert loss.item() == pytest.approx(loss_of_script, abs=1e-5)
        adam.zero_grad()
        loss.backward()
        adam.step()
        for key, value in teacher.items():
            value.lerp_(student[key].detach(), 1 - options["momentum"])
    check(made, "student", student)
    check(made, "teacher", teacher)
    assert torch.allclose(torch.tensor(made["center"]), loss_fn.center[0], atol=1e-6)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_gradient_by_hand_is_that_of_autograd(run, stop_gradient):
    """With stop-gradient and without, with a center that is not zero."""
    made = run(f"gradient({str(stop_gradient).lower()})")
    net = {k: v.requires_grad_() for k, v in network(made["net"]).items()}
    views = torch.tensor(made["views"], dtype=torch.float64).reshape(2, -1, 2)
    student = logits_of(net, views)
    teacher = torch.tensor(made["teacher"], dtype=torch.float64).view_as(student)
    if not stop_gradient:
        assert torch.allclose(teacher, student, atol=1e-9)
        teacher = student
    targets = ((teacher - torch.tensor(made["center"], dtype=torch.float64)) / 0.05).softmax(-1)
    loss = dino_loss(student, targets.float(), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(made["loss"], abs=1e-5)
    check(made, "grad", {key: value.grad for key, value in net.items()})
    assert max(value.grad.abs().max() for value in net.values()) > 1e-2  # there is one to compare


@pytest.fixture(scope="module")
def ends(run) -> dict[str, dict]:
    """Each preset after 400 steps."""
    return run("ends(400)")


def test_healthy_climbs_towards_ln_k_and_then_learns_the_clusters(ends):
    end = ends["Healthy"]
    assert end["highest"] > 0.9 * LN_K > end["loss"]
    assert end["purity"] > 0.99 and end["batchEntropy"] - end["teacherEntropy"] > 1.5
    assert end["diagnosis"].startswith("Learned:")


def test_without_centering_one_prototype_takes_all(ends):
    end = ends["No centering"]
    assert end["at100"] < 0.1 and max(end["batchEntropy"], end["teacherEntropy"]) < 0.01
    assert end["loss"] < 0.01 and end["loss"] == min(one["loss"] for one in ends.values())
    assert end["diagnosis"].startswith("Collapse onto one prototype")


def test_without_sharpening_all_answers_are_even(ends):
    end = ends["No sharpening"]
    for name in ("loss", "teacherEntropy", "batchEntropy"):
        assert end[name] == pytest.approx(LN_K, abs=0.02), name
    assert end["diagnosis"].startswith("Uniform collapse")


def test_without_stop_gradient_all_points_get_one_answer_and_the_loss_is_high(ends):
    end = ends["Teacher = student"]
    assert end["gap"] < 0.05 and end["highest"] > 3 * LN_K
    assert end["purity"] < 0.25
    assert end["diagnosis"] == "Collapse: every point gets the same answer."


def test_the_clinic_is_light_and_loads_nothing():
    files = list(STATIC.glob("collapse-*"))
    assert len(files) == 3 and sum(file.stat().st_size for file in files) < 40_000
    assert not any("http" in file.read_text(encoding="utf-8") for file in files)
