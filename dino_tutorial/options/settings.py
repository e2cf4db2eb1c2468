"""Settings as dataclasses: declared once with bounds, filled from text, checked in one place."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from dino_tutorial.errors import UserError

LARGEST = 10**6  # what no number exceeds where its option sets no bound of its own


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    among: Sequence[Any] | None = None,
    check: Callable[[Any, str], None] | None = None,
) -> Any:
    """A dataclass field that explains itself.

    Args:
        default: its value where nobody sets it.
        help: what it does, in one or two sentences, with its unit.
        low, high: the bounds, both included; without ``high`` it is ``LARGEST``.
        among: the values that it may have.
        check: called with a value that is not None and the option's key; raises UserError.
    """
    metadata = {"help": help, "low": low, "high": high, "among": among, "check": check}
    return dataclasses.field(default=default, metadata=metadata)


def note(default: Any) -> Any:
    """A dataclass field that goes along with the settings and is none of them."""
    return dataclasses.field(
        default=default, repr=False, compare=False, metadata={"is_setting": False}
    )


def replace_options(options: Any, changes: dict[str, Any], prefix: str = "") -> Any:
    """Return ``options`` with dotted keys replaced, e.g. ``{"optim.lr": 0.001}``; all checked.

    Raises:
        UserError: naming an unknown key (and the nearest one), a wrong type or a bad value.
    """
    fields = {field.name: field for field in _settings(options)}
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head not in fields or bool(rest) != _is_group(options, head):
            raise UserError(_unknown(prefix + key, options, prefix))
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            values[head] = _checked(fields[head], type(options), value, prefix + key)
    for head, inner in nested.items():
        values[head] = replace_options(getattr(options, head), inner, f"{prefix}{head}.")
    return dataclasses.replace(options, **values)


def flatten(options: Any, prefix: str = "") -> dict[str, Any]:
    """All settings under dotted keys, groups opened."""
    flat: dict[str, Any] = {}
    for field in _settings(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return flat


class Described(NamedTuple):
    """One option: its dotted key, its value, what it does, and what values it may have."""

    key: str
    value: Any
    help: str
    bounds: str


def describe(options: Any, prefix: str = "") -> Iterator[Described]:
    """All options with their help, groups opened, in the order of their declaration."""
    for field in _settings(options):
        value, key = getattr(options, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{key}.")
        elif "help" in field.metadata:
            yield Described(key, value, field.metadata["help"], _bounds(field))


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """``["optim.lr=1e-3", …]`` to ``{"optim.lr": 0.001}``; values are read as YAML."""
    changes = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set wants key=value, got '{assignment}'")
        try:
            changes[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {key}: '{text}' is not a value that YAML can read") from None
    return changes


def check_whole(name: str, value: Any, low: int, high: int, unit: str = "") -> None:
    """Refuse what is no whole number from ``low`` to ``high``.

    Raises:
        UserError: naming the argument, its value and the bounds.
    """
    unit = f" {unit}" if unit else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"{name} wants a whole number of {low} to {high}{unit}, not {value!r:.40}")
    if not low <= int(value) <= high:
        raise UserError(f"{name} must be {low} to {high}{unit}, not {_told(value)}")


def check_number(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    """Refuse what is no number in [``low``, ``high``]; ``above`` leaves ``low`` itself out.

    Raises:
        UserError: naming the argument, its value and the bounds; NaN and infinity lie in none.
    """
    bounds = f"more than {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"{name} wants a number, {bounds}, not {value!r:.40}")
    if not low <= cast(float, value) <= high or (above and value == low):
        raise UserError(f"{name} is {_told(value)}: use a number, {bounds}")


Check = Callable[[str, Any], None]
Function = TypeVar("Function", bound=Callable[..., Any])


def takes(**checks: Check) -> Callable[[Function], Function]:
    """Refuse wrong arguments of a function of the library by the sentences of this module.

    Shape annotations say the same to tools and to the tests; this says it to who calls.

    Args:
        checks: for each argument that is to be looked at, what looks at its name and value:
            :func:`whole`, :func:`number`, :func:`tensor` or :func:`array`.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        if unknown := checks.keys() - signature.parameters.keys():
            raise TypeError(f"{function.__name__} has no argument {', '.join(unknown)}")

        @functools.wraps(function)
        def checked(*arguments: Any, **named: Any) -> Any:
            given = signature.bind(*arguments, **named).arguments
            for name, check in checks.items():
                if name in given:
                    check(name, given[name])
            return function(*arguments, **named)

        return cast(Function, checked)

    return decorate


def whole(low: int = 1, high: int = 2**31 - 1, none: bool = False) -> Check:
    """An argument that is a whole number from ``low`` to ``high``, or may be None too."""

    def check(name: str, value: Any) -> None:
        if not (none and value is None):
            check_whole(name, value, low, high)

    return check


