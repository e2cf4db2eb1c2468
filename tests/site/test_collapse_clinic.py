"""The collapse clinic in a real browser, from a file: by mouse, touch and keyboard."""

import re
from pathlib import Path

import nbformat
import pytest
from browser import open_browser, visits

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = ROOT / "book" / "centering-sharpening.ipynb"
pytestmark = pytest.mark.slow


def block() -> str:
    """The figure as it stands in the chapter."""
    cells = nbformat.read(CHAPTER, as_version=4).cells
    (cell,) = [cell for cell in cells if 'class="collapse-clinic"' in cell.source]
    return re.search(r"<figure.*</figure>(\n<(?:link|script).*)+", cell.source, re.S).group()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    page = tmp_path_factory.mktemp("clinic") / "page.html"
    text = block().replace("../_static", (ROOT / "book" / "_static").as_uri())
    page.write_text(
        f"<!doctype html><html data-theme=light><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'>{text}",
        encoding="utf-8",
    )
    return page


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, file):
    with visits(browser, file) as (visit, _):
        yield visit


def step_of(page) -> int:
    return int(re.match(r"step (\d+)", page.locator(".numbers").inner_text()).group(1))


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def trained(page, diagnosis: str) -> None:
    page.locator(".diagnosis", has_text=diagnosis).wait_for(timeout=20_000)


def test_by_mouse(opened):
    page = opened(viewport={"width": 1280, "height": 900})
    assert step_of(page) == 0  # nothing plays by itself
    page.get_by_text("No centering", exact=True).click()
    button(page, "Start").click()
    trained(page, "Collapse onto one prototype")
    button(page, "Pause").click()
    step = step_of(page)
    button(page, "Step").click()
    assert step_of(page) == step + 1
    button(page, "Reset").click()
    assert step_of(page) == 0


def test_by_touch_on_a_phone(opened):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_text("No sharpening", exact=True).tap()
    button(page, "Start").tap()
    trained(page, "Uniform collapse")


def test_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")  # into the presets, at the one that is chosen
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="No centering").is_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert step_of(page) == 1
    slider = page.get_by_role("slider", name="teacher temperature")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0.05"
    assert page.get_by_role("radio", checked=True).count() == 0  # no preset is this
    page.get_by_role("checkbox", name="centering").focus()
    page.keyboard.press("Space")
    assert page.get_by_role("slider", name="center momentum").is_enabled()


def test_pictures_have_words_that_follow(opened):
    page = opened(color_scheme="dark")
    plane = page.get_by_role("img", name=re.compile("300 points"))
    assert "Nothing is trained yet" in plane.get_attribute("aria-label")
    button(page, "Step").click()
    curves = page.get_by_role("img", name=re.compile("Loss"))
    assert "after 1 steps" in curves.get_attribute("aria-label")


def test_where_motion_is_unwanted_the_picture_changes_in_jumps(opened):
    page = opened(reduced_motion="reduce")
    button(page, "Start").click()
    page.wait_for_timeout(250)
    assert step_of(page) == 20


def test_paper_gets_a_training_from_beginning_to_end(opened):
    page = opened()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert step_of(page) == 400
    page.emulate_media(media="print")
    assert not page.get_by_role("slider").first.is_visible()
    assert page.locator(".curves").is_visible()


def test_without_scripts_a_sentence_stands_there(opened):
    page = opened(java_script_enabled=False)
    assert "in a browser with JavaScript" in page.locator(".collapse-clinic").inner_text()
