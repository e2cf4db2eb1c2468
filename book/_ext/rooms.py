"""A page of the reference: one room of the package, file by file, every public name with its entry.

`.. room:: dino_tutorial.losses` writes an overview of the names in ``__all__``, each with the first
sentence of its docstring, then an entry for each of them, under the file that it stands in. The
names are not repeated in the page, so that none can be forgotten. The directive's content names
what else gets an entry, by its full path: what is not public, and docstrings refer to.
"""

import ast
import inspect
from collections import defaultdict, namedtuple
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

PACKAGE = "dino_tutorial"
FIELD = type(namedtuple("Example", "field").field)
LONGEST = 120  # characters of a constant that is shown
HOME = Path(import_module(PACKAGE).__file__).parent


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("room", RoomDirective)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip_foreign(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> Any:
    """Leave out what no docstring of the package speaks of.

    That is what another package puts into a class (matplotlib: ``Figure.set``), and the fields of a
    named tuple, which its own docstring lists.
    """
    module = getattr(member, "__module__", None) or PACKAGE
    foreign = type(member) is FIELD or not module.startswith(PACKAGE)
    return True if foreign else None


class RoomDirective(SphinxDirective):
    """`.. room:: MODULE`: all that ``MODULE.__all__`` names, and the content's names."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        room = import_module(self.arguments[0])
        self.env.note_dependency(room.__file__)
        lines = list(page_of(room, [line for line in self.content if line]))
        container = nodes.Element()
        nested_parse_with_titles(self.state, StringList(lines, source=room.__file__), container)
        return container.children


def page_of(room: ModuleType, others: list[str]) -> Iterator[str]:
    """The page in reStructuredText."""
    public = files_of(room)
    yield from (f".. py:module:: {room.__name__}", "")
    yield from overview(room, public)
    inner = defaultdict(list)
    for path in others:
        module, _, name = path.rpartition(".")
        inner[module].append(name)
    for module in dict.fromkeys([*public, *inner]):
        yield from heading(module)
        for name in public.get(module, []):
            yield from entry(room.__name__, module, name)
        for name in inner.get(module, []):
            yield from entry(module, module, name)


def files_of(room: ModuleType) -> dict[str, list[str]]:
    """The public names of a room under the modules that they stand in, in the order of imports."""
    files, places = defaultdict(list), imports(room)
    for name in sorted(room.__all__, key=[*places, *room.__all__].index):
        files[places.get(name, room.__name__)].append(name)
    return dict(files)


def imports(room: ModuleType) -> dict[str, str]:
    """From each name that a room imports of its files to the file's module."""
    tree = ast.parse(Path(room.__file__).read_text(encoding="utf-8"))
    nodes_ = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.name: node.module
        for node in nodes_
        if node.module.startswith(PACKAGE)
        for alias in node.names
    }


def heading(module: str) -> Iterator[str]:
    """The file's name in the package, and what it says of itself."""
    name = str(Path(import_module(module).__file__).relative_to(HOME))
    yield from (f"``{name}``", "-" * (len(name) + 4), "")
    yield from (*inspect.getdoc(import_module(module)).splitlines(), "")


def overview(room: ModuleType, files: dict[str, list[str]]) -> Iterator[str]:
    """A table of all names, each with its first sentence."""
    yield from (".. list-table::", "   :class: overview", "   :widths: 30 70", "")
    for module, names in files.items():
        for name in names:
            yield f"   * - :py:obj:`~{room.__name__}.{name}`"
            yield f"     - {summary(module, name)}"
    yield ""


def summary(module: str, name: str) -> str:
    return " ".join(documentation(module, name).partition("\n\n")[0].split())


def documentation(module: str, name: str) -> str:
    """The docstring of a function or class, or the comment `#:` above a constant."""
    thing = getattr(import_module(module), name)
    if is_constant(thing):
        return comments(module)[name]
    return inspect.getdoc(thing)


def is_constant(thing: Any) -> bool:
    return not (inspect.isclass(thing) or inspect.isroutine(thing))


@cache
def comments(module: str) -> dict[str, str]:
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    return {name: "\n".join(lines) for (_, name), lines in analyzer.attr_docs.items()}


def entry(shown_in: str, module: str, name: str) -> Iterator[str]:
    """The directive that makes the entry, under the module that shows the name."""
    thing, path = getattr(import_module(module), name), f"{shown_in}.{name}"
    if is_constant(thing):
        text = documentation(module, name).splitlines()
        value = repr(thing)
        yield from (f".. py:data:: {name}", f"   :module: {shown_in}")
        yield from [f"   :value: {value}"] * (len(value) <= LONGEST)
        yield from ("", *(f"   {line}" for line in text), "")
    elif inspect.isclass(thing):
        yield from (f".. autoclass:: {path}", "   :members:", "")
    else:
        yield from (f".. autofunction:: {path}", "")
