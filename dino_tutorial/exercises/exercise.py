"""What an exercise is: probes, the answer that is right, and the wrong answers that have names."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class Exercise:
    """A function or class to write, and how an answer to it is probed.

    An answer is compared by what it does on probes: the right answer's observation, and those
    of all named mistakes, are computed in the same way.

    Args:
        name: what :func:`check` is called with.
        chapter: file name of the chapter that asks for it.
        call: how the answer is called, e.g. ``"byol_loss(prediction, target)"``.
        task: what it has to do, one sentence; shapes in it.
        solution: an answer that is right, the package's own wherever there is one.
        variant: the solution again, written with keyword arguments that make it wrong.
        mistakes: the named ones.
        observe: calls the answer on the probes and returns what came out; may raise
            :class:`Mistaken` where a number would not tell.
        checked: what a right answer has been compared in; for the reader.
        remark: something worth saying about an answer that is right, or None.
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

    def __call__(self, *arguments: Any, in_place: bool = False) -> Any:
        """What the function returns; ``in_place`` if it may change what it is given."""
        self._check_signature(arguments)
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        versions = [tensor._version for tensor in tensors]
        value = self.function(*arguments)
        if not in_place and versions != [tensor._version for tensor in tensors]:
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


def as_tensor(value: Any) -> Tensor:
    """A number, an array, a list of numbers or a tensor, as a tensor."""
    if value is None:
        raise Mistaken("none", "it returns None; does it end with `return`?")
    if isinstance(value, Tensor) and value.is_complex():
        raise Mistaken("complex", "it returns complex numbers")
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise Mistaken("not-a-tensor", f"it returns a {kind} where a tensor is expected") from None


def gradients(loss: Tensor, **inputs: Tensor) -> Observation:
    """Gradient of a scalar for each input, zero where none arrives."""
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(inputs.items(), found, strict=True)
    }


def randn(*shape: int, seed: int, scale: float = 1.0, grad: bool = False) -> Tensor:
    """Normal numbers, always the same for the same seed."""
    values = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_(grad)
