"""Shapes in signatures as they are written in the code: Float[Tensor, "V B K"]."""

from typing import Any

from docutils import nodes
from sphinx import addnodes


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", quote_shapes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def quote_shapes(app: Any, doctree: nodes.document) -> None:
    """Sphinx prints strings with Python's single quotes; the code has double ones."""
    for literal in doctree.findall(addnodes.desc_sig_literal_string):
        text = literal.astext()
        if text[0] == text[-1] == "'":
            literal.children = [nodes.Text(f'"{text[1:-1]}"')]
