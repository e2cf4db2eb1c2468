"""What is wrong with an answer that makes no known mistake, by properties that anybody can test.

Each symptom is a fact about the answer, found by calling it again: a sign, a factor, an argument
that it never looks at, a case in which alone it fails. None guesses at a cause.
"""

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import Answer, Mistaken, Observation, as_tensor

RELATIVE, ABSOLUTE = 1e-3, 1e-5  # single precision, with room for another order of summation
Symptom = tuple[str, str]


def close(one: Tensor, two: Tensor) -> bool:
    """Whether two results are the same up to rounding; nan equals nan."""
    return one.shape == two.shape and torch.allclose(
        one.double(), two.double(), rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True
    )


def symptom(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """Name and sentence of the first symptom that the answer shows; None if there is none."""
    for look in (_shape, _not_finite, _whole, _sign, _from_calls, _gradient, _places, _where):
        found = look(answer, observed, expected)
        if found:
            return found
    return None


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
        if not observed[name].is_floating_point() and (want.double() % 1 != 0).any():
            return "whole-numbers", f"{name} is made of whole numbers, and it should be real"
    return None


def _sign(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    numbers = [n for n, want in expected.items() if want.dtype != torch.bool and want.any()]
    if numbers and all(close(-observed[name].double(), expected[name]) for name in numbers):
        return "wrong-sign", "everything has the wrong sign"
    return None


def _from_calls(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """What calling the answer and the solution side by side tells."""
    calls = [call for call in answer.calls if all(map(_plain, call))][:6]
    names = _argument_names(answer.exercise.call)
    right, wrong = answer.exercise.solution, answer.function
    pairs = [(call, _result(wrong, call), _result(right, call)) for call in calls]
    known = [(c, g, w) for c, g, w in pairs if g is not None and w is not None]
    if not known or len(known) < len(calls):
        return None
    for look in LOOKS:
        found = look(known, names, wrong, right)
        if found:
            return found
    return None


Known = list[tuple[tuple, Tensor, Tensor]]  # arguments, what came out, what should


def _constant(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    first_got, first_want = known[0][1:]
    outs = {tuple(got.shape) for _, got, _ in known}
    same = len(outs) == 1 and all(close(got, first_got) for _, got, _ in known)
    if same and any(not close(want, first_want) for _, _, want in known):
        return "constant", "it returns the same whatever it is given"
    flat = all(
        got.numel() > 1 and close(got, got.flatten()[0].expand_as(got)) for _, got, _ in known
    )
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
            for changed in _changes(call[index]):
                arguments = (*call[:index], changed, *call[index + 1 :])
                then, now = _result(right, arguments), _result(wrong, arguments)
                if then is None or now is None:
                    continue
                heeded |= not close(then, want)
                ignored &= close(now, got)
        if heeded and ignored:
            return f"ignores-{name}", f"the result does not depend on `{name}`"
    return None


def _lengths(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    for index, name in enumerate(names[: len(known[0][0])]):
        found = [
            _compare(call, index, 3 * call[index], got, want, wrong, right)
            for call, got, want in known
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
            _compare(call, index, call[index] + 0.5, got, want, wrong, right)
            for call, got, want in known
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
                if got.shape != want.shape or want.ndim <= axis or len(x) < 2:
                    continue
                changed = x.detach().clone()
                changed.select(axis, -1).mul_(-0.7).add_(0.9)
                arguments = (*call[:index], changed, *call[index + 1 :])
                then, now = _result(right, arguments), _result(wrong, arguments)
                if then is None or now is None or then.shape != want.shape != now.shape:
                    continue
                rows = [t.select(axis, 0) for t in (got, now, want, then)]
                found.append((not close(*rows[:2]), not close(*rows[2:])))
            if found and all(mixes and not should for mixes, should in found):
                says = f"the first of the results along axis {axis} depends on the last of `{name}`"
                return "mixed", f"{says}, and it should not; an operation runs over the wrong axis"
            if found and all(should and not mixes for mixes, should in found):
                says = f"the first of the results along axis {axis} does not see the last of"
                return "not-mixed", f"{says} `{name}`, and it should"
    return None


def _factor(known: Known, names: list[str], *_: Callable) -> Symptom | None:
    """A factor that is the same throughout a call and has a meaning there."""
    factors = [_ratio(got, want) for _, got, want in known]
    if any(f is None for f in factors) or all(abs(f - 1) < 1e-3 for f in factors if f):
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
    return found | {"two": 2.0, "four": 4.0, "√2": 2**0.5}


def _right_when(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """A special case in which alone the answer is right: what it gets wrong has no part there."""
    for index, name in enumerate(names[: len(known[0][0])]):
        for what, change in _neutral(known[0][0][index]):
            if all(_agree(_with(call, index, change), wrong, right) for call, _, _ in known):
                return "right-when", f"it is right where `{name}` {what}, and wrong elsewhere"
    for index, name in enumerate(names[: len(known[0][0])]):
        value = known[0][0][index]
        for axis in range(value.ndim if isinstance(value, Tensor) else 0):
            if all(_agree(_cut(call, index, axis), wrong, right) for call, _, _ in known):
                says = (
                    f"it is right where axis {axis} of `{name}` has length 1, and wrong elsewhere"
                )
                return "right-when-one", says
    return None


def _neutral(value: Any) -> list[tuple[str, Callable]]:
    if isinstance(value, bool | str):
        return []
    if isinstance(value, int | float):
        return [("is 1", lambda v: type(v)(1)), ("is 0", lambda v: type(v)(0))]
    if isinstance(value, Tensor) and value.is_floating_point():
        alike = lambda v: v.detach().flatten()[0].expand_as(v).clone()  # noqa: E731
        return [
            ("is all 0", torch.zeros_like),
            ("is the same number everywhere", alike),
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
            if then is None or now is None or then.shape != want.shape or now.shape != got.shape:
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
            for changed in _changes(call[index]):
                arguments = (*call[:index], changed, *call[index + 1 :])
                then, now = _result(right, arguments), _result(wrong, arguments)
                if then is None or now is None or then.shape != want.shape != now.shape:
                    continue
                gap = torch.allclose(now - then, got - want, rtol=1e-3, atol=1e-4)
                found.append(gap and not close(then, want))
        if found and all(found):
            return "error-without", f"something is added that does not depend on `{name}`"
    return None


def _bounds(known: Known, names: list[str], wrong: Callable, right: Callable) -> Symptom | None:
    """Values that the result can never have."""
    if all((want >= 0).all() for _, _, want in known) and all(
        (g < -1e-6).any() for _, g, _ in known
    ):
        return "negative", "the result is negative, which it can never be"
    shares = all((want <= 1.00001).all() and (want >= 0).all() for _, _, want in known)
    if shares and any((got > 1.001).any() for _, got, _ in known):
        return "above-one", "the result is larger than 1, which it can never be"
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


LOOKS = (
    _constant,
    _input,
    _swapped,
    _ignored,
    _lengths,
    _shifts,
    _mixed,
    _factor,
    _right_when,
    _direction,
    _error_depends,
    _bounds,
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


def _places(answer: Answer, observed: Observation, expected: Observation) -> Symptom | None:
    """Right numbers in the wrong places, and the like."""
    wrong = {n: (observed[n], w) for n, w in expected.items() if not close(observed[n], w)}
    if all(name.startswith("how often") for name in wrong):
        return _counted(wrong)
    big = {n: pair for n, pair in wrong.items() if pair[1].numel() > 1}
    if not wrong:
        return None
    if len(big) == len(wrong) and all(
        close(g.double().flatten().sort().values, w.double().flatten().sort().values)
        for g, w in big.values()
    ):
        return "places", f"{next(iter(big))}: all the right numbers, in other places"
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
    if len(wrong) == len(expected) and all(
        (w.double() >= 0).all() and (g.double() < -1e-6).any() for g, w in wrong.values()
    ):
        return "negative", f"{next(iter(wrong))} is negative, which it can never be"
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
        yield (
            value.detach() + 0.3 * value.detach().std() * noise
            if value.numel() > 1
            else 0.7 * value
        )
        if value.ndim > 1:
            yield value.detach().flip(0)
    elif isinstance(value, Tensor) and value.numel() > 1:
        yield from (value.flip(0), value.roll(1, -1))


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
