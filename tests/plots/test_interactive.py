"""Interactive figures hold every frame, in order, with words and labels; the script finds them."""

import json
import shutil
import subprocess
from itertools import product

import pytest
import torch
from browser import open_browser
from bs4 import BeautifulSoup

from dino_tutorial import plots
from dino_tutorial.plots.style import DescribedFigure, new_figure

SIZES, TINTS = [0.5, 1, 2], ["red & <b>", 'blue "sky"']


def draw(size, tint) -> DescribedFigure:
    figure = new_figure(1)
    figure.text(0.5, 0.5, f"{size} {tint}")
    figure.alt_text = f"size {size} in {tint}"
    return figure


def made(**changes) -> plots.InteractiveFigure:
    controls = {"size": SIZES, "tint": TINTS}
    return plots.InteractiveFigure("A <title>", draw, **{"controls": controls} | changes)


def form_of(markup: str):
    (form,) = BeautifulSoup(markup, "html.parser").select("form.dino-interactive")
    return form


def frames_of(form) -> list[str]:
    """What the script makes of the stored lines."""
    stored = json.loads(form.select_one("script").string)
    return ["\n".join(stored["lines"][n] for n in frame) for frame in stored["frames"]]


def test_every_combination_has_its_frame_in_the_order_of_the_controls():
    frames = frames_of(form_of(made()._repr_html_()))
    words = [BeautifulSoup(frame, "html.parser").svg["aria-label"] for frame in frames]
    assert words == [f"size {size} in {tint}" for size, tint in product(SIZES, TINTS)]
    for frame, values in zip(frames, product(SIZES, TINTS), strict=True):
        assert frame == plots.to_svg(draw(*values), "a-title")


def test_controls_are_native_labelled_and_set_to_the_start():
    form = form_of(made(start=(1, TINTS[1]))._repr_html_())
    assert form["aria-label"] == "A <title>"
    (slider,) = form.select(".slider > label > input[type=range]")
    assert slider.parent.select_one(".name").contents[0].strip() == "size"
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "1")
    assert slider["aria-valuetext"] == form.select_one(".value").text == "1"
    assert json.loads(slider["data-labels"]) == ["0.5", "1", "2"]
    assert form.select_one("fieldset > legend").text == "tint"
    choices = form.select("fieldset > label > input[type=radio]")
    assert [choice.parent.text.strip() for choice in choices] == TINTS
    assert [choice.has_attr("checked") for choice in choices] == [False, True]
    assert len(form.select("input")) == 3
    (button,) = form.select("button")
    assert button["type"] == "button" and button["aria-label"] == "Play: size"


def test_without_scripts_there_is_the_start_as_a_picture_and_no_dead_control():
    form = form_of(made(start=(2, TINTS[0]))._repr_html_())
    (image,) = form.select("img")
    assert image["alt"] == f"size 2 in {TINTS[0]}"
    assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert form.select_one(".controls").has_attr("hidden")


def test_a_still_stands_where_scripts_do_not_run_and_on_paper():
    strip = draw(2, "a strip")
    form = form_of(made(still=strip)._repr_html_())
    (image,) = form.select("img")
    assert image["alt"] == "size 2 in a strip" and image.find_parent(class_="still")
    assert form.select_one(".picture").text.strip() == ""  # the script fills it
    assert len(frames_of(form)) == 6
    assert not form_of(made()._repr_html_()).select(".still")


def test_markup_is_the_same_each_time_and_loads_nothing():
    markup = made()._repr_html_()
    assert markup == made()._repr_html_()
    assert "http" not in markup and "url(" not in markup.replace("url(#", "")
    assert repr(made()) == "<InteractiveFigure: A <title>, 6 frames>"


def test_what_frames_share_is_stored_once():
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    attention = torch.rand(20, 8, 8)

    def size_of(n):
        figure = plots.InteractiveFigure(
            "maps", lambda n: plots.attention_map(image, attention[n]), {"n": range(n)}
        )
        return len(figure._repr_html_())

    whole = len(plots.to_svg(plots.attention_map(image, attention[0]), "maps"))
    assert size_of(20) - size_of(1) < 19 * whole / 4


