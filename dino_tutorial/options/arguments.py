"""What functions of the library are handed: refused in one sentence where it does not fit.

:func:`takes` reads the annotations that a function has anyway. Tools and the tests check them too;
this says what is wrong to whoever calls.
"""

import contextlib
import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.files import user_path

WHOLE = 2**63 - 1  # what a whole number without other bounds may be at most
LARGE = 1e30  # the same of a number
NO_VALUES = "{} lies on the meta device, which keeps no values: give a tensor that has some"
LONGEST = 40  # letters of a wrong value that are shown


def check_whole(name: str, value: Any, low: int, high: int, unit: str = "") -> None:
    """Refuse what is no whole number from ``low`` to ``high``.

    Raises:
        UserError: naming the argument, its value and the bounds.
    """
    unit = f" {unit}" if unit else ""
    value = _held(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        bounds = "" if (low, high) == (-WHOLE, WHOLE) else f" of {low} to {high}{unit}"
        raise UserError(f"{name} wants a whole number{bounds}, not {shown(value)}")
    if not low <= int(value) <= high:
        raise UserError(f"{name} must be {low} to {high}{unit}, not {told(value)}")


def check_number(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    """Refuse what is no number in [``low``, ``high``]; ``above`` leaves ``low`` itself out.

    Raises:
        UserError: naming the argument, its value and the bounds; NaN and infinity lie in none.
    """
    bounds = f"more than {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}"
    wanted = "a finite number" if (low, high) == (-LARGE, LARGE) else f"a number, {bounds}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"{name} wants {wanted}, not {shown(value)}")
    if not low <= cast(float, value) <= high or (above and value == low):
        raise UserError(f"{name} is {told(value)}: use {wanted}")


def _held(value: Any) -> Any:
    """The number in a tensor or an array of one, where it can be read; anything else as it is."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        with contextlib.suppress(RuntimeError):
            return value.item()
    return value


def told(value: Any) -> str:
    """A number in few letters, however large it is."""
    try:
        return f"{value}" if abs(value) < 1e15 else f"{float(value):g}"
    except (OverflowError, ValueError):
        return "a number of hundreds of digits"


def shown(value: Any) -> str:
    """A wrong value in few letters, on one line, and without places in memory."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}, without calling it"
    if value is None or isinstance(value, str | bytes | Real | list | tuple):
        return f"{value!r:.{LONGEST}}".replace("\n", " ")
    return f"a {type(value).__name__}"


Check = Callable[[str, Any], None]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class _Shaped:
    """A tensor, or an array of numpy, that an argument has to be, with names of its dimensions."""

    dims: tuple[str, ...]
    kind: str = ""  # "float", "int", "bool", "uint8", "real", or "" for any
    none: bool = False
    numpy: bool = False
    loose: bool = False  # numpy arrays and lists will do, on any device

    def __call__(self, name: str, value: Any) -> None:
        if self.none and value is None:
            return
        if not isinstance(value, np.ndarray if self.numpy else Tensor):
            make = "np.asarray" if self.numpy else "torch.as_tensor"
            raise UserError(f"{name} wants {self.wanted()}, not {shown(value)}: {make} makes one")
        if not self._fits(value.shape):
            raise UserError(f"{name} wants {self.wanted()}, not one of shape {tuple(value.shape)}")
        found = _kind_of(value)
        if found in ("complex", "object") or self.kind not in ("", found, *_OTHERS.get(found, ())):
            say = _CONVERT.get(self.kind, ".real")
            raise UserError(f"{name} is of {value.dtype}: convert it with {say} first")

    def wanted(self) -> str:
        if self.dims == ("...",):
            return "an array" if self.numpy else "a tensor"
        text = ", ".join(_least(dim)[0].replace("*", "…") for dim in self.dims)
        return f"{'an array' if self.numpy else 'a tensor'} ({text})"

    def _fits(self, shape: Sequence[int]) -> bool:
        own = [dim for dim in self.dims if not _is_open(dim)]
        if len(shape) < len(own) or (len(own) == len(self.dims) and len(shape) > len(own)):
            return False
        return all(not dim.isdigit() or int(dim) == size for dim, _, size in self.sizes(shape))

    def sizes(self, shape: Sequence[int]) -> list[tuple[str, int, int]]:
        """Dimensions: name, least size and size; those that ``…`` stands for are left out."""
        first = next((n for n, dim in enumerate(self.dims) if _is_open(dim)), len(self.dims))
        last = len(self.dims) - first - 1
        pairs = list(zip(self.dims[:first], shape[:first], strict=False))
        if last > 0:
            pairs += zip(self.dims[-last:], shape[-last:], strict=False)
        return [(*_least(dim), size) for dim, size in pairs]


def _least(dim: str) -> tuple[str, int]:
    """The name of a dimension and its least size: 1, of ``V>1`` 2, of ``M>=0`` none."""
    name, more, least = dim.partition(">")
    return name, (int(least.removeprefix("=")) + (not least.startswith("=")) if more else 1)


_OTHERS = {"uint8": ("int", "real"), "int": ("real",), "float": ("real",)}
_CONVERT = {
    "float": ".float()",
    "int": ".long()",
    "bool": ".bool()",
    "uint8": ".to(torch.uint8)",
    "real": ".float()",
}


def takes(finite: bool = False, **checks: Check) -> Callable[[Function], Function]:
    """Refuse wrong arguments of a function by the sentences of this module.

    The annotations say what each argument has to be: a tensor of such dimensions and such a type,
    a whole number, a pair of them, a function. Dimensions of one name have to have one size in all
    arguments, at least 1, and tensors have to lie on one device.

    Args:
        finite: whether NaN and infinity in tensors are refused; looking for them takes time.
        checks: by argument, what looks at its name and value, where the annotation says too
            little: :func:`whole`, :func:`number`, :func:`numbers`, :func:`pair`, :func:`among`,
            :func:`tensor` or :func:`array`.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        if unknown := checks.keys() - signature.parameters.keys():
            raise TypeError(f"{function.__name__} has no argument {', '.join(unknown)}")
        every: dict[str, Check] = {}

        @functools.wraps(function)
        def checked(*arguments: Any, **named: Any) -> Any:
            if torch.compiler.is_compiling():
                return function(*arguments, **named)
            if not every:  # at the first call, when all that annotations name is defined
                every.update(_by_annotations(function, signature) | checks)
            bound = _bound(function, signature, arguments, named)
            given = bound.arguments
            plain = True
            for name, check in every.items():
                if name in given:
                    check(name, given[name])
                    if (found := _unpacked(check, given[name])) is not None:
                        given[name], plain = found, False
            _check_together(every, given)
            if finite:
                _check_finite(every, given)
            return function(*arguments, **named) if plain else function(*bound.args, **bound.kwargs)

        return cast(Function, checked)

    return decorate


def _unpacked(check: Check, value: Any) -> Any:
    """Plain whole numbers, or lists of numbers, of those in tensors; None where there are none."""
    if isinstance(check, _Whole) and isinstance(value, Tensor | np.ndarray):
        return value.item()
    listed = isinstance(check, _Numbers) and value is not None
    if listed and (isinstance(value, Tensor) or any(isinstance(item, Tensor) for item in value)):
        return [_held(item) for item in value]
    return None


def _bound(
    function: Callable[..., Any],
    signature: inspect.Signature,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> inspect.BoundArguments:
    try:
        return signature.bind(*arguments, **named)
    except TypeError as error:
        raise TypeError(f"{function.__name__}(): {error}") from None


def whole(low: int = 1, high: int = 2**31 - 1, none: bool = False) -> Check:
    """An argument that is a whole number from ``low`` to ``high``, or may be None too.

    A tensor or an array of one number counts, such as ``labels.max() + 1``; :func:`takes` hands
    it on as an int.
    """
    return _Whole(low, high, none)


@dataclasses.dataclass(frozen=True)
class _Whole:
    low: int
    high: int
    none: bool

    def __call__(self, name: str, value: Any) -> None:
        if not (self.none and value is None):
            check_whole(name, value, self.low, self.high)


def number(low: float, high: float, above: bool = False, none: bool = False) -> Check:
    """An argument that is a finite number of these bounds, see :func:`check_number`.

    A tensor of one number counts, and is handed on as it is: a temperature may be learned.
    """

    def check(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            value = _held(value)
            if isinstance(value, Tensor) and value.ndim == 0 and _kind_of(value) == "float":
                return  # its value is not at hand, such as within torch.vmap
        if not (none and value is None):
            check_number(name, value, low, high, above)

    return check


def numbers(one: Check, length: int | None = None, none: bool = False) -> Check:
    """An argument that is a list of what :func:`whole` or :func:`number` describes.

    Args:
        one: what each of them has to be.
        length: how many there are; None is any number but none.
        none: whether it may be None.
    """
    return _Numbers(one, length, none)


@dataclasses.dataclass(frozen=True)
class _Numbers:
    one: Check
    length: int | None
    none: bool

    def __call__(self, name: str, value: Any) -> None:
        many = "a list of numbers" if self.length is None else f"{self.length} numbers"
        if self.none and value is None:
            return
        listed = isinstance(value, Collection | np.ndarray) and not isinstance(
            value, str | bytes | Mapping | set | frozenset
        )
        if not listed or isinstance(value, Tensor | np.ndarray) and value.ndim != 1:
            raise UserError(f"{name} wants {many}, such as a tuple, not {shown(value)}")
        if len(value) == 0 or self.length not in (None, len(value)):
            raise UserError(f"{name} wants {many}, not {len(value)}")
        for place, item in enumerate(value):
            self.one(f"{name}[{place}]", item)


def pair(low: int = 1, high: int = 2**20, none: bool = False) -> Check:
    """An argument that is two whole numbers, such as the sides of a grid."""
    return numbers(whole(low, high), 2, none)


def ordered(low: float, high: float, above: bool = False) -> Check:
    """An argument that is two numbers of these bounds, the smaller one first."""
    both = numbers(number(low, high, above), 2)

    def check(name: str, value: Any) -> None:
        both(name, value)
        if value[0] > value[1]:
            raise UserError(
                f"{name} is ({told(value[0])}, {told(value[1])}): the smaller number comes first"
            )

    return check


def among(values: Collection[str]) -> Check:
    """An argument that is one of some words."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in values:
            raise UserError(f"{name} is {shown(value)}: use one of {', '.join(values)}")

    return check


def tensor(shape: str, kind: str = "", none: bool = False) -> Check:
    """An argument that is a tensor.

    Args:
        shape: the names of its dimensions, such as ``"N D"``; ``"..."`` is any number of them,
            ``V>1`` one of at least 2, ``M>=0`` one that may be empty.
        kind: ``"float"``, ``"int"``, ``"bool"`` or ``"real"``; any by default.
        none: whether it may be None.
    """
    return _Shaped(tuple(shape.split()), kind, none)


def array(shape: str, none: bool = False) -> Check:
    """An argument that is a tensor, a numpy array or lists of numbers, of any real type.

    Args:
        shape, none: as for :func:`tensor`.
    """
    return _Loose(_Shaped(tuple(shape.split()), "", none, loose=True))


class _Loose:
    """An array of any kind, looked at as a tensor."""

    def __init__(self, shaped: _Shaped) -> None:
        self.shaped = shaped

    def __call__(self, name: str, value: Any) -> None:
        self.shaped(name, as_tensor(value))


def as_tensor(value: Any) -> Any:
    """A tensor of an array or of lists of numbers; anything else as it is."""
    if value is not None and not isinstance(value, Tensor):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            return torch.as_tensor(np.ascontiguousarray(value))
    return value


def on_device(name: str, value: Any) -> None:
    """An argument that names a device which is there, or is None."""
    try:
        kind = "cpu" if value is None else torch.device(value).type
    except (RuntimeError, TypeError):
        raise UserError(f"{name} is {shown(value)}: use cpu, cuda, cuda:1 or mps") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise UserError(f"{name} is {shown(value)}, but there is none here: use cpu")


def check_broadcast(**shapes: Sequence[int]) -> None:
    """Refuse shapes that do not go together, by name."""
    try:
        torch.broadcast_shapes(*(tuple(shape) for shape in shapes.values()))
    except RuntimeError:
        found = " and ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise UserError(
            f"{found} do not go together: give them one shape, or 1 where one is for all"
        ) from None


def _is_open(dim: str) -> bool:
    """Whether a name stands for any number of dimensions."""
    return dim == "..." or dim.startswith("*")


def _kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        kinds = {"f": "float", "i": "int", "u": "int", "b": "bool", "c": "complex"}
        return "uint8" if value.dtype == np.uint8 else kinds.get(value.dtype.kind, "object")
    if value.dtype in (torch.bool, torch.uint8):
        return "bool" if value.dtype == torch.bool else "uint8"
    if value.is_complex():
        return "complex"
    return "float" if value.is_floating_point() else "int"


def _arrays(every: Mapping[str, Check], given: Mapping[str, Any]) -> list[tuple[str, _Shaped, Any]]:
    """The tensors and arrays among the arguments: name, what was wanted, value."""
    found = []
    for name, check in every.items():
        value = given.get(name)
        if value is None:
            continue
        if isinstance(check, _Loose):
            found.append((name, check.shaped, as_tensor(value)))
        elif isinstance(check, _Shaped):
            found.append((name, check, value))
    return found


def _check_together(every: Mapping[str, Check], given: Mapping[str, Any]) -> None:
    """Dimensions of one name have one size, and tensors one device."""
    sizes: dict[str, tuple[str, int]] = {}  # by name of a dimension, where it was met first
    first: tuple[str, torch.device] | None = None
    for name, wanted, value in _arrays(every, given):
        for dim, least, size in wanted.sizes(value.shape):
            if size < least:
                raise UserError(
                    f"{name} is too small: {wanted.wanted()} wants at least {least} for {dim}, and "
                    f"its shape is {tuple(value.shape)}"
                )
            if dim.isdigit() or dim.startswith("_"):
                continue
            other, known = sizes.setdefault(dim, (name, size))
            if known != size:
                where = "in another place" if other == name else f"in {other}"
                raise UserError(
                    f"{name} wants {wanted.wanted()}, and its shape is {tuple(value.shape)}: "
                    f"{dim} is {size}, but {known} {where}, so give both the same"
                )
        if isinstance(value, Tensor) and value.is_meta and wanted.loose:
            raise UserError(NO_VALUES.format(name))
        if isinstance(value, Tensor) and not wanted.loose:
            first = first or (name, value.device)
            if value.device != first[1]:
                raise UserError(
                    f"{first[0]} lies on {first[1]} and {name} on {value.device}: bring them to "
                    "one device with .to(...)"
                )


def _check_finite(every: Mapping[str, Check], given: Mapping[str, Any]) -> None:
    for name, _, value in _arrays(every, given):
        if isinstance(value, Tensor) and value.is_meta:
            raise UserError(NO_VALUES.format(name))
        if not _is_finite(as_tensor(value)):
            raise UserError(
                f"{name} holds NaN or infinity: leave these rows out, and look at what made them, "
                "such as an encoder that has diverged"
            )


def _is_finite(value: Any) -> bool:
    """Whether a tensor holds no NaN and no infinity, as far as its values are at hand."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    finite = value.isfinite().all()
    with contextlib.suppress(RuntimeError):  # within torch.vmap, or of a FakeTensor
        return bool(finite)
    return True


def _by_annotations(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Check]:
    """What the annotations of a function ask of its arguments."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # what is returned may be of a library that is imported when it is needed
        hints = {k: v for k, v in function.__annotations__.items() if not isinstance(v, str)}
    checks = {}
    for name, parameter in signature.parameters.items():
        collects = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        check = None if collects or name not in hints else _of_annotation(hints[name])
        if check is not None:
            checks[name] = check
    return checks


def _of_annotation(kind: Any) -> Check | None:
    """What an annotation asks of a value; None where it asks nothing that is looked at here."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return _of_union(typing.get_args(kind))
    if hasattr(kind, "dim_str") and hasattr(kind, "array_type"):
        names = {"UInt8": "uint8", "Shaped": ""}
        kind_name = names.get(kind.__name__.partition("[")[0], kind.__name__.partition("[")[0])
        return _Shaped(
            tuple(kind.dim_str.split()), kind_name.lower(), numpy=kind.array_type is np.ndarray
        )
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, TypeVar):
        return None if kind.__bound__ is None else _of_annotation(kind.__bound__)
    if origin is type:
        return _class_of(inner[0])
    if origin is tuple and inner and set(inner) <= {int, float} and Ellipsis not in inner:
        one = whole() if inner[0] is int else _finite
        return numbers(one, len(inner))
    if origin is tuple and inner and Ellipsis not in inner:
        return _tuple_of(inner)
    if origin in (Sequence, list, tuple):
        return _list_of(inner[0] if inner else Any)
    if origin is Iterable:
        return _many
    if origin in (Mapping, dict) or kind in (Mapping, dict):
        return _mapping_of(inner[1] if inner else Any)
    if origin is os.PathLike:
        return _path
    if origin is Callable or kind is Callable:
        return _callable
    return _SIMPLE.get(kind) or _instance_of(kind)


def _of_union(members: Sequence[Any]) -> Check | None:
    """One of several kinds; what is none of them is told by what the first one wants."""
    none = type(None) in members
    found = [_of_annotation(member) for member in members if member is not type(None)]
    if any(check is None for check in found):
        return None
    checks = cast(list[Check], found)
    if len(checks) == 1 and isinstance(checks[0], _Shaped):
        return dataclasses.replace(checks[0], none=none)

    def check(name: str, value: Any) -> None:
        if none and value is None:
            return
        for other in checks[1:]:
            with contextlib.suppress(UserError):
                return other(name, value)
        checks[0](name, value)

    return check


def _list_of(kind: Any) -> Check:
    one = _of_annotation(kind)
    if kind in (int, float) and one is not None:
        return numbers(one)

    def check(name: str, value: Any) -> None:
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if not (listed or isinstance(value, Tensor | np.ndarray) and value.ndim > 0):
            raise UserError(f"{name} wants a list, not {shown(value)}")
        if one is not None:
            for place, item in enumerate(value):
                one(f"{name}[{place}]", item)

    return check


def _many(name: str, value: Any) -> None:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | Tensor):
        raise UserError(f"{name} wants a list, not {shown(value)}")


def _tuple_of(kinds: Sequence[Any]) -> Check:
    ones = [_of_annotation(kind) for kind in kinds]

    def check(name: str, value: Any) -> None:
        if not isinstance(value, tuple | list) or len(value) != len(ones):
            raise UserError(f"{name} wants {len(ones)} values, as a tuple, not {shown(value)}")
        for place, (one, item) in enumerate(zip(ones, value, strict=True)):
            if one is not None:
                one(f"{name}[{place}]", item)

    return check


def _mapping_of(kind: Any) -> Check:
    one = _of_annotation(kind)

    def check(name: str, value: Any) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{name} wants a dictionary whose keys are text, not {shown(value)}")
        for key, item in value.items() if one is not None else ():
            cast(Check, one)(f"{name}[{key!r}]", item)

    return check


def _class_of(kind: type) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, type) or not issubclass(value, kind):
            raise UserError(f"{name} wants a class made from {kind.__name__}, not {shown(value)}")

    return check


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name} wants True or False, not {shown(value)}")


def _finite(name: str, value: Any) -> None:
    check_number(name, value, -LARGE, LARGE)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UserError(f"{name} wants text, such as 'name', not {shown(value)}")


def _path(name: str, value: Any) -> None:
    try:
        user_path(value)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _callable(name: str, value: Any) -> None:
    if not callable(value):
        raise UserError(f"{name} wants a function, not {shown(value)}: pass it without calling it")


def instance(kind: type, none: bool = False) -> Check:
    """An argument that is an object of a class, or may be None too."""
    if none:
        one = instance(kind)

        def check(name: str, value: Any) -> None:
            if value is not None:
                one(name, value)

        return check
    if kind in (Real, Integral):
        return _instance(kind, "a number" if kind is Real else "a whole number")
    return _instance(kind, f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}")


def _instance(kind: type, what: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise UserError(f"{name} wants {what}, not {shown(value)}")

    return check


def _instance_of(kind: Any) -> Check | None:
    """An object of a class, where the class can tell; whatever else the annotation is, nothing."""
    if not isinstance(kind, type) or kind in (Any, object, type):
        return None
    if getattr(kind, "_is_protocol", False):
        if not getattr(kind, "_is_runtime_protocol", False):
            return None
        return _instance(kind, f"{kind.__name__}, such as open_dataset gives")
    return instance(kind)


_SIMPLE: dict[Any, Check] = {
    int: whole(-WHOLE, WHOLE),
    float: _finite,
    bool: _flag,
    str: _text,
    Path: _path,
    Tensor: _Shaped(("...",)),
}
