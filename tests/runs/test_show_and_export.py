"""`dino-tutorial show` draws what the encoder gives; `export` keeps its outputs."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from dino_tutorial import configure, load_run
from dino_tutorial.cli import main
from dino_tutorial.evaluation import patch_pca
from dino_tutorial.models import VisionTransformer, load_weights
from dino_tutorial.runs import Run, new_encoder
from dino_tutorial.runs.folder import save_backbone
from dino_tutorial.runs.gallery import attention_maps, nearest_images, patch_components

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ROOT / "data" / "checkpoints" / "dino-scenes-laptop-s0"


class Few:
    """Four gray squares of different brightness, labelled 0 to 3."""

    labels = torch.arange(4)
    image_size = 32

    def __len__(self):
        return 4

    def images(self, indices=None):
        levels = torch.tensor([0, 80, 160, 240], dtype=torch.uint8)
        every = levels.view(4, 1, 1, 1).expand(4, 3, 32, 32).contiguous()
        return every if indices is None else every[indices]


def run_of(tmp_path, **changes) -> Run:
    settings = {"model.stem": "patch", **changes}
    config = configure("dino", "scenes", "smoke", settings)
    (tmp_path / "config.yaml").write_text(config.dump())
    torch.manual_seed(0)
    save_backbone(tmp_path / "backbone.safetensors", new_encoder(config))
    (tmp_path / "summary.json").write_text("{}")
    return Run(tmp_path)


def say(capsys, *words):
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("what", ["attention", "pca", "crops"])
def test_show_writes_a_picture_and_says_what_it_shows(capsys, tmp_path, what):
    code, out, _ = say(capsys, "show", TRAINED, what, "--n", 2, "--out", tmp_path / "p.png")
    assert code == 0 and "2 images" in out
    with Image.open(tmp_path / "p.png") as picture:
        assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 10


def test_a_page_carries_the_alt_text(capsys, tmp_path):
    code, out, _ = say(capsys, "show", TRAINED, "pca", "--out", tmp_path / "p.html", "--size", 64)
    page = (tmp_path / "p.html").read_text()
    assert code == 0 and f'alt="{out.splitlines()[0]}"' in page and "8 by 8 patches" in page


@pytest.fixture
def small_dinov2(monkeypatch):
    """The architecture of a released model with weights that were drawn, in place of a download."""
    torch.manual_seed(0)
    donor = timm.create_model("vit_small_patch14_dinov2.lvd142m", img_size=56, depth=2)
    encoder = VisionTransformer(
        img_size=56, patch_size=14, embed_dim=384, depth=2, num_heads=6, layer_scale_init=1e-5
    )
    load_weights(encoder, donor.state_dict(), "timm")
    monkeypatch.setattr("dino_tutorial.runs.show.pretrained", lambda name: encoder.eval())


def test_a_released_model_is_shown_ones_own_photos(capsys, tmp_path, small_dinov2):
    folder = tmp_path / "photos"
    folder.mkdir()
    for shade in (40, 90, 200):  # of which one is held out
        Image.linear_gradient("L").point(lambda v, s=shade: (v + s) % 256).convert("RGB").save(
            folder / f"{shade}.png"
        )
    for what in ("pca", "attention"):
        code, out, _ = say(
            capsys,
            "show",
            "dinov2_vits14",
            what,
            "--data",
            folder,
            "--n",
            2,
            "--size",
            70,
            "--out",
            tmp_path / f"{what}.png",
        )
        assert code == 0 and "2 images" in out, what
        assert (tmp_path / f"{what}.png").stat().st_size > 1000


def test_attention_and_components_are_the_encoders_own():
    encoder, pictures = load_run(TRAINED).encoder(), Few().images()
    attention = attention_maps(encoder, pictures)
    assert attention.shape[2:] == (4, 4)
    total = attention.sum((-1, -2))  # the rest lies on the CLS token itself
    assert (total > 0).all() and (total < 1).all()
    assert patch_components(encoder, pictures).shape == (4, 4, 4, 3)
    assert patch_pca(torch.randn(4, 16, 8), n_components=3).shape == (4, 16, 3)


def test_the_nearest_picture_of_a_picture_of_the_bank_is_itself():
    images, labels = nearest_images(load_run(TRAINED).encoder(), Few(), Few(), 2)
    assert labels[:, 0].tolist() == [0, 1, 2, 3]
    assert torch.equal(images[:, 0], Few().images())


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["show", TRAINED, "pca", "--out", "p.gif"], "has to end in .png"),
        (
            ["show", TRAINED, "crops", "--out", "no/such/p.png"],
            "there is no folder no/such: make it first",
        ),
        (["show", TRAINED, "pca", "--n", "0"], "--n must be 1 to 64 images"),
        (["show", TRAINED, "crops", "--n", "-1"], "--n must be 1 to 64 images"),
        (["show", "nothing", "crops"], "is not a run's folder"),
        (["show", "dinov2_vits14", "pca"], "comes without images: name some with --data"),
        (["show", "dinov2_vits14", "crops", "--data", "scenes"], "show a run's crops"),
        (["export", TRAINED, "--to", "timm", "--out", "x.safetensors"], "has no counterpart"),
        (["export", TRAINED, "--out", "x.pt"], "has to end in .safetensors"),
        (["export", TRAINED, "--out", "no/such/x.safetensors"], "there is no folder"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, complaint):
    code, _, error = say(capsys, *words)
    assert code == 2 and complaint in error and len(error.splitlines()) == 1


def test_an_exported_backbone_is_the_same_function(capsys, tmp_path):
    run = run_of(tmp_path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = run.encoder()(images)
    for form in ("safetensors", "timm"):
        path = tmp_path / f"{form}.safetensors"
        assert say(capsys, "export", tmp_path, "--to", form, "--out", path)[0] == 0
    path = tmp_path / "safetensors.safetensors"
    own = load_weights(new_encoder(run.config), path, "native")
    torch.testing.assert_close(own.eval()(images), expected)
    path = tmp_path / "timm.safetensors"
    _, out, _ = say(capsys, "export", tmp_path, "--to", "timm", "--out", path)
    architecture = out[out.index("timm.models.VisionTransformer") :].strip()
    model = eval(architecture, {"timm": timm}).eval()  # what the sentence says is what to write
    model.load_state_dict(load_file(path))
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_onnx_gives_the_same_features_for_any_batch(capsys, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    run, path = run_of(tmp_path), tmp_path / "encoder.onnx"
    assert say(capsys, "export", tmp_path, "--to", "onnx", "--out", path)[0] == 0
    session = runtime.InferenceSession(path)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    (features,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(features), run.encoder()(images).detach(), atol=1e-4, rtol=1e-4
    )
