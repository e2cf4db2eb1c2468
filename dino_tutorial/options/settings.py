"""Settings as dataclasses: declared once with bounds, filled from text, checked in one place."""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import yaml

from dino_tutorial.errors import UserError
from dino_tutorial.options.arguments import told

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


class Settings:
    """A dataclass of options, each of which is checked when it is made.

    Raises:
        UserError: naming the option that has a wrong type or a bad value.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(cast(Any, self)):
            if "help" in field.metadata:
                value = _checked(field, type(self), getattr(self, field.name), field.name)
                object.__setattr__(self, field.name, value)


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
        head, _, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        if head not in fields or bool(rest) != _is_group(options, head):
            raise UserError(_unknown(f"{prefix}{key}", options, prefix))
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
    if not known:
        hint = f"there is nothing to set under {prefix.rstrip('.')}"
    return f"unknown key '{key}': {hint}"


def _checked(field: dataclasses.Field[Any], owner: type, value: Any, key: str) -> Any:
    value = _coerced(_hints(owner)[field.name], value, key)
    check = field.metadata.get("check")
    if check is not None and value is not None:
        check(value, key)
    low, high, among = (field.metadata.get(name) for name in ("low", "high", "among"))
    if among is not None and value not in among:
        near = difflib.get_close_matches(str(value), [str(a) for a in among], n=1)
        hint = f"did you mean '{near[0]}'? It" if near else "it"
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
                raise UserError(f"{key} = {told(number)} is out of range: it lies in {bounds}")
    if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
        raise UserError(f"{key} = {list(value)} is out of order: the smaller number comes first")
    return value


@functools.cache
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


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
    if kind is int and isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d{1,2}", value):
        value = float(value)  # YAML reads 1e6 as text
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
