"""From an answer to a verdict: probe it, compare it with the right answer and known mistakes."""

import difflib
import json
import linecache
import os
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.exercises.exercise import Answer, Exercise, Mistaken, Observation
from dino_tutorial.exercises.registry import EXERCISES
from dino_tutorial.exercises.verdict import Verdict

RESULTS_FILE = "DINO_TUTORIAL_CHECKS"  # environment variable: where `grade` collects verdicts
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # single precision, with room for another order of summation
LIBRARIES = tuple(
    str(Path(folder)) + os.sep
    for folder in (
        Path(__file__).parents[1],
        Path(torch.__file__).parent,
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
    )
)


def check(exercise: str, answer: Callable) -> Verdict:
    """Check an answer to an exercise of the book, and name the mistake if there is one.

    >>> def byol_loss(prediction, target):
    ...     return (2 - 2 * torch.cosine_similarity(prediction, target, dim=-1)).mean()
    >>> check("byol_loss", byol_loss)
    ✗ byol_loss: the stop-gradient is missing: a gradient flows into the target; ...

    The answer runs on small probes, always the same, on the CPU, in less than two seconds. An
    exception in it becomes a verdict too.

    Args:
        exercise: a name of :func:`list_exercises`.
        answer: the function or class itself, not its result.

    Returns:
        A :class:`Verdict`, true if the answer is right; it prints as one line.

    Raises:
        UserError: if there is no such exercise.
    """
    if exercise not in EXERCISES:
        near = difflib.get_close_matches(str(exercise), EXERCISES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "list_exercises() shows all names"
        raise UserError(f"there is no exercise '{exercise}': {hint}")
    refused = _refuse(exercise, answer)
    verdict = judge(EXERCISES[exercise], answer) if refused is None else refused
    _record(verdict)
    return verdict


def judge(exercise: Exercise, function: Callable) -> Verdict:
    """The verdict on one answer; see :func:`check`."""
    expected = _expected(exercise)
    answer = Answer(exercise, function)
    try:
        with _fresh():
            observed = exercise.observe(answer)
        if _equal(observed, expected):
            return _passed(exercise, answer)
        mistake, sentence = _explain(exercise, observed, expected)
    except Mistaken as wrong:
        mistake, sentence = wrong.name, wrong.says or _sentence(exercise, wrong.name)
    except (Exception, SystemExit) as error:
        mistake, sentence = "error", _crash(error)
    return Verdict(exercise.name, False, f"{sentence}.", mistake)


def _refuse(exercise: str, answer: Any) -> Verdict | None:
    if not callable(answer):
        says = f"hand over the function itself: `check({exercise!r}, my_function)`."
        return Verdict(exercise, False, says, "not-a-function")
    if (getattr(answer, "__module__", None) or "").split(".")[0] == "dino_tutorial":
        says = "this is the package's own; write one yourself, that is the exercise."
        return Verdict(exercise, False, says, "not-your-own")
    return None


def _passed(exercise: Exercise, answer: Answer) -> Verdict:
    try:
        with _fresh(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            remark = exercise.remark(answer)
    except Exception:  # the answer is right; what it does beyond that is only worth a remark
        remark = None
    message = f"correct. Checked: {exercise.checked}." + (f" A remark: {remark}." if remark else "")
    return Verdict(exercise.name, True, message)


def _explain(exercise: Exercise, observed: Observation, expected: Observation) -> tuple[str, str]:
    """Name and sentence of the mistake: a known one, two known ones, or the difference."""
    for mistake, form in exercise.wrong_answers():
        if _equal(observed, _expected(exercise, **form)):
            return mistake.name, mistake.says
    for first, second in combinations(exercise.mistakes, 2):
        one, two = first.forms[0], second.forms[0]  # all forms of both would take seconds
        if one.keys() & two.keys():
            continue
        if _equal(observed, _expected(exercise, **one, **two)):
            return (
                f"{first.name}+{second.name}",
                f"{first.says} (and a second mistake hides behind it)",
            )
    return "other", _difference(observed, expected)


@cache
def _expected(exercise: Exercise, **mistake: Any) -> Observation | None:
    """What the right answer does, or a known wrong one; None if that never gets to an end."""
    with _fresh(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function = exercise.wrong(mistake) if mistake else exercise.solution
            return exercise.observe(Answer(exercise, function))
        except Exception:
            if not mistake:
                raise
            return None


@contextmanager
def _fresh() -> Iterator[None]:
    """With gradients and the same random numbers for all; the caller's state is untouched."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _equal(one: Observation, two: Observation | None) -> bool:
    return (
        two is not None
        and one.keys() == two.keys()
        and all(_close(tensor, two[name]) for name, tensor in one.items())
    )


def _close(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(
        one.double(), two.double(), rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True
    )


def _difference(observed: Observation, expected: Observation) -> str:
    """No mistake that is known: the first number that is off, and what is right before it."""
    ratio = _common_ratio(observed, expected)
    if ratio is not None:
        return f"everything is {ratio:.4g} times what it should be"
    wrong = [name for name in expected if not _close(observed[name], expected[name])]
    for name in wrong:
        if not expected[name].any():
            return f"{name} should be zero, and it is not"
    name = wrong[0]
    got, want = observed[name].double(), expected[name].double()
    if got.shape != want.shape:
        return f"{name} has shape {tuple(got.shape)}, and it should have {tuple(want.shape)}"
    if not got.isfinite().all():
        return f"{name} is not finite; look for the logarithm of 0 and for a division by 0"
    index = tuple(int(i) for i in torch.unravel_index((got - want).abs().argmax(), got.shape))
    where = f" at index {index}" if index else ""
    right = [other for other in expected if _close(observed[other], expected[other])]
    but = f"{right[0]} is right, but " if right else ""
    return f"{but}{name}{where} is {got[index]:.5g} and should be {want[index]:.5g}"


def _common_ratio(observed: Observation, expected: Observation) -> float | None:
    """The factor between the two, if one factor explains everything."""
    if any(observed[name].shape != expected[name].shape for name in expected):
        return None
    got = torch.cat([observed[name].double().flatten() for name in expected])
    want = torch.cat([expected[name].double().flatten() for name in expected])
    factor = (got @ want / (want @ want)).item()
    explained = torch.allclose(got, factor * want, rtol=RELATIVE, atol=ABSOLUTE)
    return factor if explained and abs(factor) > 1e-6 else None


def _sentence(exercise: Exercise, name: str) -> str:
    return next(mistake.says for mistake in exercise.mistakes if mistake.name == name)


def _crash(error: BaseException) -> str:
    """An exception as one sentence, with the line of the reader's code that it came from."""
    lines = str(error).strip().splitlines() or [""]
    first = re.sub(r" at 0x[0-9a-f]+", "", lines[0][:200])  # the same words each time
    said = f"{type(error).__name__}: {first}".rstrip(" :.")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(LIBRARIES)
    ]
    if not frames:
        return f"it cannot be used here: {said}"
    source = linecache.getline(frames[-1].filename, frames[-1].lineno).strip()
    shown = f", `{source}`" if source else ""
    return f"it stops in line {frames[-1].lineno}{shown}, with {said}"


def _record(verdict: Verdict) -> None:
    if path := os.environ.get(RESULTS_FILE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(vars(verdict)) + "\n")
