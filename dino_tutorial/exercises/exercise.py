"""What an exercise is: probes, the answer that is right, and the wrong answers that have names."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Observation = dict[str, Tensor]  # "the loss for 4 views" -> what came out


class Mistaken(Exception):
    """Raised while probing: this answer is wrong, and here is why.

    Args:
        name: of one of the exercise's mistakes, or a general one if ``says`` is given.
        says: the sentence; by default the one of the mistake called ``name``.
    """

    def __init__(self, name: str, says: str | None = None):
        super().__init__(name, says)
        self.name, self.says = name, says


class Mistake:
    """A wrong answer that is known, and the sentence that names it.

    Args:
        name: short, stable; it stands in the table of grades.
        says: one sentence, without its first capital and its full stop.
        forms: arguments that turn the exercise's ``variant`` into this mistake; more than one
            if the same mistake can be made in several ways.
    """

    def __init__(self, name: str, says: str, *forms: dict[str, Any]):
        self.name, self.says, self.forms = name, says, forms

    @property
    def hint(self) -> str:
        """What is wrong, for the first message; how to mend it is left for later."""
        return self.says.partition("; ")[0]

    @property
    def repair(self) -> str:
        """What the first message leaves out; nothing if the sentence has no second part."""
        return self.says.partition("; ")[2]


@dataclass(frozen=True, eq=False)
class Exercise:
    """A function or class to write, and how an answer to it is probed.

    An answer is compared by what it does on probes: the right answer's observation, and those
    of all named mistakes, are computed in the same way.

    Args:
        name: what :func:`check` is called with.
        chapter: file name of the chapter that asks for it.
        call: how the answer is called, e.g. ``"byol_loss(prediction, target)"``.
        task: what it takes and what it returns: names, shapes and conventions that suffice to
            write it without the chapter.
        solution: an answer that is right, the package's own wherever there is one.
        variant: the solution again, written with keyword arguments that make it wrong.
        mistakes: the named ones.
        observe: calls the answer on the probes and returns what came out; may raise
            :class:`Mistaken` where a number would not tell.
        checked: what a right answer has been compared in; for the reader.
        remark: something worth saying about an answer that is right, or None.
        bounds: between which numbers every result lies, whatever the arguments.
        form: what of a result counts, where the statement leaves something open.
    """

    name: str
    chapter: str
    call: str
    task: str
    solution: Callable
    variant: Callable
    mistakes: tuple[Mistake, ...]
    observe: Callable[["Answer"], Observation]
    checked: str
    remark: Callable[["Answer"], str | None] = field(default=lambda answer: None)
    bounds: tuple[float, float] = (-math.inf, math.inf)
    form: Callable[[Tensor], Tensor] = field(default=lambda result: result)

    def wrong_answers(self) -> list[tuple[Mistake, dict[str, Any]]]:
        """Each known mistake in each of its forms."""
        return [(mistake, form) for mistake in self.mistakes for form in mistake.forms]

    def wrong(self, form: dict[str, Any]) -> Callable:
        """The answer that makes the mistake of this form."""
        return partial(self.variant, **form)


class Answer:
    """A reader's function, called with care: that it can be, and that it leaves its inputs alone.

    Args:
        exercise: what it answers.
        function: the reader's function or class.
    """

    def __init__(self, exercise: Exercise, function: Callable):
        self.exercise, self.function = exercise, function
        self.calls: list[tuple] = []  # the arguments of each call, for a diagnosis afterwards

    def __call__(self, *arguments: Any, in_place: bool = False) -> Any:
        """What the function returns; ``in_place`` if it may change what it is given."""
        self._check_signature(arguments)
        self.calls.append(arguments)
        before = [] if in_place else [(t, t.detach().clone()) for t in _tensors_in(arguments)]
        held = _held_by(arguments)
        value = self.function(*arguments)
        if isinstance(value, Iterator):  # a generator: it runs now, not later
            value = list(value)
        kept = held == _held_by(arguments)
        if not in_place and not (kept and all(torch.equal(t, copy) for t, copy in before)):
            raise Mistaken(
                "changes-input", "it changes one of its inputs in place; work on a new tensor"
            )
        return value

    def _check_signature(self, arguments: tuple) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some built-in functions have none
            return
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise Mistaken(
                "signature",
                f"it is called as `{self.exercise.call}`, and yours does not take that: {error}",
            ) from None

    def scalar(self, *arguments: Any) -> Tensor:
        """The answer as a scalar tensor that gradients flow through."""
        value = self(*arguments)
        if isinstance(value, int | float):
            raise Mistaken(
                "python-number",
                "it returns a Python number, through which no gradient flows; return a tensor, "
                "without `.item()`",
            )
        value = as_tensor(value)
        if value.numel() != 1:
            raise Mistaken(
                "not-a-scalar",
                f"it has to return one number for the whole batch, and yours has shape "
                f"{tuple(value.shape)}",
            )
        if not value.requires_grad:
            raise Mistaken(
                "no-gradient",
                "no gradient flows through the result, so that nothing would be trained: it was "
                "computed under `torch.no_grad()`, or detached as a whole",
            )
        return value.reshape(())

    def tensor(self, *arguments: Any) -> Tensor:
        """The answer as a tensor of any shape, without its graph."""
        return as_tensor(self(*arguments)).detach()

    def number(self, *arguments: Any) -> Tensor:
        """The answer as a tensor without axes, if it is one number in any."""
        value = self.tensor(*arguments)
        return value.reshape(()) if value.numel() == 1 else value

    def mask(self, *arguments: Any) -> Tensor:
        """The answer as a boolean tensor, which it has to be."""
        value = self.tensor(*arguments)
        if value.dtype != torch.bool:
            raise Mistaken("not-boolean", "it holds numbers; the result is boolean, True and False")
        return value


def _tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in arguments, however deep: in lists, dictionaries and networks."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            yield from (*value.parameters(), *value.buffers())
        elif isinstance(value, dict):
            yield from _tensors_in(value.values())
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)


def _held_by(arguments: tuple) -> list:
    """What lists and dictionaries hold, by identity: names that point elsewhere are changes too."""
    return [
        [(name, id(value)) for name, value in a.items()]
        if isinstance(a, dict)
        else [id(value) for value in a]
        for a in arguments
        if isinstance(a, dict | list)
    ]


def as_tensor(value: Any) -> Tensor:
    """A number, an array, numbers in a row or a tensor, as a tensor."""
    if value is None:
        raise Mistaken("none", "it returns None; does it end with `return`?")
    if isinstance(value, Tensor) and value.is_complex():
        raise Mistaken("complex", "it returns complex numbers")
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict | np.ndarray):
        value = list(value)  # a tuple, a set, a range, the values of a dictionary
    try:
        if isinstance(value, list) and any(isinstance(v, Tensor) for v in value):
            parts = [torch.as_tensor(v) for v in value]
            kind = reduce(torch.promote_types, [part.dtype for part in parts])
            return torch.stack(
                [p.double() if kind.is_floating_point else p.to(kind) for p in parts]
            )
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError):
        name = type(value).__name__
        raise Mistaken("not-a-tensor", f"it returns a {name} where a tensor is expected") from None


def gradients(loss: Tensor, **inputs: Tensor) -> Observation:
    """Gradient of a scalar for each input, zero where none arrives."""
    wanted = [tensor for tensor in inputs.values() if tensor.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
    seen = {}
    for name, tensor in inputs.items():  # one that the answer has frozen gets none
        gradient = next(found) if tensor.requires_grad else None
        seen[name] = torch.zeros_like(tensor) if gradient is None else gradient
    return seen


_DRAW: ContextVar[int] = ContextVar("draw", default=0)


@contextmanager
def drawn(number: int) -> Iterator[None]:
    """Probes of this draw: 0 is always the same, and any other number gives other probes."""
    token = _DRAW.set(number)
    try:
        yield
    finally:
        _DRAW.reset(token)


def randn(*shape: int, seed: int, scale: float = 1.0, grad: bool = False) -> Tensor:
    """Normal numbers, always the same for the same seed in the same draw."""
    generator = torch.Generator().manual_seed(seed + 1009 * _DRAW.get())
    values = scale * torch.randn(*shape, generator=generator)
    return values.requires_grad_(grad)


def draw() -> int:
    """The number of the draw, for probes that are not made of normal numbers."""
    return _DRAW.get()


def vary(*values: float) -> tuple[float, ...]:
    """These numbers in the first draw, and up to a third more in others.

    So that no answer is right that has written down what it was given once.
    """
    factors = (1 + (1 + 31 * draw() * (i + 1) % 96) / 300 for i in range(len(values)))
    return tuple(v * f if draw() else v for v, f in zip(values, factors, strict=True))
