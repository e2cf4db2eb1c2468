"""Names in docstrings mean what they mean to Python in the file that the docstring stands in.

`` :func:`spread_of` `` in `methods/dino.py` is what that file imports by this name, and a type in a
signature is the class itself, whatever path it came by. The reference shows both under the public
face of their room. Where Sphinx finds no entry of the name as it is written, the object is looked
up here, and its entry taken. A type variable has no entry: it says that what comes out is of the
type that went in. What else leads to no entry stays unresolved, and the build says so.
"""

import sys
from functools import cache
from importlib import import_module
from inspect import unwrap
from typing import Any, TypeVar

from docutils import nodes
from linked_code import identity, reference
from sphinx import addnodes
from sphinx.util.nodes import make_refnode

PACKAGE = "dino_tutorial"


def setup(app: Any) -> dict[str, bool]:
    app.connect("missing-reference", find_entry)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def find_entry(app: Any, env: Any, node: addnodes.pending_xref, content: nodes.Node) -> Any:
    """The link to the entry of what a role names; None if there is none."""
    if node.get("refdomain") != "py":
        return None
    if is_type_variable(node["reftarget"]):
        return content
    key = meaning(node["reftarget"], home(node))
    if key not in entries(env):
        return None
    page, anchor = entries(env)[key]
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, node["reftarget"])


@cache
def entries(env: Any) -> dict[tuple[str, str], tuple[str, str]]:
    return reference(env)


def home(node: nodes.Node) -> str | None:
    """The module whose docstring or signature a role stands in; None outside the reference."""
    while node is not None and not isinstance(node, addnodes.desc):
        node = node.parent
    if node is None:
        return None
    signature = node.next_node(addnodes.desc_signature)
    thing: Any = import_module(signature["module"])
    for name in signature["fullname"].split("."):
        thing = getattr(thing, name, None)
    return getattr(unwrap(thing) if callable(thing) else thing, "__module__", None)


def meaning(target: str, module: str | None) -> tuple[str, str] | None:
    """Where the object was defined that a name means, seen from a module or by its full path."""
    path, _, name = target.rpartition(".")
    if path.startswith(PACKAGE):
        return identity(path, name)
    return identity(module, target) if module and not path else None


def is_type_variable(target: str) -> bool:
    path, _, name = target.rpartition(".")
    return isinstance(getattr(sys.modules.get(path), name, None), TypeVar)
