"""Built pages in a real browser: accessibility, paper, search, and no error on the console."""

import functools
import gzip
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from browser import open_browser

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.site, pytest.mark.slow]
PATIENCE = 120_000  # milliseconds
PAGES = re.findall(r"file: book/(\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
PARTS = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
CHAPTERS = [
    page["file"].removeprefix("book/")
    for part in PARTS
    if part.get("numbered")
    for page in part["chapters"]
]
# All rules once, and again what a theme or a narrow screen can change.
CONTRAST = ["color-contrast", "link-in-text-block"]
NARROW = [*CONTRAST, "scrollable-region-focusable", "target-size"]
AXE = """async (rules) => (await axe.run(document, {
    preload: false, resultTypes: ["violations"],
    ...(rules ? { runOnly: { type: "rule", values: rules } } : {}),
  })).violations
  .filter((one) => ["serious", "critical"].includes(one.impact))
  .map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(" ")}`)"""
# What a reader has to push sideways to read: its kind, and how it begins.
SIDEWAYS = """() => [...document.querySelectorAll(".bd-article *")]
  .filter((e) => e.checkVisibility({ visibilityProperty: true }) && e.clientWidth > 0
    && e.scrollWidth > e.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(e).overflowX))
  .map((e) => [e.tagName.toLowerCase(), e.textContent.trim().slice(0, 60)])"""
MAY_SCROLL = {"pre"}  # on a phone: code
# How a chapter reads: the share of code, without what it prints, in its visible characters, the
# lines of its longest visible cell, and where its first figure begins, in screens of 800 pixels.
READING = """async () => {
  await window.MathJax?.startup?.promise;
  const article = document.querySelector(".bd-article");
  const seen = (e) => e.checkVisibility({ visibilityProperty: true });
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  let all = 0, code = 0;
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (parent.closest("script, style, svg, mjx-assistive-mml, button, .headerlink")) continue;
    if (!seen(parent)) continue;
    const characters = walker.currentNode.textContent.replace(/\\s+/g, "").length;
    all += characters;
    if (parent.closest(".highlight") && !parent.closest(".output")) code += characters;
  }
  const lines = [...article.querySelectorAll(".highlight pre")].filter(seen)
    .map((e) => e.textContent.trimEnd().split("\\n").length);
  const first = [...article.querySelectorAll("img, svg, form.dino-interactive")]
    .find((e) => seen(e) && e.getBoundingClientRect().height > 60);
  return { code: code / all, longest: Math.max(0, ...lines),
    figure: (first.getBoundingClientRect().top + scrollY) / 800 };
}"""
CUT = """() => [...document.querySelectorAll(".bd-article pre")]
  .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent.trim().slice(0, 80))"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(site):
    """The address of a server of the site."""
    handler = functools.partial(Quiet, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def visit(browser, site):
    """Opens a page of the site; none may log an error, or ask another machine for anything."""
    errors, pages, hosts = [], [], set()

    def opened(name, width=1280):
        pages.append(browser.new_page(viewport={"width": width, "height": 900}))
        pages[-1].on("pageerror", lambda error: errors.append(f"{name}: {error}"))
        pages[-1].on(
            "console",
            lambda said: errors.append(f"{name}: {said.text}") if said.type == "error" else None,
        )
        pages[-1].on("request", lambda asked: hosts.add(urlsplit(asked.url).hostname))
        address = name if ":" in name else (site / "book" / f"{name}.html").as_uri()
        pages[-1].goto(address, timeout=PATIENCE)
        return pages[-1]

    yield opened
    for page in pages:
        page.close()
    assert errors == []
    assert hosts <= {None, "", "127.0.0.1"}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_everybody_on_every_screen_in_both_themes(visit, name):
    axe = pytest.importorskip("axe_playwright_python", reason="no browser here: no axe")
    page = visit(name)
    page.add_script_tag(path=f"{axe.__path__[0]}/axe.min.js")
    page.wait_for_timeout(500)  # the theme makes what scrolls reachable a moment after loading
    assert page.evaluate(CUT) == []
    for width, themes in ((1280, (None, CONTRAST)), (390, (NARROW, CONTRAST))):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(1000)  # the theme waits a little, too
        for theme, rules in zip(("light", "dark"), themes, strict=True):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
            assert page.evaluate(AXE, rules) == [], (width, theme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [part for part in page.evaluate(SIDEWAYS) if part[0] not in MAY_SCROLL] == []


def test_the_index_fits_a_phone(visit, site):
    page = visit((site / "genindex.html").as_uri(), width=390)
    beyond = """() => [...document.querySelectorAll(".indextable *")]
      .filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.textContent.trim())"""
    assert page.evaluate(beyond) == []
    assert page.locator(".indextable li").count() > 100


@pytest.mark.parametrize("name", PAGES)
def test_a_first_visit_takes_a_megabyte_and_a_half_at_most(visit, site, served, name):
    """As sent by a server that compresses texts."""
    page = visit(f"{served}/book/{name}.html")
    page.wait_for_load_state("networkidle")
    loaded = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    files = {site / urlsplit(address).path.lstrip("/") for address in (page.url, *loaded)}
    assert {".html", ".css", ".js", ".ttf"} <= {file.suffix for file in files}
    weights = {file.name: weight_sent(file) for file in files}
    assert sum(weights.values()) <= 1.5e6, weights


def weight_sent(file):
    packed = file.suffix in {".woff", ".woff2", ".png", ".webp", ".jpg"}
    return file.stat().st_size if packed else len(gzip.compress(file.read_bytes(), 6))


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_with_a_figure_and_is_mostly_prose(visit, name):
    page = visit(name)
    page.set_viewport_size({"width": 1280, "height": 800})
    reading = page.evaluate(READING)
    assert reading["figure"] <= 1.5
    assert reading["code"] <= 0.25
    assert reading["longest"] <= 40


def test_the_encoder_at_work_can_be_read_by_everybody_in_both_themes(visit):
    axe = pytest.importorskip("axe_playwright_python", reason="no browser here: no axe")
    page = visit("what-emerges")
    page.get_by_role("button", name="Load the encoder").click()
    page.locator(".encoder-play.shown").wait_for(timeout=PATIENCE)
    page.add_script_tag(path=f"{axe.__path__[0]}/axe.min.js")
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        assert page.evaluate(AXE.replace("document,", '".encoder-play",'), None) == [], theme


def test_paper_loses_no_line_of_code(visit):
    pypdf = pytest.importorskip("pypdf", reason="no browser here: no pypdf")
    page = visit("centering-sharpening")
    page.emulate_media(media="print")
    code = page.evaluate(
        """() => [...document.querySelectorAll(".cell_input pre, .cell_output pre")]
          .filter((pre) => pre.offsetParent !== null).map((pre) => pre.innerText).join("\\n")"""
    )
    pdf = pypdf.PdfReader(BytesIO(page.pdf(prefer_css_page_size=True)))
    printed = "".join("".join(sheet.extract_text() for sheet in pdf.pages).split())
    lines = [line for line in ("".join(line.split()) for line in code.splitlines()) if line]
    assert len(lines) > 100
    assert [line for line in lines if line not in printed] == []


def test_search_finds_the_chapter_before_the_mention_and_quotes_prose(visit, served):
    for asked, chapter in {
        "centering": "centering-sharpening",
        "multi-crop": "multi-crop",
        "koleo": "dinov2-objective",
    }.items():
        page = visit(f"{served}/search.html?q={asked}")
        found = page.locator("#search-results li")
        found.first.wait_for(timeout=PATIENCE)
        page.wait_for_timeout(1000)
        hits = [hit.locator("a").first.get_attribute("href") for hit in found.all()[:3]]
        # What the glossary says of the word may stand before it.
        pages = [hit for hit in hits if "glossary" not in hit and "reference/" not in hit]
        assert f"book/{chapter}.html" in pages[0], f"{asked}: {hits}"
        quoted = found.filter(has=page.locator(f'a[href*="{chapter}"]')).first.inner_text()
        assert len(quoted) > 100 and "import " not in quoted


def test_focus_is_seen_on_the_buttons_of_the_theme(visit):
    page = visit("byol")
    for selector in ("button.primary-toggle", ".dropdown-download-buttons > button"):
        page.keyboard.press("Tab")  # from now on the browser shows focus
        page.locator(selector).first.focus()
        style = page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement);"
            " return [s.outlineStyle, parseFloat(s.outlineWidth)]; }"
        )
        assert style[0] == "solid" and style[1] >= 2, selector


def test_links_show_what_they_lead_to_by_mouse_and_by_keyboard(visit):
    page = visit("images-as-tokens")
    preview = page.locator("#preview")
    for kind, words in {"glossary.html#term-": 20, "references.html#": 20}.items():
        link = page.locator(f'.bd-article p a[href*="{kind}"]').first
        link.scroll_into_view_if_needed()
        link.hover()
        preview.wait_for(state="visible")
        assert len(preview.inner_text().split()) > words / 4, kind
        assert link.get_attribute("aria-describedby") == "preview"
        page.keyboard.press("Escape")
        assert preview.is_hidden() and link.get_attribute("aria-describedby") is None
    figure = page.locator('.bd-article p a.reference.internal[href^="#fig-"]').first
    page.keyboard.press("Tab")  # from now on focus is seen
    figure.focus()
    assert preview.locator("img, svg").count() == 1
