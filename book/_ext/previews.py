"""A link to a term carries the term's definition, as one to a reference carries the reference.

`_static/previews.js` shows either where the mouse or the keyboard is. Both stand in the page, so
that nothing has to be loaded, which a page that was opened as a file may not do.
"""

import html
import re
from functools import cache
from typing import Any

from docutils import nodes

GLOSSARY = "book/glossary"
TERM = re.compile(r'<a class="reference internal" href="([^"#]*glossary\.html)?#(term-[^"]+)"')


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", add_definitions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_definitions(
    app: Any, pagename: str, templatename: str, context: dict, doctree: Any
) -> None:
    if "body" in context and GLOSSARY in app.env.found_docs:
        known = definitions(app.env)

        def titled(link: re.Match) -> str:
            words = known.get(link[2])
            return f'{link[0]} title="{html.escape(words)}"' if words else link[0]

        context["body"] = TERM.sub(titled, context["body"])


@cache
def definitions(env: Any) -> dict[str, str]:
    """Anchor of each term -> the first paragraph of its definition, as plain words."""
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        paragraph = next(item.findall(nodes.paragraph), None)
        for term in item.findall(nodes.term):
            for anchor in term["ids"]:
                found[anchor] = paragraph.astext() if paragraph else ""
    return found
