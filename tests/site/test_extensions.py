"""What the book's own extensions of Sphinx do to a page."""

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from docutils import nodes
from PIL import Image

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"


@pytest.fixture
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    yield
    for file in EXTENSIONS.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_photographs_in_a_drawing_keep_their_pixels_in_fewer_bytes(extensions):
    from inline_svg import inline

    ramp = np.linspace(0, 255, 64 * 64 * 4).reshape(64, 64, 4).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(ramp).save(png, "PNG")
    address = base64.b64encode(png.getvalue()).decode()
    page = inline(f'<svg><image href="data:image/png;base64,{address}"/></svg>', "A ramp")
    (kept,) = re.findall(r'href="data:image/webp;base64,([^"]+)"', page)
    assert len(kept) < len(address)
    with Image.open(io.BytesIO(base64.b64decode(kept))) as image:
        assert np.array_equal(np.asarray(image.convert("RGBA")), ramp)


def test_a_percent_sign_stays_beside_its_number_and_short_names_in_tables_whole(extensions):
    from unbroken import keep_together

    head = nodes.thead("", nodes.entry("", nodes.paragraph("", "k-NN in %")))
    cell = nodes.entry("", nodes.paragraph("", "k-NN 3 %"), nodes.literal("", "cls_token"))
    long = nodes.entry("", nodes.literal("", "objective.teacher_temp"))
    text = nodes.paragraph("", "k-NN 76 % ", nodes.literal("", "100 % of it"))
    page = nodes.container("", head, cell, long, text)
    keep_together(None, page, "page")
    assert head.astext() == "k‑NN in %"
    assert cell.astext() == "k-NN 3\xa0%\n\ncls_token"
    assert [name["classes"] for name in page.findall(nodes.literal)] == [["short"], [], []]
    assert text.astext() == "k-NN 76\xa0% 100 % of it"
