"""Tables of settings, made from their declarations: default, what they may be, what they do.

`.. settings-of:: runs` writes those that every method has, `.. settings-of:: methods` those of each
method, `.. settings-of:: curation` those of a curation.
"""

import dataclasses
import inspect
import json
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from dino_tutorial.curation import CurationSettings
from dino_tutorial.methods import METHODS, help_of, title_of
from dino_tutorial.options import describe
from dino_tutorial.runs import Config


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("settings-of", SettingsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class SettingsDirective(SphinxDirective):
    """`.. settings-of:: runs`, `methods` or `curation`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        write = {"runs": of_runs, "methods": of_methods, "curation": of_curation}
        lines = StringList(list(write[self.arguments[0]]()), source=__file__)
        container = nodes.Element()
        nested_parse_with_titles(self.state, lines, container)
        return container.children


def of_runs() -> Iterator[str]:
    """The groups of a configuration, without the one that differs between methods."""
    config = Config()
    yield from heading("The run")
    yield from table(config, "")
    for field in dataclasses.fields(config):
        group = getattr(config, field.name)
        if dataclasses.is_dataclass(group):
            yield from heading(f"``{field.name}.*``")
            yield from declared(type(group), f"{field.name}.")


def of_methods() -> Iterator[str]:
    for name, method in METHODS.items():
        yield from heading(title_of(name))
        entry = f":py:class:`~{method.__module__}.{method.__name__}`"
        yield from (f"{entry}, ``dino-tutorial train {name}``. {help_of(name)}", "")
        yield from declared(method.Settings, "objective.")


def of_curation() -> Iterator[str]:
    yield from table(CurationSettings(), "")


def heading(text: str) -> Iterator[str]:
    yield from (text, "-" * len(text), "")


def declared(settings: type, prefix: str) -> Iterator[str]:
    """The entry of a dataclass of settings, which docstrings refer to, with its table."""
    yield from (f".. py:class:: {settings.__name__}()", f"   :module: {settings.__module__}", "")
    text = [*inspect.getdoc(settings).splitlines(), "", *table(settings(), prefix)]
    yield from (f"   {line}" for line in text)
    yield ""


def table(options: Any, prefix: str) -> Iterator[str]:
    """A row for each setting of a dataclass; those of its groups have tables of their own."""
    flat = {f.name for f in dataclasses.fields(options) if "help" in f.metadata}
    rows = [one for one in describe(options, prefix) if one.key.removeprefix(prefix) in flat]
    if not rows:  # as the docstring says
        return
    yield from (".. list-table::", "   :header-rows: 1", "   :class: settings", "")
    for row in [("setting", "default", "may be", "what it does"), *map(cells, rows)]:
        first, *others = row
        yield from (f"   * - {first}", *(f"     - {cell}" for cell in others))
    yield ""


def cells(one: Any) -> tuple[str, str, str, str]:
    value = json.dumps(list(one.value) if isinstance(one.value, tuple) else one.value)
    return f"``{one.key}``", f"``{value}``", escaped(one.bounds), escaped(one.help)


def escaped(text: str) -> str:
    """Plain text, whose stars and underscores are not markup."""
    return "".join(f"\\{letter}" if letter in "\\*`_|" else letter for letter in text)
