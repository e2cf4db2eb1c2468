"""What stays in one line: a number and its percent sign; short names in tables, k-NN in heads.

On a phone a name of fourteen letters stands whole in its cell; a longer one breaks where it must,
lest the table grows wider than the page.
"""

import re
from typing import Any

from docutils import nodes

APART = re.compile(r"(?<=\d) (?=%)")
KEPT = (nodes.literal, nodes.literal_block, nodes.raw, nodes.math, nodes.math_block)
SHORT = 14  # letters


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-resolved", keep_together)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_together(app: Any, doctree: nodes.document, docname: str) -> None:
    for text in list(doctree.findall(nodes.Text)):
        if APART.search(text) and not isinstance(text.parent, KEPT):
            text.parent.replace(text, nodes.Text(APART.sub("\N{NO-BREAK SPACE}", text)))
    for head in doctree.findall(nodes.thead):
        for text in list(head.findall(nodes.Text)):
            if "k-NN" in text and not isinstance(text.parent, KEPT):
                whole = text.replace("k-NN", "k\N{NON-BREAKING HYPHEN}NN")
                text.parent.replace(text, nodes.Text(whole))
    for entry in doctree.findall(nodes.entry):
        for literal in entry.findall(nodes.literal):
            if max(map(len, literal.astext().split()), default=0) <= SHORT:
                literal["classes"].append("short")
