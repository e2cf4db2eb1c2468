"""Loading weights: files, what is refused, and released models without a network."""

import argparse
import hashlib
import pickle

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from dino_tutorial.errors import UserError
from dino_tutorial.models import ConvNet, VisionTransformer, load_weights, pretrained


def make(seed=0, **overrides):
    torch.manual_seed(seed)
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return VisionTransformer(**(shape | overrides)).eval()


def images(size=16):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_files(tmp_path, suffix):
    donor, model, path = make(0), make(1), tmp_path / f"weights.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(donor.state_dict(), path)
    assert load_weights(model, path) is model
    torch.testing.assert_close(model(images()), donor(images()))
    torch.testing.assert_close(load_weights(make(2), str(path))(images()), donor(images()))


def test_a_training_checkpoint_with_the_arguments_of_its_run(tmp_path):
    """DINO saves the teacher beside an argparse namespace."""
    donor, path = make(0), tmp_path / "checkpoint.pth"
    teacher = {f"backbone.{k}": v for k, v in donor.state_dict().items()}
    torch.save({"teacher": teacher, "args": argparse.Namespace(arch="vit", lr=0.1)}, path)
    model = load_weights(make(1), path, source="dino")
    assert model.pos_embed_mode == "offset"
    torch.testing.assert_close(model(images()), donor(images()))


class Bomb:
    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, 2))])
def test_code_in_a_file_is_not_run(tmp_path, save):
    path = tmp_path / "evil.pth"
    save({"cls_token": torch.zeros(1), "bomb": Bomb()}, path)
    with pytest.raises(UserError, match="evil.pth is not a file of plain tensors.*safetensors"):
        load_weights(make(), path)
    assert not Bomb.exploded


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no file .*absent.pt"):
        load_weights(make(), tmp_path / "absent.pt")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"\x00not weights")
        with pytest.raises(UserError, match=name):
            load_weights(make(), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="a list instead of a state dict"):
        load_weights(make(), tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_weights(make(), {"epoch": 3})


def test_weights_of_another_architecture_are_named_in_one_sentence():
    state = make(embed_dim=48).state_dict()
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(3)
    with pytest.raises(UserError) as caught:
        load_weights(make(), state)
    sentence = str(caught.value)
    assert "norm.bias is missing" in sentence
    assert "head.weight is unexpected" in sentence
    assert "cls_token (1 x 1 x 48 instead of 1 x 1 x 24)" in sentence
    assert "and " in sentence and "more are of another shape" in sentence
    assert "\n" not in sentence and len(sentence) < 600


def test_a_refused_state_leaves_the_model_alone():
    model = make()
    before = model(images())
    with pytest.raises(UserError, match="blocks.2"):
        load_weights(model, make(1, depth=3).state_dict())
    torch.testing.assert_close(model(images()), before)


def test_another_image_size_is_explained():
    with pytest.raises(UserError, match="position embeddings are for 8 x 8 patches"):
        load_weights(make(), make(img_size=32).state_dict())


def test_positions_without_a_class_token_are_not_taken_for_another_size():
    state = make().state_dict()
    state["pos_embed"] = state["pos_embed"][:, 1:]  # as timm has them: 16 rows, not 17
    with pytest.raises(UserError, match="pos_embed .1 x 16 x 24 instead") as caught:
        load_weights(make(), state)
    assert "patches)" not in str(caught.value)


def test_unknown_source():
    with pytest.raises(UserError, match="'mae'.*dino, dinov2, timm, native"):
        load_weights(make(), make().state_dict(), source="mae")


def test_native_weights_keep_how_positions_are_interpolated():
    model = make()
    model.pos_embed_mode = "offset"
    assert load_weights(model, make(1).state_dict()).pos_embed_mode == "offset"


def test_convolutional_networks_load_too():
    torch.manual_seed(0)
    donor, model = ConvNet("resnet18").eval(), ConvNet("resnet18").eval()
    load_weights(model, {"teacher": {f"backbone.{k}": v for k, v in donor.state_dict().items()}})
    torch.testing.assert_close(model(images(32)), donor(images(32)))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file like the released one, with other weights, in a folder like the hub's cache."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False).eval()
    folder = tmp_path_factory.mktemp("cache")
    save_file(model.state_dict(), folder / "file")
    digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
    link = folder / "model.safetensors"
    link.symlink_to((folder / "file").rename(folder / digest))
    return model, link


@pytest.mark.parametrize(
    ("name", "mode"), [("dino_vits16", "offset"), ("vit_small_patch16_224.dino", "antialias")]
)
def test_released_weights(monkeypatch, released, name, mode):
    donor, path = released
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a: asked.append(a) or str(path))
    model = pretrained(name)
    assert asked == [("timm/vit_small_patch16_224.dino", "model.safetensors")]
    assert model.pos_embed_mode == mode and not model.training
    x = images(224)
    torch.testing.assert_close(model(x), donor(x), atol=1e-5, rtol=1e-5)


def test_damaged_weights_are_refused(monkeypatch, tmp_path):
    path = tmp_path / ("0" * 64)
    path.write_bytes(b"half a file")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(path))
    with pytest.raises(UserError, match="damaged"):
        pretrained("dinov2_vits14")


def test_without_a_network(monkeypatch):
    def offline(*_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UserError, match="not in the cache.*connect to the internet"):
        pretrained("dinov2_vitb14_reg")


def test_unknown_release():
    with pytest.raises(UserError, match="'dino_vitz16'.*dino_vits16.*dinov2_vitg14_reg"):
        pretrained("dino_vitz16")
