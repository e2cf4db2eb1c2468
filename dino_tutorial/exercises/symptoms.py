"""What is wrong with an answer that makes no known mistake, by properties that anybody can test.

Each symptom is a fact about the answer, found by calling it again: a sign, a factor, an argument
that it never looks at, a case in which alone it fails. None guesses at a cause.
"""

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import Answer, Mistaken, Observation, as_tensor

RELATIVE, ABSOLUTE = 1e-3, 1e-5  # single precision, with room for another order of summation
Symptom = tuple[str, str]
VAGUE = (  # said only where nothing else is found, and no two mistakes explain more
    "case",
    "some-entries",
    "depends-on-shift",
    "far-too-large",
    "far-too-small",
    "right-when",
    "right-when-one",
    "direction",
    "too-many",
    "too-few",
    "repeated",
)


def close(one: Tensor, two: Tensor) -> bool:
    """Whether two results are the same up to rounding; nan equals nan."""
    return one.shape == two.shape and torch.allclose(
        one.double(), two.double(), rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True
    )


def symptom(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """Name and sentence of the first symptom that the answer shows; None if there is none.

    One that says little comes last.
    """
    vague = None
    for name, says in _symptoms(answer, observed, expected):
        if name not in VAGUE:
            return name, says
        vague = vague or (name, says)
    return vague


def _symptoms(answer: Answer, observed: Observation, expected: Observation) -> Iterator[Symptom]:
    looks = _shape, _not_finite, _whole, _sign, _gradient, _moved
    for look in looks:
        found = look(answer, observed, expected)
        if found:
            yield found
    yield from _from_calls(answer)
    for look in (_places, _where):
        found = look(answer, observed, expected)
        if found:
            yield found


def _shape(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    for name, want in expected.items():
        got = observed.get(name)
        if got is None or got.shape == want.shape:
            continue
        if got.ndim == 2 and got.T.shape == want.shape and close(got.T, want):
            return "transposed", f"{name} has rows and columns exchanged; transpose it"
        said = f"{name} has shape {tuple(got.shape)}, and it should have {tuple(want.shape)}"
        return "shape", said
    return None


def _not_finite(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    for name, want in expected.items():
        if want.double().isfinite().all() and not observed[name].double().isfinite().all():
            says = f"{name} is not finite; look for the logarithm of 0, 0 / 0, and overflow in exp"
            return "not-finite", says
    return None


def _whole(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    for name, want in expected.items():
        if observed[name].dtype == torch.bool != want.dtype:
            return "true-and-false", f"{name} is made of True and False, and it should be numbers"
        if not observed[name].is_floating_point() and (want.double() % 1 != 0).any():
            return "whole-numbers", f"{name} is made of whole numbers, and it should be real"
    return None


def _sign(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    numbers = [n for n, want in expected.items() if want.dtype != torch.bool and want.any()]
    if numbers and all(close(-observed[name].double(), expected[name]) for name in numbers):
        return "wrong-sign", "everything has the wrong sign"
    return None


def _from_calls(answer: Answer) -> Iterator[Symptom]:
    """What calling the answer and the solution side by side tells."""
    exercise = answer.exercise
    calls = [call for call in answer.calls if all(map(_plain, call))][:6]
    names = _argument_names(exercise.call)
    right, wrong = (_formed(f, exercise.form) for f in (exercise.solution, answer.function))
    pairs = [(call, _result(wrong, call), _result(right, call)) for call in calls]
    known = [(c, g, w) for c, g, w in pairs if g is not None and w is not None]
    if not known or len(known) < len(calls):
        return
    outside = _bounds(known, exercise.bounds)
    for found in (outside, *(look(known, names, wrong, right) for look in LOOKS), _sizes(known)):
        if found:
            yield found


def _formed(function: Callable, form: Callable[[Tensor], Tensor]) -> Callable:
    """The function, with that of its results that counts."""

    def formed(*arguments: Any) -> Any:
        value = function(*arguments)
        several = isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value)
        return value if several else form(as_tensor(value))

    return formed


Known = list[tuple[tuple, Tensor, Tensor]]  # arguments, what came out, what should


def _constant(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    first_got, first_want = known[0][1:]
    outs = {tuple(got.shape) for _, got, _ in known}
    same = len(outs) == 1 and all(close(got, first_got) for _, got, _ in known)
    if same and any(not close(want, first_want) for _, _, want in known):
        return "constant", "it returns the same whatever it is given"
    several = [got for _, got, _ in known if got.numel() > 1]
    flat = several and all(close(got, got.flatten()[0].expand_as(got)) for got in several)
    if flat and any(not close(w, w.flatten()[0].expand_as(w)) for _, _, w in known):
        return "all-alike", "all entries of the result are alike"
    return None


def _input(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    for index, name in enumerate(names):
        if all(
            index < len(call) and isinstance(call[index], Tensor) and close(got, call[index])
            for call, got, _ in known
        ):
            return "returns-input", f"it returns `{name}` as it came"
    return None


def _swapped(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    for i, j in combinations(range(len(known[0][0])), 2):
        results = []
        for call, got, want in known:
            arguments = list(call)
            arguments[i], arguments[j] = arguments[j], arguments[i]
            turned = _result(right, tuple(arguments))
            results.append(turned is not None and close(turned, got) and not close(turned, want))
        if all(results):
            return "swapped-arguments", f"`{names[i]}` and `{names[j]}` have changed places"
    return None


def _ignored(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    for index, name in enumerate(names[: len(known[0][0])]):
        heeded, ignored = False, True
        for call, got, want in known:
            for changed in (*_changes(call[index]), *_strong_changes(call[index])):
                arguments = (*call[:index], changed, *call[index + 1 :])
                then, now = _result(right, arguments), _result(wrong, arguments)
                if then is None or now is None:
                    continue
                heeded |= not close(then, want)
                ignored &= torch.equal(now.nan_to_num(), got.nan_to_num())
        if heeded and ignored:
            return f"ignores-{name}", f"the result does not depend on `{name}`"
    return None


def _lengths(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    for index, name in enumerate(names[: len(known[0][0])]):
        found = [
            _compare(call, index, factor * call[index], got, want, wrong, right)
            for call, got, want in known
            for factor in (3, 0.2)
            if isinstance(call[index], Tensor) and call[index].is_floating_point()
        ]
        if found and all(f == "answer" for f in found):
            says = f"the result changes when `{name}` is three times as long, and it should not"
            return "depends-on-length", f"{says}; scale vectors to length one, along the right axis"
        if found and all(f == "solution" for f in found):
            return "length-lost", f"the length of `{name}` has no influence, and it should"
    return None


def _shifts(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    for index, name in enumerate(names[: len(known[0][0])]):
        found = [
            _compare(call, index, call[index] + shift, got, want, wrong, right)
            for call, got, want in known
            for shift in (0.5, -2.0)
            if shift > 0 or not _positive(call[index])
            if isinstance(call[index], Tensor) and call[index].is_floating_point()
        ]
        if found and all(f == "answer" for f in found):
            says = f"the result changes when the same number is added to all of `{name}`"
            return "depends-on-shift", f"{says}, and it should not"
        if found and all(f == "solution" for f in found):
            says = f"adding the same number to all of `{name}` has no influence, and it should"
            return "shift-lost", says
    return None


def _mixed(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """Whether the first entry depends on the last input, where it should not, or the reverse."""
    for index, name in enumerate(names[: len(known[0][0])]):
        for axis in (0, 1):
            found = []
            for call, got, want in known:
                x = call[index]
                if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim <= axis + 1:
                    continue
                if got.shape != want.shape or want.ndim <= axis or x.shape[axis] < 2:
                    continue
                if x.shape[axis] != want.shape[axis]:
                    continue
                mixes = should = False
                for factor, shift in ((-0.7, 0.9), (6.0, -3.0), (-9.0, 0.0)):
                    changed = x.detach().clone()
                    changed.select(axis, -1).mul_(factor).add_(shift)
                    arguments = (*call[:index], changed, *call[index + 1 :])
                    then, now = _result(right, arguments), _result(wrong, arguments)
                    if then is None or now is None or not then.shape == want.shape == now.shape:
                        continue
                    rows = [t.select(axis, 0) for t in (got, now, want, then)]
                    mixes, should = mixes or not close(*rows[:2]), should or not close(*rows[2:])
                found.append((mixes, should))
            if found and all(mixes and not should for mixes, should in found):
                says = f"the first of the results along axis {axis} depends on the last of `{name}`"
                return "mixed", f"{says}, and it should not; an operation runs over the wrong axis"
            if found and all(should and not mixes for mixes, should in found):
                says = f"the first of the results along axis {axis} does not see the last of"
                return "not-mixed", f"{says} `{name}`, and it should"
    return None


def _factor(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    """A factor that is the same throughout a call and has a meaning there."""
    known = [k for k in known if k[1].any() or k[2].any()]  # 0 is any number of times 0
    factors = [_ratio(got, want) for _, got, want in known]
    if not known or None in factors or all(abs(f - 1) < 1e-3 for f in factors if f):
        return None
    for what in _meanings(known[0][0], names):
        sizes = [_meanings(call, names).get(what) for call, _, _ in known]
        for power, says in ((1, "times too large"), (-1, "times too small")):
            if all(
                s and f and abs(f / s**power - 1) < 2e-3
                for s, f in zip(sizes, factors, strict=True)
            ):
                return "factor", f"the result is {what} {says}"
    return None


def _meanings(call: tuple, names: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in zip(names, call, strict=False):
        if isinstance(value, Tensor):
            for axis, size in enumerate(value.shape):
                if size > 1:
                    found[f"the length of `{name}`'s axis {axis}"] = size
            if value.numel() > 1 and value.ndim > 1:
                found[f"the number of entries of `{name}`"] = value.numel()
                found[f"the product of `{name}`'s first two axes"] = value.shape[0] * value.shape[1]
        elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            found[f"`{name}`"] = value
            found[f"the square of `{name}`"] = value**2
    for what, size in list(found.items()):
        if what.startswith("the length"):
            found[f"n / (n − 1), n {what},"] = size / (size - 1)
            found[f"the logarithm of {what}"] = math.log(size)
    return {
        "two": 2.0,
        "four": 4.0,
        "√2": 2**0.5,
        "eight": 8.0,
        "a hundred": 100.0,
        "a thousand": 1e3,
        "a million": 1e6,
        "a billion": 1e9,
        "2²⁰": 2.0**20,
        "1 / ln 2, as with logarithms to base 2,": 1 / math.log(2),
        "1 / ln 10, as with logarithms to base 10,": 1 / math.log(10),
    } | found


def _right_when(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """A special case in which alone the answer is right: what it gets wrong has no part there."""
    for index, name in enumerate(names[: len(known[0][0])]):
        for what, change in _neutral(known[0][0][index]):
            cases = [_with(call, index, change) for call, _, _ in known]
            telling = what == "is positive throughout" or _matters(cases, right, index)
            if telling and all(_agree(case, wrong, right) for case in cases):
                return "right-when", f"it is right where `{name}` {what}, and wrong elsewhere"
    for index, name in enumerate(names[: len(known[0][0])]):
        value = known[0][0][index]
        for axis in range(value.ndim if isinstance(value, Tensor) else 0):
            cases = [_cut(call, index, axis) for call, _, _ in known]
            if not _matters(cases, right):
                continue
            if all(_agree(case, wrong, right) for case in cases):
                says = (
                    f"it is right where axis {axis} of `{name}` has length 1, and wrong elsewhere"
                )
                return "right-when-one", says
    return None


def _matters(cases: list[tuple], right: Callable, fixed: int | None = None) -> bool:
    """Whether in these cases the result depends on anything beside the argument that is fixed.

    Where it does not, being right there says nothing.
    """
    for case in cases:
        want = _result(right, case)
        for index, value in enumerate(case):
            for changed in _changes(value) if index != fixed else ():
                then = _result(right, (*case[:index], changed, *case[index + 1 :]))
                if want is not None and then is not None and not close(then, want):
                    return True
    return False


def _neutral(value: Any) -> list[tuple[str, Callable]]:
    if isinstance(value, bool | str):
        return []
    if isinstance(value, int | float):
        return [("is 1", lambda v: type(v)(1)), ("is 0", lambda v: type(v)(0))]
    if isinstance(value, Tensor) and value.is_floating_point():
        return [
            ("is all 0", torch.zeros_like),
            ("is positive throughout", lambda v: v.detach().abs()),
        ]
    return []


def _with(call: tuple, index: int, change: Callable) -> tuple:
    return (*call[:index], change(call[index]), *call[index + 1 :])


def _cut(call: tuple, index: int, axis: int) -> tuple:
    """The call with every axis of this length cut to 1."""
    size = call[index].shape[axis]

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        for place, length in enumerate(value.shape):
            value = value.narrow(place, 0, 1) if length == size else value
        return value.detach().clone()

    return tuple(map(cut, call))


def _agree(call: tuple, wrong: Callable, right: Callable) -> bool:
    want, got = _result(right, call), _result(wrong, call)
    return want is not None and got is not None and bool(want.isfinite().all()) and close(got, want)


def _direction(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """A number that moves the result the wrong way."""
    for index, name in enumerate(names[: len(known[0][0])]):
        if not all(type(call[index]) in (int, float) for call, _, _ in known):
            continue
        moves = []
        for call, got, want in known:
            larger = _with(call, index, lambda v: v + 1 if isinstance(v, int) else 1.05 * v)
            then, now = _result(right, larger), _result(wrong, larger)
            if then is None or now is None or not then.numel() == now.numel() == 1:
                break
            moves.append(((then - want).sum().sign().item(), (now - got).sum().sign().item()))
        if len(moves) == len(known) and all(a * b < 0 for a, b in moves):
            falls = moves[0][1] < 0
            verb = ("falls", "grow") if falls else ("grows", "fall")
            return "direction", f"the result {verb[0]} with `{name}`, and it should {verb[1]}"
    return None


def _error_depends(
    known: Known, names: list[str], wrong: Callable, right: Callable
) -> Symptom | None:
    """An argument that plays no part in what is wrong."""
    if any(got.shape != want.shape for _, got, want in known):
        return None
    for index, name in enumerate(names[: len(known[0][0])]):
        found = []
        for call, got, want in known:
            value = call[index]
            real = not isinstance(value, Tensor) or value.is_floating_point()
            for changed in _changes(value) if real else ():
                arguments = (*call[:index], changed, *call[index + 1 :])
                then, now = _result(right, arguments), _result(wrong, arguments)
                if then is None or now is None or not then.shape == want.shape == now.shape:
                    continue
                if close(then, want) or _separate(call, index, changed, then - want, right):
                    continue
                room = 1e-3 * float((got - want).abs().max())
                found.append(torch.allclose(now - then, got - want, rtol=0, atol=room))
        if found and all(found):
            return "error-without", f"something is added that does not depend on `{name}`"
    return None


def _separate(call: tuple, index: int, changed: Any, gap: Tensor, right: Callable) -> bool:
    """Whether an argument has a term of its own in the result, so that no other error sees it."""
    for other, value in enumerate(call):
        for moved in _changes(value) if other != index else ():
            ends = []
            for here in (call[index], changed):
                arguments = list(call)
                arguments[index], arguments[other] = here, moved
                ends.append(_result(right, tuple(arguments)))
            before, after = ends
            if before is None or after is None or before.shape != gap.shape:
                continue
            if not close(after - before, gap):
                return False
    return True


def _bounds(known: Known, bounds: tuple[float, float]) -> Symptom | None:
    """Values that the result can never have."""
    low, high = bounds
    if any((got < low - 1e-4).any() for _, got, _ in known):
        return "negative", "the result is negative, which it can never be"
    if any((got > high + 1e-3).any() for _, got, _ in known):
        return "above-one", "the result is larger than 1, which it can never be"
    return None


def _sizes(known: Known) -> Symptom | None:
    """A result of another order of magnitude."""
    sizes = [
        (got.abs().mean() / want.abs().mean()).item()
        for _, got, want in known
        if want.abs().mean() > 0
    ]
    if sizes and len(sizes) == len(known) and all(size > 4 for size in sizes):
        return "far-too-large", "the result is several times too large, by no fixed factor"
    if sizes and len(sizes) == len(known) and all(size < 0.25 for size in sizes):
        return "far-too-small", "the result is several times too small, by no fixed factor"
    return None


def _function(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    """A result that the right one can be turned into, entry by entry."""
    marks = all(((x == 0) | (x == 1)).all() for _, got, want in known for x in (got, want))
    if marks or any(got.shape != want.shape for _, got, want in known):
        return None
    for name, says, change in FUNCTIONS:
        if all(close(got, change(want)) for _, got, want in known):
            return name, says
    gaps = torch.cat([(got - want).flatten() for _, got, want in known])
    if len(gaps) > 1 and close(gaps, gaps[0].expand_as(gaps)):
        return "offset", "everything is off by one and the same number"
    return None


FUNCTIONS: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("square", "the result is the square of what it should be", torch.square),
    ("root", "the result is the square root of what it should be", torch.sqrt),
    ("exponential", "the result is the exponential of what it should be", torch.exp),
    ("logarithm", "the result is the logarithm of what it should be", torch.log),
    ("reciprocal", "the result is 1 over what it should be", torch.reciprocal),
    ("complement", "the result is 1 minus what it should be", lambda x: 1 - x),
    ("absolute", "the result has lost its sign", torch.abs),
    ("cut-below", "what is below 0 is cut off, and it should not be", lambda x: x.clamp(min=0)),
    ("cut-above", "what is above 1 is cut off, and it should not be", lambda x: x.clamp(max=1)),
    ("cut", "what is below 0 or above 1 is cut off, and it should not be", lambda x: x.clamp(0, 1)),
    ("cut-to-integers", "the fractions are cut off, and they should not be", torch.floor),
    ("cut-to-integers", "the fractions are rounded up, and they should not be", torch.ceil),
    *(
        ("rounded", "the result is rounded, and it should not be", partial(torch.round, decimals=d))
        for d in range(4)
    ),
    ("one-more", "the result is 1 too large", lambda x: x + 1),
    ("one-less", "the result is 1 too small", lambda x: x - 1),
)


def _one_of(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    """A result of a few numbers of which some are always right."""
    sizes = {want.shape for _, _, want in known} | {got.shape for _, got, _ in known}
    (size,) = sizes if len(sizes) == 1 else (torch.Size(),)
    if len(size) != 1 or not 2 <= size[0] <= 4:
        return None
    wrong = [i for i in range(size[0]) if not all(close(got[i], want[i]) for _, got, want in known)]
    if len(wrong) == size[0]:
        return None
    ordinals = ("first", "second", "third", "fourth")
    listed = " and the ".join(ordinals[i] for i in wrong)
    verb, rest = ("is", "others are") if len(wrong) == 1 else ("are", "rest is")
    rest = "other is" if size[0] == 2 else rest
    count = ("two", "three", "four")[size[0] - 2]
    return (
        "one-of-several",
        f"the {listed} of the {count} numbers {verb} wrong, and the {rest} right",
    )


def _unseen(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """Whether the first or the last of the input has no influence, where it should have some."""
    if all((want % 1 == 0).all() for _, _, want in known):
        return None  # marks and counts often stay as they are
    for index, name in enumerate(names[: len(known[0][0])]):
        for axis, (place, which) in product((0, 1, 2), ((-1, "last"), (0, "first"))):
            heeded, seen = 0, False
            for call, got, want in known:
                for changed in _with_others_at(call[index], axis, place):
                    arguments = (*call[:index], changed, *call[index + 1 :])
                    then, now = _result(right, arguments), _result(wrong, arguments)
                    heeded += then is not None and not close(then, want)
                    seen |= now is None or not torch.equal(now, got)
            if heeded >= len(known) and not seen:
                says = f"the {which} of `{name}` along axis {axis} has no influence"
                return f"{which}-unseen", f"{says}, and it should"
    return None


def _with_others_at(value: Any, axis: int, place: int) -> Iterator[Tensor]:
    """The tensor with other numbers in one place along an axis, three times."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim <= axis:
        return
    generator = torch.Generator().manual_seed(79)
    for scale in (0.2, 1.0, 5.0):
        changed = value.detach().clone()
        part = changed.select(axis, place)
        noise = scale * value.detach().abs().mean() * torch.randn(part.shape, generator=generator)
        part.copy_(noise.abs() if _positive(value) else noise)
        yield changed


def _twice(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """Whether it matters that everything is there twice, or in which order, where it should not."""
    for index, name in enumerate(names[: len(known[0][0])]):
        value = known[0][0][index]
        for axis in range(value.ndim - 1 if isinstance(value, Tensor) else 0):
            for what, change in (
                ("is there twice", lambda v, place: torch.cat([v, v], place)),
                ("comes in another order", lambda v, place: v.roll(1, place)),
            ):
                cases = [_along(call, index, axis, change) for call, _, _ in known]
                pairs = [(_result(right, case), _result(wrong, case)) for case in cases]
                if all(
                    then is not None
                    and now is not None
                    and close(then, want)
                    and now.shape == got.shape
                    and not close(now, got)
                    for (then, now), (_, got, want) in zip(pairs, known, strict=True)
                ):
                    says = f"the result changes when all along axis {axis} of `{name}` {what}"
                    return "repeated", f"{says}, and it should not"
    return None


def _along(call: tuple, index: int, axis: int, change: Callable) -> tuple:
    """The call with a change along the first axis of this length in each argument."""
    size = call[index].shape[axis]

    def changed(value: Any) -> Any:
        if not isinstance(value, Tensor) or size not in value.shape:
            return value
        return change(value.detach(), list(value.shape).index(size))

    return tuple(map(changed, call))


def _paired(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """Whether it matters which row of one argument stands beside which of another."""
    first = known[0][0]
    for index, name in enumerate(names[: len(first)]):
        others = [
            other
            for j, other in enumerate(names[: len(first)])
            if j != index and isinstance(first[j], Tensor) and isinstance(first[index], Tensor)
            if first[j].ndim > 1 and first[j].shape[0] == first[index].shape[0] > 1
        ]
        if not others:
            continue
        found = [
            _compare(call, index, call[index].roll(shift, 0), got, want, wrong, right)
            for call, got, want in known
            for shift in (1, -1)
            if len(call[index]) > 2
        ]
        if found and all(f == "solution" for f in found):
            says = f"which of `{name}` belongs to which of `{others[0]}` has no influence"
            return "pairs-unseen", f"{says}, and it should"
    return None


LOOKS = (
    _constant,
    _input,
    _function,
    _factor,
    _swapped,
    _ignored,
    _one_of,
    _lengths,
    _shifts,
    _mixed,
    _paired,
    _unseen,
    _twice,
    _right_when,
    _direction,
    _error_depends,
)


def _gradient(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    for name, want in expected.items():
        if "gradient" in name and not want.any() and observed[name].any():
            return (
                "gradient-too-far",
                f"{name} should be zero, and it is not; something is not detached",
            )
        if "gradient" in name and want.any() and not observed[name].any():
            return "gradient-lost", f"{name} is zero, and it should not be; something is detached"
    others = [name for name in expected if "gradient" not in name]
    right = all(close(observed[name], expected[name]) for name in others)
    if right and 0 < len(others) < len(expected):
        return "gradient", "the value is right, and the gradient is not; a part is detached"
    return None


def _moved(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """Right numbers in the wrong places."""
    wrong = {n: (observed[n], w) for n, w in expected.items() if not close(observed[n], w)}
    counted = any(w.dtype == torch.bool or n.startswith("how often") for n, (_, w) in wrong.items())
    if not counted and all(
        pair[1].numel() > 1 and close(*(t.double().flatten().sort().values for t in pair))
        for pair in wrong.values()
    ):
        return "places", f"{next(iter(wrong))}: all the right numbers, in other places"
    return None


def _places(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """Where numbers are wrong, and how."""
    wrong = {n: (observed[n], w) for n, w in expected.items() if not close(observed[n], w)}
    if all(name.startswith("how often") for name in wrong):
        return _counted(wrong)
    big = {n: pair for n, pair in wrong.items() if pair[1].numel() > 1}
    if not wrong:
        return None
    if all(w.dtype == torch.bool for _, w in wrong.values()):
        return _marked(wrong)
    for axis, what in ((-1, "along the last axis"), (0, "along the first axis")):
        if (
            big
            and len(big) == len(wrong)
            and all(_sums_to_one(w, axis) and not _sums_to_one(g, axis) for g, w in big.values())
        ):
            return "sums", f"{next(iter(big))} should sum to 1 {what}, and does not"
    gaps = [(g.double() - w.double()).flatten() for g, w in wrong.values()]
    if len(wrong) == len(expected) and all(
        torch.allclose(gap, gaps[0][0].expand_as(gap), rtol=1e-3, atol=1e-5) for gap in gaps
    ):
        return "offset", "everything is off by one and the same number"
    name, (got, want) = next(iter(wrong.items()))
    return _run(name, got, want)


def _run(name: str, got: Tensor, want: Tensor) -> Symptom | None:
    """Where in a sequence the answer goes wrong."""
    if want.ndim != 1 or len(want) < 3:
        return None
    good = torch.isclose(got.double(), want.double(), rtol=RELATIVE, atol=ABSOLUTE)
    if close(got[1:], want[:-1]) or close(got[:-1], want[1:]):
        return "shifted", f"{name}: the right numbers, one place too early or too late"
    bad = (~good).nonzero().flatten()
    if len(bad) == 1 and int(bad) in (0, len(want) - 1):
        end = "first" if int(bad) == 0 else "last"
        return "one-end", f"{name}: all is right but the {end} entry"
    if good.any() and not good.all():
        share = f"{int(good.sum())} of {len(good)}"
        first = int(bad[0])
        return "some-entries", f"{name}: {share} entries are right, the first wrong one is {first}"
    return None


def _counted(wrong: dict[str, tuple[Tensor, Tensor]]) -> Symptom:
    name = next(iter(wrong)).removeprefix("how often ")
    got = torch.cat([g.double().flatten() for g, _ in wrong.values()])
    want = torch.cat([w.double().flatten() for _, w in wrong.values()])
    less, more = int((got < want).sum()), int((got > want).sum())
    if not more:
        return "missing", f"{less} are missing, looking at how often {name}"
    if not less:
        return "surplus", f"{more} are there too often, looking at how often {name}"
    return "missing-and-surplus", f"{less} are missing and {more} too many: how often {name}"


def _marked(wrong: dict[str, tuple[Tensor, Tensor]]) -> Symptom | None:
    pairs = [(got.bool(), want) for got, want in wrong.values()]
    name = next(iter(wrong))
    if name.startswith("whether"):
        got, want = pairs[0]
        return "whether", f"{name}: {bool(got)}, and it should be {bool(want)}"
    if all(torch.equal(~got, want) for got, want in pairs):
        return "inverted", f"{name} is True exactly where it should be False"
    missing = sum(int((want & ~got).sum()) for got, want in pairs)
    extra = sum(int((got & ~want).sum()) for got, want in pairs)
    if not missing or not extra:
        few, n = ("too many", extra) if extra else ("too few", missing)
        return few.replace(" ", "-"), f"{name}: {few} are True, {n} of them; no other is wrong"
    return None


def _where(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """A case in which it goes wrong, where it is right in others."""
    right = [name for name in expected if close(observed[name], expected[name])]
    wrong = [name for name in expected if name not in right]
    if right and wrong and not all(not expected[name].any() for name in right):
        return "case", f"{right[0]} is right, but not {wrong[0]}"
    return None


def _plain(value: Any) -> bool:
    """Whether a second call may have the same argument."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return isinstance(value, Tensor | int | float | str) and not isinstance(
        value, torch.nn.Parameter
    )


def _result(function: Callable, arguments: tuple) -> Tensor | None:
    """All numbers that a call returns, or None where it fails."""
    copies = [
        a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a
        for a in arguments
    ]
    try:
        value = function(*copies)
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            return torch.cat([as_tensor(part).detach().double().flatten() for part in value])
        return as_tensor(value).detach().double()
    except (Exception, Mistaken):
        return None


def _changes(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, max(value - 1, 1))
    elif isinstance(value, float):
        yield 0.7 * value
    elif isinstance(value, Tensor) and value.is_floating_point():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(77))
        spread = value.detach().std() if value.numel() > 1 else 0.5 * value.detach()
        changed = value.detach() + 0.3 * spread * noise
        yield changed.abs() if _positive(value) else changed
        if value.ndim > 1:
            yield value.detach().flip(0)
    elif isinstance(value, Tensor) and value.numel() > 1:
        yield from (value.flip(0), value.roll(1, -1))


def _positive(value: Any) -> bool:
    """Sizes, errors, shares: numbers of which an answer may take the logarithm."""
    return isinstance(value, Tensor) and bool((value >= 0).all())


def _strong_changes(value: Any) -> Iterator[Any]:
    """Values that have little to do with this one, so that only who ignores it stays the same."""
    generator = torch.Generator().manual_seed(78)
    if isinstance(value, float):
        yield from (0.2 * value, 3 * value)
    elif isinstance(value, Tensor) and value.is_floating_point():
        noise = torch.randn(value.shape, generator=generator) ** 3
        changed = (value.detach().abs().mean() + 1e-6) * noise
        yield changed.abs() if _positive(value) else changed
    elif isinstance(value, Tensor) and value.dtype == torch.bool:
        yield torch.rand(value.shape, generator=generator) > 0.5
    elif isinstance(value, Tensor) and value.numel():
        top = int(value.max()) + 1
        yield torch.randint(min(top, 0), max(top, 1), value.shape, generator=generator)


def _compare(
    call: tuple,
    index: int,
    changed: Tensor,
    got: Tensor,
    want: Tensor,
    wrong: Callable,
    right: Callable,
) -> str | None:
    """Who heeds a change that the other does not: the answer, the solution, or neither alone."""
    arguments = (*call[:index], changed.detach(), *call[index + 1 :])
    then, now = _result(right, arguments), _result(wrong, arguments)
    if then is None or now is None:
        return None
    heeds, should = not close(now, got), not close(then, want)
    return None if heeds == should else "answer" if heeds else "solution"


def _ratio(got: Tensor, want: Tensor) -> float | None:
    if got.shape != want.shape:
        return None
    got, want = got.flatten(), want.flatten()
    factor = (got @ want / (want @ want)).item()
    return factor if abs(factor) > 1e-6 and close(got, factor * want) else None


def _sums_to_one(x: Tensor, axis: int) -> bool:
    if x.ndim == 0:
        return False
    sums = x.double().sum(dim=axis)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _argument_names(call: str) -> list[str]:
    inside = re.search(r"\((.*)\)", call)
    return inside[1].split(", ") if inside and inside[1] else []
