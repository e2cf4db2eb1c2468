"""What other extensions leave to be mended in each page.

Live cells (`sphinx-thebe`) are not used here: their scripts come twice and stop each other with an
error, so they go. Exercises and solutions all have the same two ids, which become classes. The
parameters of a long signature are no list of definitions, as which they come. Images get their
size, so that text does not jump, and load when they are near. The footer gets version and date.
Entries of the list of references get the role that a list asks for.
"""

import os
import re
import time
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image

from dino_tutorial import __version__

THEBE = re.compile(r'\s*<script type="text/x-thebe-config">.*?</script>', re.S)
KERNEL = re.compile(r"\s*<script>kernelName = .*?</script>")
SAME_IDS = re.compile(r'<section id="((?:exercise|solution)-content)">')
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')
IMAGE = re.compile(
    r'<img (?=[^>]*\bsrc="([^":]+)")(?![^>]*\s(?:loading|width|height)=)([^>]*?)\s*/?>'
)


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", mend, priority=900)  # after those who add something
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mend(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    context["theme_extra_footer"] = f"<p>{_version()}</p>{context.get('theme_extra_footer') or ''}"
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, ()) if not _is_thebe(file)]
    if "body" in context:
        folder = Path(app.outdir) / Path(pagename).parent
        body = THEBE.sub("", KERNEL.sub("", context["body"]))
        body = SAME_IDS.sub(r'<section class="\1">', body)
        body = PARAMETERS.sub(_lines, body)
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')
        context["body"] = IMAGE.sub(lambda found: _sized(found, app, folder), body)


def _is_thebe(file: Any) -> bool:
    words = f"{getattr(file, 'filename', None)} {getattr(file, 'attributes', {}).get('body')}"
    return "sphinx-thebe" in words or "THEBE_JS_URL" in words


def _lines(found: re.Match) -> str:
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f"<span>\n{lines}</span>"


def _sized(found: re.Match, app: Any, folder: Path) -> str:
    size = _size_of(app.builder, unquote(found[1]), folder)
    if size is None:
        return found[0]
    return f'<img {found[2]} width="{size[0]}" height="{size[1]}" loading="lazy">'


def _size_of(builder: Any, address: str, folder: Path) -> tuple[int, int] | None:
    """Width and height of an image of the page, which may be copied only after it is written."""
    name = Path(address).name
    for source, copied in builder.images.items():
        if copied == name:
            return _read_size(Path(builder.srcdir) / source)
    return _read_size((folder / address).resolve())


@cache
def _read_size(path: Path) -> tuple[int, int] | None:
    if path.suffix == ".svg" or not path.is_file():
        return None
    with Image.open(path) as image:
        return image.size


def _version() -> str:
    built = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    return f"Version {__version__}, {built.tm_mday} {time.strftime('%B %Y', built)}."
