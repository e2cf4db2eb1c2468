"""Each checker passes its solution and names each known mistake; nothing an answer does escapes."""

import inspect
import math
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.exercises import check, list_exercises
from dino_tutorial.exercises.checking import judge
from dino_tutorial.exercises.registry import CHAPTERS, EXERCISES

ROOT = Path(__file__).resolve().parents[2]
TEACHING = ROOT / "book" / "teaching.md"
WRONG = [
    pytest.param(exercise, mistake, form, id=f"{exercise.name}-{mistake.name}-{index}")
    for exercise in EXERCISES.values()
    for mistake in exercise.mistakes
    for index, form in enumerate(mistake.forms)
]


def test_the_chapters_are_the_numbered_ones_of_the_book_in_its_order():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    numbered = [
        Path(chapter["file"]).name
        for part in parts
        if part.get("numbered")
        for chapter in part["chapters"]
    ]
    assert numbered == list(CHAPTERS)
    assert {exercise.chapter for exercise in EXERCISES.values()} == set(CHAPTERS)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_solution_is_right(exercise):
    verdict = judge(exercise, exercise.solution)
    assert verdict and verdict.message.startswith("correct. Checked: "), verdict


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_what_mistakes_are_made_from_is_right_itself(exercise):
    assert judge(exercise, exercise.variant)


@pytest.mark.parametrize("exercise, mistake, form", WRONG)
def test_each_mistake_is_named(exercise, mistake, form):
    verdict = judge(exercise, exercise.wrong(form), draw=3)
    assert not verdict
    assert verdict.mistake == mistake.name
    assert verdict.message == f"{mistake.hint}."  # the repair is for `hint`
    assert not mistake.repair or verdict.hints[0] == f"{mistake.repair}."


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_mistakes_can_be_told_apart(exercise):
    """No two have the same name or sentence, and each can be made."""
    assert len({m.name for m in exercise.mistakes}) == len(exercise.mistakes) >= 4
    assert len({m.says for m in exercise.mistakes}) == len(exercise.mistakes)
    for mistake in exercise.mistakes:
        assert mistake.forms
        assert not mistake.says.endswith(".") and ". " not in mistake.says  # one sentence


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
@pytest.mark.parametrize(
    "value", [None, "text", object(), torch.zeros(3, 1, 2), 7.5, [[1], [2, 3]]]
)
def test_useless_results_become_a_sentence(exercise, value):
    verdict = judge(exercise, lambda *_: value)
    assert not verdict and verdict.message.endswith(".") and "\n" not in verdict.message


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_exceptions_become_a_sentence_with_their_line(exercise):
    def answer(*_):
        return 1 / 0  # line of the mistake

    lines, start = inspect.getsourcelines(answer)
    verdict = judge(exercise, answer)
    assert verdict.mistake == "error"
    assert f"line {start + 1}, `return 1 / 0  # line of the mistake`" in verdict.message
    assert "ZeroDivisionError: division by zero" in verdict.message


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_a_wrong_number_of_arguments(exercise):
    verdict = judge(exercise, lambda: None)
    assert verdict.mistake == "signature" and f"`{exercise.call}`" in verdict.message


@pytest.mark.parametrize("error", [SystemExit(3), RecursionError("deep"), MemoryError()])
def test_an_answer_cannot_end_the_session(error):
    def byol_loss(prediction, target):
        raise error

    verdict = check("byol_loss", byol_loss)
    assert verdict.mistake == "error" and type(error).__name__ in verdict.message


# Answers as readers write them, in other ways than the checkers' own.


def distance(prediction, target):
    p, z = (x / x.norm(dim=1, keepdim=True) for x in (prediction, target.detach()))
    return (p - z).square().sum(dim=1).mean()


def loop_loss(student_logits, teacher_logits, center, student_temp, teacher_temp):
    total, pairs = 0.0, 0
    for g, teacher_view in enumerate(teacher_logits):
        p = ((teacher_view - center) / teacher_temp).softmax(dim=-1).detach()
        for v, student_view in enumerate(student_logits):
            if v != g:
                q = (student_view / student_temp).exp()
                q = q / q.sum(dim=-1, keepdim=True)
                total, pairs = total - (p * q.log()).sum(dim=-1).mean(), pairs + 1
    return total / pairs


