"""From an answer to a verdict: probe it, compare it with the right answer and known mistakes."""

import difflib
import json
import linecache
import os
import re
import secrets
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.exercises import pinned as pinned_state
from dino_tutorial.exercises.exercise import Answer, Exercise, Mistaken, Observation, drawn
from dino_tutorial.exercises.pinned import OutOfTime, pinned, time_limit
from dino_tutorial.exercises.registry import EXERCISES
from dino_tutorial.exercises.remembered import remember
from dino_tutorial.exercises.symptoms import VAGUE, close, symptom
from dino_tutorial.exercises.verdict import Verdict
from dino_tutorial.options import takes

RESULTS_FOLDER = "DINO_TUTORIAL_CHECKS"  # environment variable: where `grade` collects answers
LIBRARIES = tuple(
    str(Path(folder)) + os.sep
    for folder in (
        Path(__file__).parents[1],
        Path(torch.__file__).parent,
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
    )
)


class Hint(str):
    """Text that shows itself as it is, without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return str(self)


def check(exercise: str, answer: Callable) -> Verdict:
    """Check an answer to an exercise of the book, and say what is wrong if something is.

    >>> def byol_loss(prediction, target):
    ...     cosine = torch.cosine_similarity(prediction, target, dim=-1)
    ...     return (2 - 2 * cosine).mean()
    >>> check("byol_loss", byol_loss)
    ✗ byol_loss: the stop-gradient is missing: ... `hint("byol_loss")` says more.

    The answer runs on small probes, first on some that are always the same, then on fresh ones:
    on the CPU, in single precision, with gradients, whatever the defaults are, and for at most
    half a minute. An exception in it becomes a verdict too. What is right is remembered, see
    :func:`~dino_tutorial.exercises.progress`.

    Args:
        exercise: a name of :func:`list_exercises`.
        answer: the function or class itself, not its result.

    Returns:
        A :class:`Verdict`, true if the answer is right; it prints as one line.

    Raises:
        UserError: if there is no such exercise.
    """
    known = _find(exercise)
    refused = _refuse(exercise, answer)
    verdict = judge(known, answer) if refused is None else refused
    _LAST[exercise], _GIVEN[exercise] = verdict, 0
    _record(verdict, answer)
    return verdict


@takes()
def hint(exercise: str) -> Hint:
    """The next hint on what the last check of an exercise found wrong.

    The first call says how to mend it, or what is asked; the second gives numbers.

    Args:
        exercise: a name of :func:`list_exercises`.

    Raises:
        UserError: if there is no such exercise.
    """
    known = _find(exercise)
    verdict = _LAST.get(exercise)
    if verdict is None:
        return Hint(f"`{known.call}`: {known.task}")
    if verdict.passed:
        return Hint("it is solved already.")
    given = _GIVEN[exercise]
    _GIVEN[exercise] += 1
    if given < len(verdict.hints):
        return Hint(verdict.hints[given])
    return Hint(f"that is all that the check knows. What is asked: `{known.call}`: {known.task}")


_LAST: dict[str, Verdict] = {}  # what the last check of each exercise said in this session
_GIVEN: dict[str, int] = {}  # how many hints on it have been asked for


def _find(name: str) -> Exercise:
    if not isinstance(name, str) or name not in EXERCISES:
        near = difflib.get_close_matches(str(name), EXERCISES, n=1)
        more = f"did you mean '{near[0]}'?" if near else "list_exercises() shows all names"
        raise UserError(f"there is no exercise '{name}': {more}")
    return EXERCISES[name]


def judge(exercise: Exercise, function: Callable, draw: int | None = None) -> Verdict:
    """The verdict on one answer; see :func:`check`.

    Args:
        exercise: what it answers.
        function: the answer.
        draw: number of the fresh probes; by default one that nobody knows beforehand.
    """
    fresh = 1 + secrets.randbelow(10**6) if draw is None else draw
    try:
        with time_limit(pinned_state.TIME_LIMIT):
            return _judge(exercise, function, fresh)
    except OutOfTime:
        says = f"it does not come to an end within {pinned_state.TIME_LIMIT:g} seconds"
        return Verdict(
            exercise.name, False, f"{says}.", "time", ("look for a loop that never ends.",)
        )


def _judge(exercise: Exercise, function: Callable, fresh: int) -> Verdict:
    for number in (0, fresh):
        answer = Answer(exercise, function)
        try:
            observed = observe(answer, number)
            if not same(observed, expected_of(exercise, number)):
                return _explain(answer, observed, number, fresh if number == 0 else fresh + 1)
        except Mistaken as wrong:
            return _named(exercise, wrong.name, wrong.says or _sentence(exercise, wrong.name))
        except (Exception, SystemExit) as error:
            return _named(exercise, "error", _crash(error))
    return _passed(exercise, Answer(exercise, function))


def observe(answer: Answer, number: int) -> Observation:
    """What an answer does on the probes of one draw.

    Raises:
        Mistaken: if the answer is so wrong that a number would not tell.
    """
    with pinned(), drawn(number):
        return answer.exercise.observe(answer)


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
        with pinned(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            remark = exercise.remark(answer)
    except Exception:  # the answer is right; what it does beyond that is only worth a remark
        remark = None
    message = f"correct. Checked: {exercise.checked}." + (f" A remark: {remark}." if remark else "")
    return Verdict(exercise.name, True, message)


def _named(exercise: Exercise, name: str, says: str, number: str = "") -> Verdict:
    """A verdict on a mistake: its first part is the message, what follows are hints."""
    first, _, repair = (says, "", "") if name == "error" else says.partition("; ")
    asked = f"what is asked: `{exercise.call}`: {exercise.task}"
    hints = [f"{part}." for part in (repair, number) if part] or [asked]
    return Verdict(exercise.name, False, f"{first}.", name, tuple(hints))


def _explain(answer: Answer, observed: Observation, number: int, again: int) -> Verdict:
    """The verdict on a wrong answer: a known mistake, two of them, a symptom, or a difference.

    A known mistake is named only if the answer makes it on other probes as well.
    """
    exercise = answer.exercise
    expected = expected_of(exercise, number)
    numbers = _difference(observed, expected)
    if numbers is None:  # other keys: the probes themselves went another way
        return _named(exercise, "other", "it goes another way than the solution on the probes")
    second = _observed_again(answer, again)
    for mistake, form in exercise.wrong_answers():
        if _makes(exercise, form, observed, number) and _makes(exercise, form, second, again):
            return _named(exercise, mistake.name, mistake.says, numbers)
    with pinned(), drawn(number), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clear = symptom(answer, observed, expected)
    if clear is not None and clear[0] not in VAGUE:
        return _named(exercise, *clear, numbers)
    # Each known mistake shows on the first probes; where those are right, no two of them explain.
    for first, other in combinations(exercise.mistakes, 2) if number == 0 else ():
        one, two = first.forms[0], other.forms[0]  # all forms of both would take seconds
        if one.keys() & two.keys():
            continue
        both = one | two
        if _makes(exercise, both, observed, number) and _makes(exercise, both, second, again):
            name = f"{first.name}+{other.name}"
            verdict = _named(exercise, name, first.says, numbers)
            hides = f"{verdict.message[:-1]} (and a second mistake hides behind it)."
            return replace(verdict, message=hides)
    return _named(exercise, *(clear or ("other", _first_wrong(observed, expected))), numbers)


def _observed_again(answer: Answer, number: int) -> Observation | None:
    try:
        return observe(Answer(answer.exercise, answer.function), number)
    except (Mistaken, Exception):
        return None


def _makes(exercise: Exercise, form: dict, observed: Observation | None, number: int) -> bool:
    """Whether an answer does on the probes of a draw what a known mistake does."""
    return observed is not None and same(observed, expected_of(exercise, number, **form))


def expected_of(exercise: Exercise, number: int, **mistake: Any) -> Observation | None:
    """What the right answer does, or a known wrong one; None if that never gets to an end.

    Kept for the probes that are always the same.
    """
    if number == 0:
        return _expected_first(exercise, **mistake)
    return _compute_expected(exercise, number, mistake)


@cache
def _expected_first(exercise: Exercise, **mistake: Any) -> Observation | None:
    return _compute_expected(exercise, 0, mistake)


def _compute_expected(exercise: Exercise, number: int, mistake: dict) -> Observation | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function = exercise.wrong(mistake) if mistake else exercise.solution
            return observe(Answer(exercise, function), number)
        except (Exception, Mistaken):
            if not mistake:
                raise
            return None


def same(one: Observation, two: Observation | None) -> bool:
    """Whether two observations are the same up to rounding."""
    return (
        two is not None
        and one.keys() == two.keys()
        and all(close(tensor, two[name]) for name, tensor in one.items())
    )


def _first_wrong(observed: Observation, expected: Observation) -> str:
    """No mistake that is known and no symptom: what is wrong, without the right number."""
    wrong = next(name for name in expected if not close(observed[name], expected[name]))
    return f"{wrong} is wrong"


def _difference(observed: Observation, expected: Observation | None) -> str | None:
    """The number that is furthest off, and what it should be."""
    if expected is None or observed.keys() != expected.keys():
        return None
    name = next(name for name in expected if not close(observed[name], expected[name]))
    got, want = observed[name].double(), expected[name].double()
    if got.shape != want.shape:
        return f"{name} has shape {tuple(got.shape)}, and it should have {tuple(want.shape)}"
    gap = (got - want).abs().nan_to_num(torch.inf)
    index = np.unravel_index(int(gap.argmax()), got.shape)  # torch's own imports SymPy for it
    where = f" at index {index}" if index else ""
    return f"on a probe, {name}{where} is {got[index]:.5g} and should be {want[index]:.5g}"


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


def _record(verdict: Verdict, answer: Any) -> None:
    """Keep what was solved; in a submission that is graded, the answer itself."""
    folder = os.environ.get(RESULTS_FOLDER)
    if folder:
        _hand_in(Path(folder), verdict, answer)
    elif verdict.passed:
        remember(verdict.exercise)


def _hand_in(folder: Path, verdict: Verdict, answer: Any) -> None:
    try:
        import cloudpickle

        kept = cloudpickle.dumps(answer)
    except Exception:  # without its code it cannot be checked again, but it was tried
        kept = b""
    names = {"exercise": verdict.exercise, "passed": verdict.passed, "mistake": verdict.mistake}
    stem = f"{time.time_ns():020d}"
    (folder / f"{stem}.pickle").write_bytes(kept)
    (folder / f"{stem}.json").write_text(json.dumps(names), encoding="utf-8")
