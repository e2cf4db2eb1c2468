"""What people set: settings, declared with bounds, and arguments of the library's functions."""

from dino_tutorial.options.arguments import (
    among,
    array,
    check_broadcast,
    check_number,
    check_whole,
    number,
    numbers,
    on_device,
    ordered,
    pair,
    takes,
    tensor,
    whole,
)
from dino_tutorial.options.settings import (
    describe,
    flatten,
    note,
    option,
    parse_assignments,
    replace_options,
)

__all__ = [
    "among",
    "array",
    "check_broadcast",
    "check_number",
    "check_whole",
    "describe",
    "flatten",
    "note",
    "number",
    "numbers",
    "on_device",
    "option",
    "ordered",
    "pair",
    "parse_assignments",
    "replace_options",
    "takes",
    "tensor",
    "whole",
]