def einsum_loss(student_logits, teacher_logits, center, student_temp, teacher_temp):
    p = ((teacher_logits - center) / teacher_temp).softmax(dim=-1).detach()
    log_q = (student_logits / student_temp).log_softmax(dim=-1)
    pairs = -torch.einsum("gbk,vbk->gv", p, log_q) / p.shape[1]
    return (pairs.sum() - pairs.diagonal().sum()) / (2 * len(student_logits) - 2)


@torch.no_grad()
def state_dict_update(teacher, student, m):
    theirs = student.state_dict()
    for name, value in teacher.state_dict().items():
        value.copy_(
            m * value + (1 - m) * theirs[name] if value.is_floating_point() else theirs[name]
        )


def only_parameters(teacher, student, m):
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.data = m * ours.data + (1 - m) * theirs.data


def debiased(values, m):
    average, out = 0.0, []
    for t, value in enumerate(values, start=1):
        average = m * average + (1 - m) * value
        out.append(average / (1 - m**t))
    return np.array(out)


class Criterion(nn.Module):
    def __init__(self, out_dim, student_temp, center_momentum):
        super().__init__()
        self.temp, self.m = student_temp, center_momentum
        self.register_buffer("center", torch.zeros(out_dim))

    def forward(self, student_logits, teacher_logits, teacher_temp):
        args = student_logits, teacher_logits, self.center, self.temp, teacher_temp
        loss = einsum_loss(*args)
        if self.training:
            with torch.no_grad():
                self.center.mul_(self.m).add_((1 - self.m) * teacher_logits.mean(dim=(0, 1)))
        return loss


def crop_pairs(n_global, n_local):
    return {(g, v) for g in range(n_global) for v in range(n_global + n_local) if g != v}


def momentum_at(step, total, start):
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total)) / 2


def scipy_like_entropy(p):
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


def turns_picture_by_picture(images):
    turned = [np.rot90(image, k, (1, 2)).copy() for image in images.numpy() for k in range(4)]
    return np.stack(turned), [k for _ in images for k in range(4)]


def tiles_one_by_one(tiles, permutations, answers):
    shuffled = torch.empty_like(tiles)
    for b, answer in enumerate(answers):
        for t in range(len(tiles)):
            shuffled[t, b] = tiles[permutations[answer, t], b]
    return shuffled


def labelled_class_by_class(labels, per_class, seed):
    draw = np.random.default_rng(seed)
    kinds = np.unique(labels.numpy())
    return np.concatenate([draw.permutation(np.where(labels == k)[0])[:per_class] for k in kinds])


@pytest.mark.parametrize(
    "name, answer",
    [
        ("rotation_batch", turns_picture_by_picture),
        ("shuffle_tiles", tiles_one_by_one),
        ("labelled", labelled_class_by_class),
        ("byol_loss", distance),
        ("dino_loss", einsum_loss),
        ("ema_update", state_dict_update),
        ("debiased_ema", debiased),
        ("DINOLoss", Criterion),
        ("crop_pairs", crop_pairs),
        ("momentum_at", momentum_at),
        ("entropy", scipy_like_entropy),
        ("center_update", lambda c, t, m: m * c[0] + (1 - m) * t.detach().mean(dim=(0, 1))),
        ("half_life", lambda m: torch.tensor(0.5).log() / torch.tensor(m).log()),
        ("information", lambda p: scipy_like_entropy(p.mean(0)) - scipy_like_entropy(p).mean()),
    ],
)
def test_right_answers_of_other_kinds(name, answer):
    verdict = check(name, answer)
    assert verdict and "remark" not in verdict.message.lower(), verdict


def test_a_right_answer_that_overflows_gets_a_remark():
    verdict = check("dino_loss", loop_loss)
    assert verdict and "`log_softmax`" in verdict.message


def both_wrong(student_logits, teacher_logits, center, student_temp, teacher_temp):
    return einsum_loss(student_logits, teacher_logits, -center, teacher_temp, student_temp)


@pytest.mark.parametrize(
    "name, answer, mistake",
    [
        ("ema_update", only_parameters, "buffers-forgotten"),
        (
            "byol_loss",
            lambda p, z: F.mse_loss(F.normalize(p), F.normalize(z.detach())),
            "averaged-over-dimensions",
        ),
        ("byol_loss", lambda p, z: distance(p, z).item(), "python-number"),
        ("byol_loss", lambda p, z: distance(p.detach(), z), "no-gradient"),
        ("byol_loss", lambda p, z: 2 - 2 * F.cosine_similarity(p, z.detach()), "not-a-scalar"),
        ("dino_loss", both_wrong, "center-added+temperatures-swapped"),
        ("make_teacher", lambda student: student, "aliased"),
        (
            "rotation_batch",
            lambda x: (
                torch.cat([x.rot90(k, (3, 2)) for k in range(4)]),
                torch.arange(4).repeat_interleave(len(x)),
            ),
            "clockwise",
        ),
        ("labelled", lambda y, n, seed: torch.randperm(len(y))[: 3 * n], "not-by-class"),
    ],
)
def test_wrong_answers_of_other_kinds(name, answer, mistake):
    assert check(name, answer).mistake == mistake


