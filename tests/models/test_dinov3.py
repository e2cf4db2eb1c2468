"""DINOv3's released encoders, as timm builds them: their features, and what is refused."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.models import dinov3
from dino_tutorial.models.dinov3 import DINOV3, RotaryTransformer, pretrained_dinov3
from dino_tutorial.runs.encoders import open_encoder

NAME = "dinov3_vits16"


def drawn(**changes):
    """timm's ViT-S/16 of DINOv3, two blocks of it, with weights that were drawn."""
    torch.manual_seed(0)
    model = timm.create_model(DINOV3[NAME], pretrained=False, depth=2, **changes)
    for name, weight in model.named_parameters():
        if "norm" in name or "gamma" in name:  # else they change nothing
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def in_place_of_a_download(monkeypatch):
    asked = []
    monkeypatch.setattr(dinov3, "downloaded", lambda name: asked.append(name) or drawn())
    return asked


def test_timm_has_the_weights():
    assert set(DINOV3.values()) <= set(timm.list_pretrained())


@pytest.mark.parametrize("name", [NAME, DINOV3[NAME]])
@torch.no_grad()
def test_the_features_are_timms_tokens(name, in_place_of_a_download):
    encoder = pretrained_dinov3(name)
    assert in_place_of_a_download == [DINOV3[NAME]] and not encoder.training
    assert (encoder.embed_dim, encoder.patch_size, encoder.num_register_tokens) == (384, 16, 4)
    state = {n.replace("fc_norm.", "norm."): w for n, w in encoder.model.state_dict().items()}
    theirs = drawn(global_pool="token")  # which normalises all tokens before it takes one
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found, tokens = encoder.forward_features(images), theirs.forward_features(images)
    torch.testing.assert_close(encoder(images), theirs(images))
    torch.testing.assert_close(found.registers, tokens[:, 1:5])
    torch.testing.assert_close(found.patches, tokens[:, 5:])
    both = encoder([images, images[:1, :, :, :64]])
    torch.testing.assert_close(both[2:], encoder(images[:1, :, :, :64]))


def test_a_side_that_patches_do_not_divide_is_refused():
    with pytest.raises(UserError, match="65 x 64 pixels cannot be cut into patches of 16"):
        RotaryTransformer(drawn())(torch.zeros(1, 3, 65, 64))


def test_a_folder_is_embedded_with_it(in_place_of_a_download, tmp_path, capsys):
    place = tmp_path / "photographs"
    place.mkdir()
    for number in range(3):
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").save(place / f"{number}.png")
    out = tmp_path / "x.npz"
    assert main(["embed", NAME, "--data", str(place), "--out", str(out), "--patches"]) == 0
    assert "3 images, features of 384 numbers, 196 patches" in capsys.readouterr().out
    with np.load(out) as stored:
        assert stored["features"].shape == (3, 384) and stored["patches"].shape == (3, 196, 384)
        assert np.isfinite(stored["features"]).all()
    opened = open_encoder(NAME)
    assert (opened.name, opened.image_size) == (NAME, 224) and len(opened.digest) > 8


def test_a_training_does_not_begin_with_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(dinov3, "downloaded", None)  # nothing is fetched to be refused
    command = ["train", "dino", "--preset", "smoke", f"--folder={tmp_path}"]
    assert main([*command, "--set", f"train.init={NAME}"]) == 2
    error = capsys.readouterr().err
    assert "rotary position embeddings" in error and "begin with one of DINOv2's" in error
    assert len(error.splitlines()) == 1
