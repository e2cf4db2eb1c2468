"""The built pages: every link arrives, every picture has words, nothing is fetched from afar."""

import json
import math
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont
from test_chapters import CHAPTERS

from dino_tutorial import __version__
from dino_tutorial.curation import CurationSettings
from dino_tutorial.methods import METHODS
from dino_tutorial.options import describe
from dino_tutorial.runs import Config

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dino_tutorial"
pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, BeautifulSoup]:
    """The chapters, without the generated index and search pages."""
    files = sorted((site / "book").rglob("*.html"))
    return {file.resolve(): BeautifulSoup(file.read_text("utf-8"), "html.parser") for file in files}


@pytest.fixture(scope="module")
def reference(pages, site) -> Callable[[str], BeautifulSoup]:
    """The page of a room."""
    return lambda room: pages[(site / "book" / "reference" / f"{room}.html").resolve()]


def test_every_chapter_has_a_page(pages, site):
    listed = [word for word in (ROOT / "_toc.yml").read_text().split() if word.startswith("book/")]
    built = [str(page.relative_to(site.resolve()).with_suffix("")) for page in pages]
    assert sorted(built) == sorted(listed)


def test_every_link_inside_the_site_arrives(pages):
    targets = {page: {tag["id"] for tag in soup.find_all(id=True)} for page, soup in pages.items()}
    dead, followed = [], 0
    for page, soup in pages.items():
        for link in soup.select("article a[href], nav a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            followed += 1
            known = targets.get(file)
            anchor = unquote(parts.fragment)
            if not file.is_file() or (anchor and known is not None and anchor not in known):
                dead.append(f"{page.name}: {link['href']}")
    assert followed > 50
    assert dead == []


def test_nothing_is_loaded_from_another_host(pages):
    remote = [
        f"{page.name}: {tag.get('src') or tag.get('href')}"
        for page, soup in pages.items()
        for tag in soup.select("script[src], img[src], iframe[src], link[rel=stylesheet][href]")
        if urlsplit(tag.get("src") or tag.get("href")).netloc
    ]
    assert remote == []


def test_every_picture_of_the_text_has_words_and_a_file(pages):
    for page, soup in pages.items():
        for image in soup.select("article img"):
            assert image.get("alt", "").strip(), f"{page.name}: {image['src']} has no alt text"
            # Sphinx falls back to the file's name, which says nothing.
            assert image["alt"] != image["src"], f"{page.name}: {image['src']} has no alt text"
            if not image["src"].startswith("data:"):
                assert (page.parent / unquote(image["src"])).is_file(), image["src"]


def test_diagrams_are_set_into_the_page_and_have_words(pages):
    """As elements, which follow the theme; an <img> would not."""
    drawn = {path.stem for path in (ROOT / "book" / "figures").glob("*.svg")}
    shown = {}
    for page, soup in pages.items():
        assert not soup.select("article img[src$='.svg']"), page.name
        for svg in soup.select("article svg[id^=figure-]"):
            assert svg["role"] == "img" and len(svg["aria-label"].split()) > 20, page.name
            assert svg.find_parent("figure").select_one("figcaption .caption-text"), page.name
            shown[svg["id"].removeprefix("figure-")] = page
    assert shown.keys() == drawn


def test_figures_are_set_into_the_page_and_follow_its_theme(pages):
    """None is a picture of a light card, which would shine in the dark."""
    drawn = 0
    for page, soup in pages.items():
        assert not soup.select(".cell_output img[src$='.png']"), page.name
        for svg in soup.select(".cell_output svg[id^=plot-]"):
            assert svg["role"] == "img" and len(svg["aria-label"].split()) > 5, page.name
            assert f'[data-theme="dark"] #{svg["id"]} {{' in svg.style.string, page.name
            drawn += 1
    assert drawn > 60


def test_images_have_their_size_and_load_when_they_are_near(pages):
    raster = [
        (page.name, image)
        for page, soup in pages.items()
        for image in soup.select("article img[src]")
        if image["src"].endswith((".png", ".jpg", ".jpeg", ".webp"))
    ]
    assert raster
    for page, image in raster:
        assert image.get("loading") == "lazy", f"{page}: {image['src']}"
        assert int(image["width"]) > 1 and int(image["height"]) > 1, f"{page}: {image['src']}"


def test_the_button_for_the_encoder_says_how_much_it_loads(site):
    static = site / "_static"
    script = (static / "encoder-play.js").read_text("utf-8")
    button = re.search(r"Load the encoder \((.+?)\)", script)
    size = sum((static / name).stat().st_size for name in ("encoder.js", "encoder-data.js"))
    assert button[1] == f"{size / 1e6:.1f} MB"


def test_no_two_parts_of_a_page_have_one_id(pages):
    for page, soup in pages.items():
        ids = [tag["id"] for tag in soup.select("article [id]")]
        assert {one for one in ids if ids.count(one) > 1} == set(), page.name


def test_scripts_of_live_cells_are_gone(pages):
    assert not [page.name for page, soup in pages.items() if "thebe" in str(soup.head).lower()]


def test_footer_icon_and_page_for_wrong_addresses(pages, site):
    for page, soup in pages.items():
        assert f"Version {__version__}, " in soup.select_one("footer .extra_footer").text, page.name
        assert soup.select_one('link[rel="icon"]')["href"].endswith("favicon.svg"), page.name
    missing = BeautifulSoup((site / "404.html").read_text("utf-8"), "html.parser")
    links = {link["data-to"] for link in missing.select("a[data-to]")}
    assert len(links) == 2 and all((site / link).is_file() for link in links)


def test_icons_are_letters_of_a_small_font_that_has_all_that_are_shown(pages, site):
    files = site / "_static" / "vendor" / "fontawesome" / "webfonts"
    assert (files / "fa-solid-900.ttf").stat().st_size < 20_000
    assert (site / "_static" / "scripts" / "fontawesome.js").stat().st_size < 100
    letters = TTFont(files / "fa-solid-900.ttf").getBestCmap()
    style = (site / "_static" / "styles" / "pydata-sphinx-theme.css").read_text("utf-8")
    assert "fa-solid-900.woff2" not in style
    shown = {
        name
        for page in pages.values()
        for icon in page.select(".fa-solid, .fas")
        for name in icon["class"]
        if name.startswith("fa-") and name not in {"fa-solid", "fa-lg"}
    }
    assert {"fa-bars", "fa-magnifying-glass", "fa-circle-half-stroke"} <= shown
    for name in shown:
        letter = re.search(rf'\.{name}:before(?:,[^{{}}]*)?{{content:"\\([0-9a-f]+)"', style)[1]
        assert int(letter, 16) in letters, name
    for name in ("info-circle", "lightbulb", "exclamation-triangle"):  # of admonitions
        letter = re.search(rf'--pst-icon-{name}:"(.)"', style)[1]
        assert ord(letter) in letters, name


def test_every_page_has_one_title_and_a_description(pages):
    for page, soup in pages.items():
        assert len(soup.select("article h1")) == 1, page.name
        assert soup.find("meta", property="og:title"), page.name


def test_formulas_are_typeset_without_a_network(site, pages):
    assert any(soup.select(".math") for soup in pages.values())
    assert (site / "_static/mathjax/tex-mml-chtml.js").stat().st_size > 500_000
    assert len(list((site / "_static/mathjax/output/chtml/fonts").rglob("*.woff"))) > 20


def test_interactive_figures_have_labelled_controls_and_words_for_every_frame(pages):
    seen = 0
    for page, soup in pages.items():
        titles = [form["aria-label"] for form in soup.select("form.dino-interactive")]
        assert len(set(titles)) == len(titles), page.name
        for form in soup.select("form.dino-interactive"):
            place, seen = f"{page.name}: {form['aria-label']}", seen + 1
            assert form.find_parent("figure").select_one("figcaption .caption-text"), place
            (image,) = form.select("img")
            assert image["alt"].strip(), place
            sizes = []
            for control in form.select(".controls > *"):
                if slider := control.select_one("input[type=range]"):
                    assert slider.find_parent("label").text.strip(), place
                    labels = json.loads(slider["data-labels"])
                    assert slider["aria-valuetext"] == labels[int(slider["value"])], place
                    assert int(slider["max"]) == len(labels) - 1, place
                else:
                    assert control.legend.text.strip(), place
                    labels = [label.text.strip() for label in control.select("label:has(input)")]
                    assert all(labels) and len(control.select("input[checked]")) == 1, place
                sizes.append(len(labels))
            stored = json.loads(form.select_one("script").string)
            assert len(stored["frames"]) == math.prod(sizes) > 1, place
            words = [
                BeautifulSoup(stored["lines"][frame[0]] + "</svg>", "html.parser").svg
                for frame in stored["frames"]
            ]
            assert all(svg["role"] == "img" and svg["aria-label"].strip() for svg in words), place
            if not form.select_one(".still"):
                assert image["alt"] in [svg["aria-label"] for svg in words], place
    assert seen >= 4


def test_each_figure_of_a_notebook_is_on_its_page(pages):
    shown = {
        page.stem: {svg["id"] for svg in soup.select("article svg[id^=plot-]")}
        for page, soup in pages.items()
    }
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        stored = {
            re.search(r'<svg id="([^"]+)"', output["data"]["image/svg+xml"])[1]
            for cell in cells
            if "remove-output" not in cell.metadata.get("tags", [])
            for output in cell.get("outputs", [])
            if "image/svg+xml" in output.get("data", {})
        }
        assert shown[path.stem] == stored, path.name


ROOMS = ["dino_tutorial", "dino_tutorial.clinic", "dino_tutorial.datasets.scenes"]
ROOMS += sorted(f"dino_tutorial.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))
for serving in ("dino_tutorial.files", "dino_tutorial.options"):  # the rooms, and may change
    ROOMS.remove(serving)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_has_an_entry(pages, room):
    entries = {tag["id"] for soup in pages.values() for tag in soup.select("dl.py > dt[id]")}
    assert {f"{room}.{name}" for name in import_module(room).__all__} - entries == set()


def test_every_command_has_its_help(reference):
    page = reference("command-line")
    titles = {heading.get_text().rstrip("#") for heading in page.select("h2")}
    commands = {"train", "distill", "eval", "record", "report", "show", "export", "grade"}
    assert commands | {"curate", "settings", "methods", "doctor"} <= titles
    assert "--preset PRESET" in page.select_one("#train pre").get_text()


def test_shapes_in_signatures_read_as_in_the_code(reference):
    signature = reference("losses").find(id="dino_tutorial.losses.dino_loss").get_text()
    assert 'student_logits: Float[Tensor, "V B K"],' in signature
    assert 'targets: Float[Tensor, "2 B K"],' in signature and "jaxtyping" not in signature


def rows_of(options: Any, prefix: str = "") -> set[tuple[str, ...]]:
    """What a table of settings has to say, from their declaration."""
    return {
        (one.key, json.dumps(one.value), one.bounds, one.help) for one in describe(options, prefix)
    }


def shown(part: Any) -> set[tuple[str, ...]]:
    """The rows of the tables in a part of a page, without their headings."""
    straight = str.maketrans("’“”", '\'""')  # as the declarations have them
    rows = [
        tuple(cell.get_text().strip().translate(straight) for cell in row.select("td"))
        for row in part.select("tr")
    ]
    return {row for row in rows if row}


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_of_a_method_is_on_its_page(reference, method):
    settings = METHODS[method].Settings
    entry = reference("settings").find(id=f"{settings.__module__}.{settings.__name__}").parent
    assert shown(entry) == rows_of(settings(), "objective.")


def test_every_setting_of_all_runs_is_on_the_page(reference):
    assert shown(reference("settings").select_one("#of-every-run")) == rows_of(Config())


def test_every_setting_of_a_curation_is_on_the_page(reference):
    section = reference("settings").select_one("#of-a-curation")
    assert shown(section) == rows_of(CurationSettings())


NAMES_OF_CHAPTERS = {  # in their code, each leads to its entry in the reference
    "byol": {"byol_loss", "BYOL"},
    "centering-sharpening": {"DINOLoss"},
    "multi-crop": {"dino_views", "Augment"},
    "dinov2-objective": {"KoLeoLoss", "iBOTPatchLoss", "DINOv2"},
    "measuring-features": {"knn_classify"},
    "add-a-method": {"Method", "register"},
}


@pytest.mark.parametrize("chapter", NAMES_OF_CHAPTERS)
def test_names_in_code_lead_to_the_reference(pages, site, chapter):
    links = pages[(site / "book" / f"{chapter}.html").resolve()].select("a.linked-code")
    named = {link.get_text(): link["href"].partition("#")[2] for link in links}
    assert NAMES_OF_CHAPTERS[chapter] <= set(named)
    for name in NAMES_OF_CHAPTERS[chapter]:
        assert named[name].endswith(f".{name}") and named[name].startswith("dino_tutorial.")


def test_the_reference_leads_to_the_source(pages, site):
    sources = {
        (page.parent / link["href"].partition("#")[0]).resolve()
        for page, soup in pages.items()
        if page.parent.name == "reference"
        for link in soup.select('a[href*="_modules/dino_tutorial"]')
    }
    assert len(sources) > 40
    assert all(source.exists() for source in sources)
    loss = site / "_modules" / "dino_tutorial" / "losses" / "dino.html"
    assert "log_softmax" in loss.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_leads_to_its_place_in_the_package(pages, site, path):
    page = pages[(site / "book" / f"{path.stem}.html").resolve()]
    (line,) = [p for p in page.select("article p") if p.get_text().startswith("In the package: ")]
    links = [link["href"] for link in line.select("a[href]")]
    assert len(links) == line.get_text().count("dino_tutorial.")
    assert all(re.match(r"(reference/[\w-]+|api)\.html#dino_tutorial\.", link) for link in links)
