"""`dino-tutorial show` draws what the encoder gives; `export` keeps its outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from dino_tutorial import configure, load_run
from dino_tutorial.cli import main
from dino_tutorial.datasets import ImageDataset
from dino_tutorial.datasets.subset import Subset
from dino_tutorial.evaluation import patch_pca
from dino_tutorial.methods import METHODS
from dino_tutorial.models import VisionTransformer, load_weights
from dino_tutorial.models.elsewhere import huggingface_folder, resampling
from dino_tutorial.runs import Run, new_encoder, report
from dino_tutorial.runs.folder import save_backbone
from dino_tutorial.runs.gallery import attention_maps, nearest_images, patch_components
from dino_tutorial.views import Augment

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ROOT / "data" / "checkpoints" / "dino-scenes-laptop-s0"


class Few(ImageDataset):
    """Four gray squares of different brightness, labelled 0 to 3."""

    name, classes = "few", ("night", "dusk", "dawn", "day")
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
    (tmp_path / "summary.json").write_text('{"method": "dino"}')
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


def test_the_nearest_picture_of_a_copy_is_the_picture():
    bank, queries = (Subset(Few(), torch.arange(4)) for _ in range(2))
    images, labels = nearest_images(load_run(TRAINED).encoder(), bank, queries, 2)
    assert labels[:, 0].tolist() == [0, 1, 2, 3]
    assert torch.equal(images[:, 0], Few().images())


def test_a_picture_of_the_bank_is_no_neighbour_of_itself():
    few, encoder = Few(), load_run(TRAINED).encoder()
    queries = Subset(few, torch.tensor([3, 0, 1]))
    images, labels = nearest_images(encoder, Subset(few, torch.tensor([0, 2, 3])), queries, 5)
    assert images.shape[:2] == (3, 2)  # as many as each has
    assert [sorted(row) for row in labels[:2].tolist()] == [[0, 2], [2, 3]]
    assert set(labels[2].tolist()) <= {0, 2, 3}  # the third is not in the bank, and loses one
    assert torch.equal(images, few.images(labels.flatten()).unflatten(0, (3, 2)))


def test_training_images_that_are_shown_have_others_for_neighbours(capsys, tmp_path):
    for kind, number in (("train/a", 2), ("train/b", 1), ("test/a", 1)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for shade in range(number):
            picture = Image.linear_gradient("L").rotate(90 * shade).convert("RGB")
            picture.save(tmp_path / "photos" / kind / f"{shade}.png")
    data = ["--data", tmp_path / "photos", "--out", tmp_path / "p.png"]
    code, out, _ = say(capsys, "show", TRAINED, "neighbours", "--n", 3, *data)
    assert code == 0 and "3 query images with 2 nearest neighbours each; 2 of 6" in out
    lone = tmp_path / "lone"
    lone.mkdir()
    (tmp_path / "photos" / "train" / "b" / "0.png").rename(lone / "0.png")
    data = ["--data", lone, "--out", tmp_path / "p.png"]
    code, _, error = say(capsys, "show", TRAINED, "neighbours", *data)
    assert code == 2 and "lone has one image, which has no neighbours: add others" in error


def test_a_report_without_test_images_has_others_for_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda path, data: data)
    (tmp_path / "environment.json").write_text("{}")
    run, few = run_of(tmp_path), Few()
    augment = Augment(METHODS["dino"].view_specs(run.config.views))
    none, one = (Subset(few, torch.arange(number)) for number in (0, 1))
    data = report.report_on(run, run.encoder(), augment, few, few, none)
    assert data.neighbour_labels.shape == (4, 3)
    assert (data.neighbour_labels != data.query_labels[:, None]).all()  # each has its own label
    data = report.report_on(run, run.encoder(), augment, one, one, none)
    assert data.neighbour_images is None and len(data.attention_images) == 1


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
        (["export", TRAINED, "--to", "timm", "--out", "x"], "has no counterpart in timm"),
        (["export", TRAINED, "--to", "hf", "--out", "x"], "has no counterpart in transformers"),
        (["export", TRAINED, "--out", "x.pt"], "has to end in .safetensors"),
        (["export", TRAINED, "--out", "no/such/x.safetensors"], "there is no folder"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, complaint):
    code, _, error = say(capsys, *words)
    assert code == 2 and complaint in error and len(error.splitlines()) == 1


def test_an_exported_backbone_is_the_same_function(capsys, tmp_path):
    run, path = run_of(tmp_path), tmp_path / "x.safetensors"
    assert say(capsys, "export", tmp_path, "--out", path)[0] == 0
    own = load_weights(new_encoder(run.config), path, "native").eval()
    images = drawn(2, 32, 32)
    torch.testing.assert_close(own(images), run.encoder()(images))


def drawn(*shape: int) -> torch.Tensor:
    batch, height, width = shape
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator)


FORMS = {
    "plain": {},
    "registers": {"model.num_register_tokens": 3, "model.layer_scale_init": 0.5},
    "swiglu": {"model.ffn": "swiglu", "model.num_register_tokens": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_timm_loads_the_folder_by_itself(form, capsys, tmp_path):
    run, folder = run_of(tmp_path, **FORMS[form]), tmp_path / "for-timm"
    code, out, _ = say(capsys, "export", tmp_path, "--to", "timm", "--out", folder)
    assert code == 0 and f'timm.create_model("local-dir:{folder}", pretrained=True)' in out
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    side = run.config.views.global_size
    for images in (drawn(2, side, side), drawn(2, 2 * side, side)):
        torch.testing.assert_close(model(images), run.encoder()(images), atol=1e-4, rtol=1e-4)
    wanted = timm.data.resolve_model_data_config(model)
    assert tuple(wanted["input_size"]) == (3, side, side)
    assert list(wanted["mean"]) == [0.485, 0.456, 0.406]
    assert say(capsys, "export", tmp_path, "--to", "timm", "--out", folder)[0] == 0  # again
    (folder / "mine.txt").write_text("mine")
    code, _, error = say(capsys, "export", tmp_path, "--to", "timm", "--out", folder)
    assert code == 2 and "holds mine.txt too" in error and (folder / "mine.txt").exists()


# The parameters of a Dinov2WithRegistersModel of one layer, as the files on the hub call them,
# after transformers' modeling_dinov2_with_registers.py and its conversion_mapping.py.
D, HIDDEN, R, N, P = 48, 192, 3, 16, 4
HUGGING_FACE = {
    "embeddings.cls_token": (1, 1, D),
    "embeddings.mask_token": (1, D),
    "embeddings.register_tokens": (1, R, D),
    "embeddings.position_embeddings": (1, 1 + N, D),
    "embeddings.patch_embeddings.projection.weight": (D, 3, P, P),
    "embeddings.patch_embeddings.projection.bias": (D,),
    **{
        f"encoder.layer.0.attention.attention.{part}.{kind}": (D, D) if kind == "weight" else (D,)
        for part in ("query", "key", "value")
        for kind in ("weight", "bias")
    },
    "encoder.layer.0.attention.output.dense.weight": (D, D),
    "encoder.layer.0.attention.output.dense.bias": (D,),
    "encoder.layer.0.layer_scale1.lambda1": (D,),
    "encoder.layer.0.layer_scale2.lambda1": (D,),
    "encoder.layer.0.norm1.weight": (D,),
    "encoder.layer.0.norm1.bias": (D,),
    "encoder.layer.0.norm2.weight": (D,),
    "encoder.layer.0.norm2.bias": (D,),
    "encoder.layer.0.mlp.fc1.weight": (HIDDEN, D),
    "encoder.layer.0.mlp.fc1.bias": (HIDDEN,),
    "encoder.layer.0.mlp.fc2.weight": (D, HIDDEN),
    "encoder.layer.0.mlp.fc2.bias": (D,),
    "layernorm.weight": (D,),
    "layernorm.bias": (D,),
}


def test_the_folder_for_transformers_has_its_names_and_shapes(capsys, tmp_path):
    changes = {
        "model.num_register_tokens": R,
        "model.embed_dim": D,
        "model.depth": 1,
        "model.num_heads": 3,
        "model.patch_size": P,
    }
    run, folder = run_of(tmp_path, **changes), tmp_path / "for-hf"
    code, out, _ = say(capsys, "export", tmp_path, "--to", "hf", "--out", folder)
    assert code == 0 and "transformers.Dinov2WithRegistersModel.from_pretrained(" in out
    weights = load_file(folder / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == HUGGING_FACE
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "dinov2_with_registers" and config["mlp_ratio"] == 4
    assert (config["num_attention_heads"], config["num_register_tokens"]) == (3, R)
    assert config["image_size"] == run.config.views.global_size and config["patch_size"] == P
    seen = json.loads((folder / "preprocessor_config.json").read_text())
    assert seen["image_mean"] == [0.485, 0.456, 0.406] and seen["resample"] == 3


@pytest.mark.parametrize("form", FORMS)
def test_what_goes_to_transformers_comes_back_the_same_function(form, tmp_path):
    """The names are read by the code that reads the hub's own files."""
    encoder = run_of(tmp_path, **FORMS[form]).encoder()
    save_file(huggingface_folder(encoder).weights, tmp_path / "x.safetensors")
    shape = {"img_size": encoder.grid_size[0] * encoder.patch_size, "depth": len(encoder.blocks)}
    shape |= {"patch_size": encoder.patch_size, "embed_dim": encoder.embed_dim}
    shape |= {"num_heads": encoder.num_heads, "ffn": "swiglu" if form == "swiglu" else "mlp"}
    back = VisionTransformer(
        **shape, layer_scale_init=1.0, num_register_tokens=encoder.num_register_tokens
    )
    load_weights(back, tmp_path / "x.safetensors", "dinov2").eval()
    images = drawn(2, shape["img_size"], shape["img_size"])
    for ours, theirs in zip(
        encoder.forward_features(images), back.forward_features(images), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_transformers_loads_the_folder_by_itself(form, capsys, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    run, folder = run_of(tmp_path, **FORMS[form]), tmp_path / "for-hf"
    assert say(capsys, "export", tmp_path, "--to", "hf", "--out", folder)[0] == 0
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoder = run.encoder()
    registers = encoder.num_register_tokens
    assert type(model).__name__ == ("Dinov2WithRegistersModel" if registers else "Dinov2Model")
    side = run.config.views.global_size
    sizes = [(side, side), (2 * side, side)] if registers else [(side, side)]
    for height, width in sizes:
        images = drawn(2, height, width)
        with torch.no_grad():
            tokens = model(pixel_values=images).last_hidden_state
            ours = encoder.forward_features(images)
        torch.testing.assert_close(tokens[:, 0], ours.cls, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tokens[:, 1 + registers :], ours.patches, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("own", [(16, 16), (37, 16), (4, 7), (14, 5)])
def test_positions_for_onnx_are_those_of_the_model(own):
    out, grid = own[1], torch.randn(own[0], 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(
        grid.T[None, :, :, None].expand(1, 5, own[0], 2),
        size=(out, 2),
        mode="bicubic",
        antialias=True,
    )[0, :, :, 0].T
    torch.testing.assert_close(resampling(out, own[0]) @ grid, expected, atol=1e-5, rtol=1e-5)


def test_onnx_gives_the_same_tokens_for_any_batch_and_size(capsys, tmp_path, unchecked):
    runtime = pytest.importorskip("onnxruntime")
    run, path = run_of(tmp_path, **FORMS["registers"]), tmp_path / "encoder.onnx"
    code, out, _ = say(capsys, "export", tmp_path, "--to", "onnx", "--out", path)
    assert code == 0 and "'patches' (B, N, D)" in out
    session = runtime.InferenceSession(path)
    for shape in ((5, 16, 16), (1, 32, 24), (2, 8, 16)):
        images = drawn(*shape)
        found = session.run(None, {"images": images.numpy()})
        expected = run.encoder().forward_features(images)
        for ours, theirs in zip((expected.cls, expected.patches), found, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(theirs), ours.detach(), atol=1e-4, rtol=1e-4
            )
