"""The icons that the pages show, as a font of a few kilobytes.

The theme brings every icon there is twice: as a font, and as a script that puts drawings in the
place of its letters. Together they are more than half of what a first visit loads. The font stays,
with the letters that are used; where a page names the script, an empty one lies.
"""

import re
from pathlib import Path
from typing import Any

from fontTools import subset

STYLE = "_static/styles/pydata-sphinx-theme.css"
SCRIPT = "_static/scripts/fontawesome.js"
FONT = "_static/vendor/fontawesome/webfonts/fa-solid-900"
LETTER = re.compile(r"\\(f[0-9a-f]{3})\b|([\uf000-\uf8ff])")
RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", keep_what_is_shown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_what_is_shown(app: Any, error: Exception | None) -> None:
    site = Path(app.outdir)
    if error is not None or not (site / SCRIPT).is_file():
        return
    (site / SCRIPT).write_text("// Icons are letters of a font.\n", "utf-8")
    pages = "".join(page.read_text("utf-8") for page in site.rglob("*.html"))
    styles = [style.read_text("utf-8") for style in (site / "_static").rglob("*.css")]
    cut_font(site / FONT, letters_shown(pages, styles))
    style = (site / STYLE).read_text("utf-8")
    compressed = f'url(../{FONT.removeprefix("_static/")}.woff2) format("woff2"),'
    (site / STYLE).write_text(style.replace(compressed, ""), "utf-8")


def letters_shown(pages: str, styles: list[str]) -> set[int]:
    """Of the icons that pages name, and of those that styles show by themselves."""
    named = set(re.findall(r"\bfa-[\w-]+", pages))
    letters = set()
    for style in styles:
        for names, letter in RULE.findall(style):
            if named & set(re.findall(r"fa-[\w-]+", names)):
                letters.add(int(letter, 16))
        for code, letter in LETTER.findall(RULE.sub("", style)):
            letters.add(int(code, 16) if code else ord(letter))
    return letters


def cut_font(font: Path, letters: set[int]) -> None:
    """Leave these letters in the uncompressed font, and nothing in the place of the other."""
    whole = subset.load_font(f"{font}.ttf", options := subset.Options())
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=letters)
    cutter.subset(whole)
    whole.save(f"{font}.ttf")
    Path(f"{font}.woff2").unlink(missing_ok=True)
