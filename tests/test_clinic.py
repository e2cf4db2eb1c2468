"""Each collapse of the clinic happens when its safeguard is out, and not when it is back."""

from functools import cache
from statistics import median

import pytest
import torch

from dino_tutorial import clinic
from dino_tutorial.datasets import open_dataset
from dino_tutorial.errors import UserError
from dino_tutorial.training.health import diagnose

pytestmark = pytest.mark.slow  # whole trainings, other processes

STEPS = 100


@cache
def scenes():
    return open_dataset("patterns", "train", image_size=16, limit=256).images()


@cache
def rows_of(name: str, *without: str) -> tuple[dict, ...]:
    return tuple(clinic.observe(clinic.prepare(name, without), scenes(), steps=STEPS))


def late(rows, key: str) -> float:
    """Median over the second half: single rows flicker."""
    return median(row[key] for row in rows if row["step"] >= STEPS / 2)


def test_with_all_safeguards_dino_tells_images_apart():
    rows = rows_of("dino")
    assert late(rows, "information") > 0.2
    assert late(rows, "feature_spread") > 0.35
    assert late(rows, "output_spread") > 0.3
    assert 0.5 < late(rows, "batch_entropy") / rows[-1]["ln_k"] < 0.99
    assert diagnose(rows) is None


def test_without_centering_one_prototype_takes_all():
    rows = rows_of("dino", "centering")
    assert late(rows, "batch_entropy") < 0.25 * rows[-1]["ln_k"]
    assert late(rows, "loss") < 0.25 * rows[-1]["ln_k"]
    assert late(rows, "output_spread") < 0.15
    assert "same prototype" in diagnose(rows)


def test_without_sharpening_the_answer_is_uniform():
    rows = rows_of("dino", "sharpening")
    ln_k = rows[-1]["ln_k"]
    assert late(rows, "teacher_entropy") > 0.98 * ln_k
    assert late(rows, "loss") == pytest.approx(ln_k, rel=0.02)
    assert late(rows, "information") < 0.05
    assert rows[-1]["feature_spread"] < 0.6 * rows_of("dino")[-1]["feature_spread"]


@pytest.mark.parametrize("without", ["average", "copy", ("centering", "sharpening")])
def test_without_the_average_the_copy_or_both_operations_all_images_get_one_answer(without):
    """Neither entropy need stand at 0 or ln K; what collapses is the difference of the two."""
    rows = rows_of("dino", *([without] if isinstance(without, str) else without))
    assert late(rows, "information") < 0.05
    assert late(rows, "output_spread") < 0.15
    assert late(rows, "feature_spread") < 0.6 * late(rows_of("dino"), "feature_spread")


def test_with_all_safeguards_byol_keeps_its_spread():
    rows = rows_of("byol")
    assert late(rows, "output_spread") > 0.6
    assert late(rows, "loss") > 0.4


@pytest.mark.parametrize("without", ["predictor", "stop-gradient"])
def test_without_predictor_or_stop_gradient_byol_contracts(without):
    rows = rows_of("byol", without)
    assert late(rows, "output_spread") < 0.3
    assert late(rows, "loss") < 0.15


def test_without_the_average_a_short_byol_does_not_collapse():
    """SimSiam's finding; a long run in BYOL's paper did collapse."""
    assert late(rows_of("byol", "average"), "output_spread") > 0.6


def test_rows_are_the_same_each_time():
    first, second = (clinic.observe(clinic.prepare("dino"), scenes(), steps=7) for _ in range(2))
    assert first == second
    assert [row["step"] for row in first] == [0, 5, 6]


@pytest.mark.parametrize("name", clinic.SAFEGUARDS)
def test_all_cases_start_from_the_same_weights(name):
    whole = clinic.prepare(name).student.state_dict()
    for part in clinic.SAFEGUARDS[name]:
        student = clinic.prepare(name, part).student
        for key, weight in student.state_dict().items():
            torch.testing.assert_close(weight, whole[key], rtol=0, atol=0)


def test_one_network_means_a_gradient_in_the_targets():
    method = clinic.prepare("dino", "copy")
    method.loss.center.fill_(0.3)
    views = [torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    value = method(views, {"teacher_temp": 0.04}, measure=False)["loss"]
    logits, weight = method.student(views)[1], method.student.backbone.cls_token

    def gradient_for(targets):
        log_p = (logits / 0.1).log_softmax(dim=-1)
        loss = -(targets * log_p.flip(0)).sum(dim=-1).mean()  # each view against the other
        torch.testing.assert_close(value, loss)
        return torch.autograd.grad(loss, weight, retain_graph=True)[0]

    targets = ((logits - 0.3) / 0.04).softmax(dim=-1)
    (gradient,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(gradient, gradient_for(targets), rtol=1e-3, atol=1e-6)
    assert (gradient - gradient_for(targets.detach())).norm() > 0.1 * gradient.norm()


@pytest.mark.parametrize("name, part", [("dino", "copy"), ("byol", "stop-gradient")])
def test_one_network_starts_with_the_loss_of_two_equal_ones(name, part):
    views = [torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    values = {"teacher_temp": 0.04, "momentum": 0.9}
    losses = [
        clinic.prepare(name, without).train()(views, values, measure=True)["loss"]
        for without in ((), part)
    ]
    torch.testing.assert_close(*losses)


def test_the_removed_copy_is_the_student_itself():
    method = clinic.prepare("dino", "copy")
    method.after_step({"momentum": 0.5})
    assert method.teacher.network is method.student
    assert clinic.prepare("dino").teacher.network is not clinic.prepare("dino").student


def test_mistakes_are_named():
    with pytest.raises(UserError, match="the clinic has no 'moco': choose one of dino, byol"):
        clinic.prepare("moco")
    with pytest.raises(UserError, match="byol has no safeguard 'centering': choose from predictor"):
        clinic.prepare("byol", "centering")
