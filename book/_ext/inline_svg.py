"""Diagrams in SVG are set into the page, so that they follow its theme and its fonts.

An ``<img>`` knows nothing of the page around it: no switch from light to dark, and text in another
font. So an image whose file ends in ``.svg`` becomes the element itself. Its name for a screen
reader is the alt text of the directive; the file's own title and description serve those who open
it by itself. Photographs in it are stored as WebP, which has the same pixels in two thirds of the
bytes.
"""

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image

HEAD = re.compile(r"<svg\b[^>]*>")
ITS_OWN_WORDS = re.compile(r"<(title|desc)\b.*?</\1>\s*", re.DOTALL)
LABELLED = re.compile(r'\s+aria-label(ledby)?="[^"]*"')
PICTURE = re.compile(r'data:image/png;base64,([^"]+)')


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
    return PICTURE.sub(_smaller, ITS_OWN_WORDS.sub("", svg.replace(head, named, 1)))


def _smaller(picture: re.Match) -> str:
    png, webp = base64.b64decode(picture[1]), io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(webp, "WEBP", lossless=True, exact=True)
    if webp.tell() >= len(png):
        return picture[0]
    return f"data:image/webp;base64,{base64.b64encode(webp.getvalue()).decode()}"