def test_two_mistakes_are_one_sentence_about_the_first():
    message = check("dino_loss", both_wrong).message
    assert message.startswith("the center is added") and "second mistake" in message


def test_a_mistake_without_a_name_is_told_by_a_property():
    """Never by the number that would have been right: the first message does not give it away."""
    verdict = check("byol_loss", lambda p, z: 3 * distance(p, z) + 1e-9)
    assert verdict.mistake == "other" and "should be" in verdict.hints[-1]
    assert check("byol_loss", lambda p, z: 4 * distance(p, z)).mistake == "factor"
    assert check("byol_loss", lambda p, z: -distance(p, z)).mistake == "wrong-sign"
    verdict = check("byol_loss", lambda p, z: distance(p, z) + 0.25)
    assert verdict.message == "everything is off by one and the same number." or (
        verdict.mistake == "error-without"
    )
    said = check("byol_loss", lambda p, z: distance(p, z) * float("inf"))
    assert said.mistake == "not-finite"
    said = check("entropy", lambda p: scipy_like_entropy(p)[None]).message
    assert "has shape (1, 4), and it should have (4,)" in said


def test_an_input_that_is_changed_is_reported():
    def sinkhorn(logits, temp, n_iters):
        logits /= temp
        return logits.softmax(-1)

    assert check("sinkhorn", sinkhorn).mistake == "changes-input"


def test_the_callers_random_numbers_and_modes_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        assert check("byol_loss", distance)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)


def test_an_answer_that_draws_numbers_gets_the_same_verdict_twice():
    def noisy(prediction, target):
        return distance(prediction, target) + torch.rand(())

    assert check("byol_loss", noisy).message == check("byol_loss", noisy).message


def test_the_packages_own_function_is_no_answer():
    from dino_tutorial.losses import DINOLoss, byol_loss

    assert check("byol_loss", byol_loss).mistake == "not-your-own"
    assert check("DINOLoss", DINOLoss).mistake == "not-your-own"
    assert check("byol_loss", torch.tensor(0.3)).mistake == "not-a-function"


def test_how_a_verdict_reads():
    right, wrong = check("byol_loss", distance), check("make_teacher", lambda student: student)
    assert repr(right).startswith("✓ byol_loss: correct. Checked: ") and "\n" not in repr(right)
    assert str(wrong).startswith("✗ make_teacher: the teacher is the student, the same object")
    assert str(wrong).endswith('`hint("make_teacher")` says more.')
    assert wrong._repr_markdown_().startswith("✗ **make_teacher**: ")
    assert bool(right) and not bool(wrong)


def test_names_that_do_not_exist():
    with pytest.raises(UserError, match="did you mean 'byol_loss'"):
        check("byol_los", distance)
    with pytest.raises(UserError, match="there is no chapter 'biol'"):
        list_exercises("biol")


def test_the_list_names_every_exercise():
    assert {exercise.chapter for exercise in list_exercises()} == set(CHAPTERS)
    for name in CHAPTERS:  # an exercise is found in the module of its chapter
        module = import_module(f"dino_tutorial.exercises.{name.replace('-', '_')}")
        assert {exercise.chapter for exercise in module.EXERCISES} == {name}
        assert {exercise.observe.__module__ for exercise in module.EXERCISES} == {module.__name__}
    for chapter in CHAPTERS:
        listed = list_exercises(chapter)
        assert len(listed) >= 2
        for exercise in listed:
            assert exercise.call in str(listed) and exercise.task in listed._repr_markdown_()
            assert exercise.call.startswith(exercise.name + "(")


def test_the_teachers_page_lists_the_exercises_by_chapter():
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (`.+`) \|$", TEACHING.read_text("utf-8"), re.MULTILINE)
    listed = {chapter: names.strip("`").split("`, `") for chapter, names in rows}
    assert listed == {
        chapter: [exercise.name for exercise in list_exercises(chapter)] for chapter in CHAPTERS
    }