def test_a_frame_without_words_and_a_start_that_is_no_value_are_refused():
    with pytest.raises(ValueError, match="no alt_text"):
        plots.InteractiveFigure("t", lambda n: new_figure(1), {"n": [1]})._repr_html_()
    with pytest.raises(ValueError, match="no combination"):
        made(start=(3, TINTS[0]))


def test_widgets_draw_what_is_chosen():
    ipywidgets = pytest.importorskip("ipywidgets")
    box = made().live({"size": ipywidgets.FloatSlider(1.25, min=0, max=2)})
    size, tint, view = box.children
    assert "size 1.25 in red &amp; &lt;b&gt;" in view.value
    size.value, tint.value = 0.75, TINTS[1]
    assert plots.to_svg(draw(0.75, TINTS[1]), "a-title-live") in view.value
    assert "<script" not in view.value


DRIVE = """
<script>
const form = document.querySelector("form");
const seen = [];
const note = () => seen.push([
  form.querySelector("svg").getAttribute("aria-label"), form.querySelector(".words").textContent,
  form.querySelector("svg text").textContent, form.querySelector("[type=range]").ariaValueText,
  form.querySelector(".value").textContent, form.querySelector(".controls").hidden,
]);
note();
const slider = form.querySelector("[type=range]");
slider.value = 2;
slider.dispatchEvent(new Event("input", { bubbles: true }));
note();
form.querySelectorAll("[type=radio]")[1].click();
note();
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
</script>
"""


def test_moving_a_control_changes_picture_and_words_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{made()._repr_html_()}{DRIVE}")
    dump = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    seen = json.loads(BeautifulSoup(dump, "html.parser").select_one("#seen").text)
    expected = [(0.5, TINTS[0]), (2, TINTS[0]), (2, TINTS[1])]
    for (label, words, text, spoken, shown, hidden), (size, tint) in zip(
        seen, expected, strict=True
    ):
        assert label == words == f"size {size} in {tint}"
        assert text == f"{size} {tint}"
        assert spoken == shown == str(size)
        assert not hidden


@pytest.fixture
def opened(tmp_path):
    """Opens the figure in a real browser, with a clock that the test moves."""
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{made()._repr_html_()}")
    with open_browser() as browser:

        def visit(**options):
            tab = browser.new_context(**options).new_page()
            tab.clock.install()
            tab.goto(page.as_uri())
            return tab

        yield visit


def test_play_moves_the_slider_to_its_end_and_stops_there(opened):
    page = opened()
    slider, words = page.get_by_role("slider"), page.get_by_role("status")
    page.get_by_role("button", name="Play: size").click()
    assert words.get_attribute("aria-live") == "off"  # not every frame is read out
    for place, size in ((1, 1), (2, 2)):
        page.clock.run_for(700)
        assert slider.input_value() == str(place)
        assert words.inner_text() == f"size {size} in {TINTS[0]}"
    page.clock.run_for(5000)
    assert slider.input_value() == "2" and words.get_attribute("aria-live") is None
    page.get_by_role("button", name="Play: size").click()  # from the end it starts anew
    assert slider.input_value() == "0"


def test_play_is_stopped_by_keyboard_and_by_a_control(opened):
    page = opened()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.clock.run_for(700)
    assert page.locator("button:focus").get_attribute("aria-label") == "Stop: size"
    page.keyboard.press("Space")
    page.clock.run_for(5000)
    assert page.get_by_role("slider").input_value() == "1"
    page.keyboard.press("Space")
    page.get_by_role("radio").nth(1).click()
    page.clock.run_for(5000)
    assert page.get_by_role("slider").input_value() == "1"
    assert page.get_by_role("button", name="Play: size").count() == 1
    assert page.get_by_role("status").inner_text() == f"size 1 in {TINTS[1]}"


def test_whoever_wants_no_motion_has_the_slider_alone(opened):
    page = opened(reduced_motion="reduce")
    assert page.get_by_role("button").count() == 0
    page.get_by_role("slider").press("ArrowRight")
    assert page.get_by_role("slider").input_value() == "1"
