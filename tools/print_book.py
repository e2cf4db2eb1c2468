"""The whole book as one PDF: title, contents with page numbers, every page of the built site.

    python tools/print_book.py [SITE] [PDF]    _build/html and _build/dino-tutorial.pdf by default

A browser prints each page in the order of ``_toc.yml`` by the style sheet ``print.css``, with the
number that follows the page before. Links between pages become links inside the file. It wants
the extra ``pdf``; the browser is the system's Chromium, or what `playwright install chromium`
fetches.
"""

import html
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, NullObject

from dino_tutorial import __version__

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300_000  # milliseconds for one page, on a machine that has other work
# Images that load when they are scrolled to, and formulas, are waited for.
READY = """async () => {
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  await window.MathJax?.startup?.promise;
}"""


@dataclass
class Printed:
    """A page of the site on paper."""

    file: Path
    part: str
    title: str
    first: int  # the number on its first sheet
    pdf: PdfReader


def listed() -> Iterator[tuple[str, str]]:
    """The caption of its part and the name of each page of the book, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    yield "", toc["root"]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            for page in (chapter, *chapter.get("sections", ())):
                yield part["caption"], page["file"]


def to_pdf(page: Page, first: int | None) -> PdfReader:
    """Print what is open, its sheets numbered from ``first``, or not at all."""
    number = f"counter-set: page {first}" if first else "@bottom-center { content: none }"
    page.add_style_tag(content=f"@page :first {{ {number} }}")
    return PdfReader(BytesIO(page.pdf(prefer_css_page_size=True, outline=True, tagged=True)))


def print_pages(browser: Browser, site: Path) -> Iterator[Printed]:
    first = 1
    page = browser.new_page()
    for part, name in listed():
        file = (site / f"{name}.html").resolve()
        page.goto(file.as_uri(), timeout=PATIENCE)
        page.evaluate(READY)
        title = page.title().rsplit(" — ", 1)[0]
        pdf = to_pdf(page, first)
        yield Printed(file, part, title, first, pdf)
        first += len(pdf.pages)
    page.close()


def front(browser: Browser, printed: list[Printed]) -> PdfReader:
    """Title and contents, without page numbers of their own."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    rows, part = [], ""
    for one in printed:
        if one.part != part:
            part = one.part
            rows.append(f"<tr><th colspan=2>{html.escape(part)}</th></tr>")
        link = f'<a href="{one.file.as_uri()}">{html.escape(one.title)}</a>'
        rows.append(f"<tr><td>{link}</td><td class=number>{one.first}</td></tr>")
    page = browser.new_page()
    page.set_content(
        FRONT.format(
            title=html.escape(config["title"]),
            author=html.escape(config["author"]),
            version=__version__,
            date=date.today().strftime("%-d %B %Y"),
            rows="\n".join(rows),
        )
    )
    pdf = to_pdf(page, None)
    page.close()
    return pdf


FRONT = """<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>
@page {{ size: A4; margin: 25mm 25mm }}
body {{ font: 10.5pt/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f2428 }}
.title {{ break-after: page; padding-top: 70mm; text-align: center }}
h1 {{ font-size: 30pt; font-weight: 500; margin: 0 0 6mm }}
h2 {{ font-size: 18pt; font-weight: 500 }}
.title p {{ margin: 2mm 0; color: #5b646d }}
table {{ width: 100%; border-collapse: collapse }}
th {{ text-align: left; padding: 4mm 0 1mm }}
td {{ padding: 0.4mm 0; border-bottom: 0.3pt dotted #a6afb9 }}
.number {{ text-align: right; width: 3em }}
a {{ color: inherit; text-decoration: none }}
</style>
<div class=title><h1>{title}</h1><p>An executable book on learning to see without labels</p>
<p style="margin-top: 20mm">{author}</p><p>Version {version}, printed on {date}</p>
<p style="margin-top: 60mm">Text: CC BY 4.0. Code: Apache-2.0.</p></div>
<h2>Contents</h2><table>{rows}</table></html>"""


def join(front_matter: PdfReader, printed: list[Printed]) -> PdfWriter:
    """One file with an outline, whose links between pages stay inside."""
    writer = PdfWriter()
    writer.append(front_matter, import_outline=False)
    writer.add_outline_item(title="Contents", page_number=1)
    starts = {}
    for one in printed:
        starts[one.file] = len(writer.pages)
        writer.append(one.pdf, import_outline=False)
        chapter = writer.add_outline_item(title=one.title, page_number=starts[one.file])
        for title, sheet in sections(one.pdf):
            page = starts[one.file] + sheet
            writer.add_outline_item(title=title, page_number=page, parent=chapter)
    for sheet in writer.pages:
        for note in sheet.get("/Annots", ()):
            lead_inside(writer, note.get_object(), starts)
    writer.page_layout = "/OneColumn"
    return writer


def sections(pdf: PdfReader) -> Iterator[tuple[str, int]]:
    """Title and sheet of each section of a page, by the browser's outline."""
    for below_title in (entry for entry in pdf.outline if isinstance(entry, list)):
        for entry in below_title:
            sheet = None if isinstance(entry, list) else pdf.get_destination_page_number(entry)
            if sheet is not None:
                half = len(entry.title) // 2  # the browser says some titles twice
                once = entry.title[:half]
                yield (once if once == entry.title[half:] else entry.title), sheet


def lead_inside(writer: PdfWriter, note: dict, starts: dict[Path, int]) -> None:
    """Let a link to another page of the site lead to its first sheet in the file."""
    address = urlsplit(str(note.get("/A", {}).get("/URI", "")))
    start = starts.get(Path(unquote(address.path))) if address.scheme == "file" else None
    if start is not None:
        target = writer.pages[start].indirect_reference
        top = [target, NameObject("/XYZ"), NullObject(), NullObject(), NullObject()]
        note[NameObject("/Dest")] = ArrayObject(top)
        del note["/A"]
    elif address.scheme == "file":
        del note["/A"]  # to a file that no reader of the book has


def main() -> None:
    site = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_build" / "html")
    target = Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "_build" / "dino-tutorial.pdf")
    if not (site / "book").is_dir():
        sys.exit(f"there is no built site in {site}: run `make book` first")
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        printed = []
        for one in print_pages(browser, site):
            printed.append(one)
            print(f"{one.first:4}  {one.title}", flush=True)
        book = join(front(browser, printed), printed)
        browser.close()
    book.write(target)
    print(f"{target}: {len(book.pages)} pages")


if __name__ == "__main__":
    main()
