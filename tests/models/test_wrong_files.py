"""What is no file of weights, and names that are no models, are told for what they are."""

import pytest
import torch

from dino_tutorial.cli import main
from dino_tutorial.datasets import open_dataset
from dino_tutorial.errors import UserError
from dino_tutorial.models import load_weights, vit_tiny


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page and no file of weights"),
        (b"\n  <html><body>404</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b'{"message": "Not Found"}', "is a text"),
    ],
)
def test_a_page_saved_as_weights(tmp_path, content, told):
    path = tmp_path / "dino.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        load_weights(vit_tiny(img_size=32), path)
    assert "run code" not in str(caught.value)


@pytest.mark.parametrize("name", ["dinov2_vitx14", "dino_vit16", "DINOv2_vits14"])
def test_names_that_are_nearly_models_are_met_with_a_suggestion(name, tmp_path, capsys):
    out = str(tmp_path / "a.png")
    assert main(["show", name, "pca", "--data", "scenes", "--out", out]) == 2
    assert "did you mean the released dino" in capsys.readouterr().err


def test_a_look_at_a_few_scenes_draws_no_others(monkeypatch):
    whole = open_dataset("scenes", limit=300)
    expected = whole.images()
    few = open_dataset("scenes", limit=300)
    some = torch.tensor([7, 3, 299])
    assert torch.equal(few.images(some), expected[some]) and few._images is None
    assert torch.equal(few.images(torch.arange(100)), expected[:100])
    assert few._images is not None
