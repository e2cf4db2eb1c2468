"""The lines for released weights, which the page does not execute, run with random ones."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
import timm
import torch
from PIL import Image

from dino_tutorial.cli import main
from dino_tutorial.models import VisionTransformer, load_weights
from dino_tutorial.plots.style import DescribedFigure

PAGE = Path(__file__).resolve().parents[2] / "book" / "matching-and-retrieval.ipynb"
TEXT = "\n".join(
    cell.source for cell in nbformat.read(PAGE, 4).cells if cell.cell_type == "markdown"
)
PIXELS = 70  # in place of 448: five by five patches instead of 32 by 32


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder with photos, and DINOv2's architecture, two blocks of it, without a download."""
    (tmp_path / "my-photos" / "train").mkdir(parents=True)
    for number in range(8):  # a tenth or so is held out
        photo = Image.linear_gradient("L").rotate(45 * number).convert("RGB")
        photo.save(tmp_path / "my-photos" / "train" / f"{number}.png")
    torch.manual_seed(0)
    donor = timm.create_model("vit_small_patch14_dinov2.lvd142m", img_size=PIXELS, depth=2)
    encoder = VisionTransformer(
        img_size=PIXELS, patch_size=14, embed_dim=384, depth=2, num_heads=6, layer_scale_init=1e-5
    )
    load_weights(encoder, donor.state_dict(), "timm").eval()
    asked = []
    for place in ("dino_tutorial.runs.show.pretrained", "dino_tutorial.models.pretrained"):
        monkeypatch.setattr(place, lambda name: asked.append(name) or encoder)
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_commands_draw_what_they_say(at_home, tmp_path):
    (block,) = re.findall(r"```bash\n(dino-tutorial show.*?)```", TEXT, re.DOTALL)
    for line in block.strip().splitlines():
        words = shlex.split(line)
        assert main([*words[1:], "--size", str(PIXELS)]) == 0
        assert (tmp_path / words[-1]).stat().st_size > 1000
    assert set(at_home) == {"dinov2_vits14"}


def test_the_lines_of_python_draw_a_picture(at_home):
    (block,) = re.findall(r"```python\n(.*?pretrained.*?)```", TEXT, re.DOTALL)
    *lines, last = block.replace("448", str(PIXELS)).strip().splitlines()
    names = {}
    exec("\n".join(lines), names)
    figure = eval(last, names)
    assert isinstance(figure, DescribedFigure) and "4 images" in figure.alt_text
    assert names["patches"].shape == (4, 25, 384)
    assert at_home == ["dinov2_vits14"]
