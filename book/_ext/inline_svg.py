"""Diagrams in SVG are set into the page, so that they follow its theme and its fonts.

An ``<img>`` knows nothing of the page around it: no switch from light to dark, and text in another
font. So an image whose file ends in ``.svg`` becomes the element itself. Its name for a screen
reader is the alt text of the directive; the file's own title and description serve those who open
it by itself.
"""

import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes

HEAD = re.compile(r"<svg\b[^>]*>")
ITS_OWN_WORDS = re.compile(r"<(title|desc)\b.*?</\1>\s*", re.DOTALL)
LABELLED = re.compile(r'\s+aria-label(ledby)?="[^"]*"')


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-resolved", set_inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def set_inline(app: Any, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            svg = inline(Path(app.srcdir, image["uri"]).read_text("utf-8"), image.get("alt", ""))
            image.replace_self(nodes.raw("", svg, format="html"))


def inline(svg: str, alt: str) -> str:
    """The element as a page has it: named by its alt text, without a tooltip over all of it."""
    label = f' aria-label="{html.escape(alt)}"'
    head = HEAD.search(svg)[0]
    named = LABELLED.sub("", head)[:-1] + label + ">"
    return ITS_OWN_WORDS.sub("", svg.replace(head, named, 1))
