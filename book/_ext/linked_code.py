"""Names of the package in code cells lead to their entry in the reference.

A chapter's imports say what each name is. Where the reference has an entry for that object, every
use of the name in the page's highlighted code becomes a link to it; from there `viewcode` leads to
the source. Attributes of other objects that happen to have the same name are left alone.
"""

import ast
import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

NAME = re.compile(r'(?<!<span class="o">\.</span>)<span class="n">(\w+)</span>')


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def link_names(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    path = Path(app.env.doc2path(pagename)) if doctree is not None else None
    if path is None or path.suffix != ".ipynb":
        return
    entries = reference(app.env)
    places = {name: entries[key] for name, key in imported(path).items() if key in entries}

    def link(match: re.Match) -> str:
        if match[1] not in places:
            return match[0]
        page, anchor = places[match[1]]
        address = app.builder.get_relative_uri(pagename, page)
        return f'<a class="linked-code" href="{address}#{anchor}">{match[0]}</a>'

    context["body"] = NAME.sub(link, context["body"])


def reference(env: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """Page and anchor of every object that the reference documents."""
    found = {}
    for name, entry in env.domaindata["py"]["objects"].items():
        module, _, attribute = name.rpartition(".")
        if (key := identity(module, attribute)) is not None:
            found.setdefault(key, (entry.docname, entry.node_id))
    return found


def imported(path: Path) -> dict[str, tuple[str, str]]:
    """What a notebook imports of the package: its name there, and which object it is."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dino_tutorial"):
                for alias in node.names:
                    if (key := identity(node.module, alias.name)) is not None:
                        names[alias.asname or alias.name] = key
    return names


@cache
def identity(module: str, name: str) -> tuple[str, str] | None:
    """Where an object was defined: the same for all modules that show it."""
    try:
        thing = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    if not hasattr(thing, "__qualname__") or not str(thing.__module__).startswith("dino_tutorial"):
        return None
    return thing.__module__, thing.__qualname__
