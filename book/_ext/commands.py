"""The help of every command, as `dino-tutorial COMMAND --help` prints it."""

import os
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from dino_tutorial.cli import build_parser

WIDTH = 78  # columns


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("commands", CommandsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class CommandsDirective(SphinxDirective):
    """`.. commands::`: a section a command."""

    def run(self) -> list[nodes.Node]:
        container = nodes.Element()
        lines = StringList(list(sections()), source=__file__)
        nested_parse_with_titles(self.state, lines, container)
        return container.children


def sections() -> Iterator[str]:
    (commands,) = [a for a in build_parser()._actions if isinstance(a, _SubParsersAction)]
    purposes = {choice.dest: choice.help for choice in commands._choices_actions}
    for name, parser in commands.choices.items():
        yield from (f"``{name}``", "-" * (len(name) + 4), "")
        yield from (f"{purposes[name][0].upper()}{purposes[name][1:]}.", "")
        yield from (".. code-block:: text", "")
        yield from (f"   {line}" for line in help_of(parser).splitlines())
        yield ""


def help_of(parser: ArgumentParser) -> str:
    """The help at one width, whatever terminal the book is built in."""
    with patch.dict(os.environ, {"COLUMNS": str(WIDTH)}):
        return parser.format_help().rstrip()
