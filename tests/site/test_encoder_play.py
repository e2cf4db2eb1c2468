"""The encoder in the reader's browser is the package's, and works from a file by all means."""

import base64
import io
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from browser import open_browser, visits
from PIL import Image
from site_scripts import run_script

from dino_tutorial import load_run
from dino_tutorial.datasets.scenes import CLASSES, SceneDataset
from dino_tutorial.evaluation import component_colors, nearest_neighbours, normalize, patch_pca

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
STATIC = BOOK / "_static"
BANK = 60  # training scenes in place of the page's, which take longer to draw
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made():
    """The extension that writes the encoder's script, with a small bank."""
    sys.path.insert(0, str(BOOK / "_ext"))
    try:
        import page_encoder
    finally:
        sys.path.remove(str(BOOK / "_ext"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_encoder, "BANK", BANK)
        yield page_encoder


@pytest.fixture(scope="module")
def data(made, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "encoder-data.js"
    made.write_script(ROOT / made.RUN, file)
    return file


def test_all_that_the_page_shows_is_what_the_package_computes(made, data, tmp_path):
    scenes = SceneDataset("test", made.LARGE, 2, look="pattern").images()
    pixels = [scene.permute(1, 2, 0).flatten().tolist() for scene in scenes]
    script = tmp_path / "asked.js"
    script.write_text(
        f"""const encoder = BookEncoder.open(bookEncoderData), plain = (a) => [...a];
        const found = {json.dumps(pixels)}.map((pixels) => {{
          const {{ cls, patches, attention }} = encoder.run(pixels, {made.LARGE});
          const small = encoder.run(BookEncoder.third(pixels, {made.LARGE}), {made.SMALL}).cls;
          const components = BookEncoder.components(patches, cls.length);
          return {{
            cls: plain(cls), patches: plain(patches), attention: attention.map(plain),
            small: plain(small), colours: plain(BookEncoder.colours(components)),
            nearest: BookEncoder.nearest(small, bookEncoderData.bank).map((one) => one.index),
          }};
        }});""",
        encoding="utf-8",
    )
    found = run_script([STATIC / "encoder.js", data, script], "found", tmp_path)
    encoder = load_run(ROOT / made.RUN).encoder().eval()
    bank = SceneDataset("train", made.LARGE, BANK, look="pattern")
    with torch.inference_mode():
        x = normalize(scenes)
        expected = encoder.forward_features(x)
        small = encoder(normalize(made.third(scenes)))
        looks = [encoder.get_attention(x, block)[:, :, 0] for block in range(len(encoder.blocks))]
        stored = encoder(normalize(made.third(bank.images())))
    nearest = nearest_neighbours(stored, small, k=10)
    for i, one in enumerate(found):
        close(one["cls"], expected.cls[i])
        close(one["patches"], expected.patches[i])
        close(one["small"], small[i])
        for ours, theirs in zip(one["attention"], looks, strict=True):
            close(ours, theirs[i], tolerance=1e-4)
        components = patch_pca(expected.patches[i : i + 1], foreground=False)
        close(one["colours"], component_colors(components))
        assert one["nearest"][:10] == nearest[i].tolist()


def test_it_begins_with_scenes_and_photographs(made, data):
    text = data.read_text(encoding="utf-8").removeprefix("var bookEncoderData = ").rstrip(";\n")
    samples = json.loads(text)["samples"]
    kinds, named = list(CLASSES), [f"photograph: {name}" for name in made.PHOTOGRAPHS]
    assert [sample["label"] for sample in samples] == kinds + named
    for sample in samples:
        kept = base64.b64decode(sample["image"].partition("base64,")[2])
        assert Image.open(io.BytesIO(kept)).size == (made.LARGE, made.LARGE)
        assert sample["label"].removeprefix("photograph: ") in sample["words"]


def close(ours: list[float], theirs: torch.Tensor, tolerance: float = 1e-3) -> None:
    torch.testing.assert_close(torch.tensor(ours), theirs.flatten().float(), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def file(data) -> Path:
    """The figure as it stands in the chapter, beside its scripts."""
    cells = nbformat.read(BOOK / "what-emerges.ipynb", as_version=4).cells
    (cell,) = [cell for cell in cells if 'class="encoder-play"' in cell.source]
    block = re.search(r"<figure.*</figure>(\n<(?:link|script).*)+", cell.source, re.S).group()
    for name in ("encoder.js", "encoder-play.js", "encoder-play.css"):
        (data.parent / name).write_bytes((STATIC / name).read_bytes())
    page = data.parent / "page.html"
    page.write_text(
        "<!doctype html><html data-theme=light><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'>{block.replace('../_static/', '')}",
        encoding="utf-8",
    )
    return page


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, file):
    """Opens the page, which asks for the encoder no sooner than it is wanted."""
    with visits(browser, file) as (visit, asked):

        def waiting(**options):
            page = visit(**options)
            assert not any("encoder-data" in address for address in asked)
            return page

        yield waiting


def said(page, words: str) -> None:
    page.locator(".status", has_text=words).wait_for(timeout=60_000)


def words_of(page) -> list[str]:
    return [one.get_attribute("aria-label") for one in page.locator("canvas").all()]


def test_by_mouse_a_scene_and_a_picture_of_ones_own(opened):
    page = opened(viewport={"width": 1280, "height": 900})
    page.get_by_role("button", name="Load the encoder").click()
    said(page, "A test scene of the kind “ladybird”")
    before = words_of(page)
    assert len(before) == 6 + 8 and "Attention of the mean head in the first block" in before[4]
    page.get_by_text("third", exact=True).click()
    assert "third block" in words_of(page)[1] and words_of(page)[0] == before[0]
    page.locator("input[type=file]").set_input_files(ROOT / "data" / "photos" / "cat.jpg")
    said(page, "Your picture: cat.jpg")
    assert words_of(page)[1] != before[1]
    assert page.locator('[aria-pressed="true"]').count() == 0
    shown = page.evaluate(
        """() => {
          const pen = document.querySelector("canvas").getContext("2d");
          return [...pen.getImageData(48, 48, 1, 1).data.slice(0, 3)];
        }"""
    )
    assert max(shown) > 20  # the photograph, not a blank


def test_what_is_no_picture_is_refused_in_a_sentence(opened, tmp_path):
    page = opened()
    page.get_by_role("button", name="Load the encoder").click()
    said(page, "A test scene")
    (tmp_path / "notes.txt").write_text("no pixels")
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.txt")
    said(page, "notes.txt cannot be read as a picture")


def test_by_touch_on_a_phone_in_the_dark(opened):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.get_by_role("button", name="Load the encoder").tap()
    said(page, "ladybird")
    page.get_by_role("button", name="bee").tap()
    said(page, "“bee”")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    said(page, "ladybird")
    page.keyboard.press("Tab")  # from the first scene, which has the focus, to the next
    page.keyboard.press("Enter")
    said(page, "“starfish”")
    page.get_by_role("radio", name="first").focus()
    page.keyboard.press("ArrowRight")
    assert "second block" in words_of(page)[1]


def test_without_scripts_a_sentence_stands_there(opened):
    page = opened(java_script_enabled=False)
    assert "in a browser with JavaScript" in page.locator(".encoder-play").inner_text()