def number(low: float, high: float, above: bool = False) -> Check:
    """An argument that is a finite number of these bounds, see :func:`check_number`."""
    return lambda name, value: check_number(name, value, low, high, above)


def tensor(shape: str, kind: str = "", none: bool = False) -> Check:
    """An argument that is a tensor.

    Args:
        shape: the names of its dimensions, such as ``"N D"``; ``"..."`` is any number of them.
        kind: ``"float"``, ``"int"`` or ``"bool"``; any by default.
        none: whether it may be None.
    """
    n_dims = None if "..." in shape else len(shape.split())
    wanted = f"a tensor ({', '.join(shape.split())})"

    def check(name: str, value: Any) -> None:
        if none and value is None:
            return
        if not isinstance(value, Tensor):
            raise UserError(
                f"{name} wants {wanted}, not a {type(value).__name__}: torch.as_tensor makes one"
            )
        if n_dims is not None and value.ndim != n_dims:
            raise UserError(f"{name} wants {wanted}, not one of shape {tuple(value.shape)}")
        if value.is_complex() or (kind and _kind_of(value) != kind):
            say = {"float": ".float()", "int": ".long()", "bool": ".bool()"}.get(kind, ".real")
            raise UserError(f"{name} is of {value.dtype}: convert it with {say} first")

    return check


def array(shape: str, none: bool = False) -> Check:
    """An argument that is a tensor, a numpy array or lists of numbers, of any real type.

    Args:
        shape, none: as for :func:`tensor`.
    """
    as_tensor = tensor(shape, none=none)

    def check(name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Tensor):
            with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
                value = torch.as_tensor(np.ascontiguousarray(value))
        as_tensor(name, value)

    return check


def _kind_of(value: Tensor) -> str:
    if value.is_floating_point():
        return "float"
    return "bool" if value.dtype == torch.bool else "int"


def _told(value: Any) -> str:
    """A number in few letters, however large it is."""
    try:
        return f"{value}" if abs(value) < 1e15 else f"{float(value):g}"
    except (OverflowError, ValueError):
        return "a number of hundreds of digits"


def _settings(options: Any) -> list[dataclasses.Field[Any]]:
    return [
        field for field in dataclasses.fields(options) if field.metadata.get("is_setting", True)
    ]


def _is_group(options: Any, name: str) -> bool:
    return dataclasses.is_dataclass(getattr(options, name))


def _unknown(key: str, options: Any, prefix: str) -> str:
    known = [prefix + name for name in flatten(options)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys are {', '.join(known)}"
    return f"unknown key '{key}': {hint}"


def _checked(field: dataclasses.Field[Any], owner: type, value: Any, key: str) -> Any:
    value = _coerced(typing.get_type_hints(owner)[field.name], value, key)
    check = field.metadata.get("check")
    if check is not None and value is not None:
        check(value, key)
    low, high, among = (field.metadata.get(name) for name in ("low", "high", "among"))
    if among is not None and value not in among:
        near = difflib.get_close_matches(str(value), [str(a) for a in among], n=1)
        hint = f"did you mean '{near[0]}'? It" if near else "It"
        names = ", ".join(map(str, among))
        raise UserError(f"{key} = {value!r} is unknown: {hint} is one of {names}")
    highest = high if high is not None else LARGEST
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            if not math.isfinite(number):
                raise UserError(f"{key} = {number} is out of range: it wants a finite number")
            below = low is not None and not number >= low
            above = not number <= highest  # NaN is neither
            if below or above:
                bounds = _range(low, highest if above else high)
                raise UserError(f"{key} = {_told(number)} is out of range: it lies in {bounds}")
    if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
        raise UserError(f"{key} = {list(value)} is out of order: the smaller number comes first")
    return value


def _coerced(kind: Any, value: Any, key: str) -> Any:
    if isinstance(kind, types.UnionType):
        members = typing.get_args(kind)
        if value is None and type(None) in members:
            return None
        kind = next(member for member in members if member is not type(None))
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(typing.get_args(kind)):
            raise UserError(f"{key} wants {len(typing.get_args(kind))} numbers, such as [0.4, 1.0]")
        return tuple(_coerced(float, item, key) for item in value)
    if kind is float:  # YAML reads 1e-3 as text
        try:
            return float(value) if not isinstance(value, bool) else _refuse(key, "a number", value)
        except (TypeError, ValueError, OverflowError):
            _refuse(key, "a number", value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    names = {int: "a whole number", bool: "true or false", str: "text"}
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _refuse(key, names[kind], value)
    return value


def _refuse(key: str, wanted: str, value: Any) -> typing.NoReturn:
    raise UserError(f"{key} wants {wanted}, got {value!r}")


def _bounds(field: dataclasses.Field[Any]) -> str:
    among, low, high = (field.metadata[name] for name in ("among", "low", "high"))
    if among is not None:
        return "one of " + ", ".join("null" if value is None else str(value) for value in among)
    return "" if low is None and high is None else _range(low, high)


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"[{low}, {high}]"
