"""A file of weights alone tells its architecture."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from dino_tutorial.errors import UserError
from dino_tutorial.models import VisionTransformer, to_timm
from dino_tutorial.models.weights_file import read_encoder
from dino_tutorial.runs.folder import save_backbone

SMALL = {"img_size": 28, "patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 1}
FORMS = {
    "plain": {},
    "registers": {"num_register_tokens": 4, "layer_scale_init": 0.5},
    "swiglu": {"ffn": "swiglu", "layer_scale_init": 0.5},
    "narrow": {"mlp_ratio": 1.7, "qkv_bias": False},
    "stem": {"stem": "conv", "patch_size": 4, "num_register_tokens": 1},
    "heads": {"num_heads": 8},
}


def drawn(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**SMALL | changes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def images(side: int = 28) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_our_own(form, tmp_path):
    model = drawn(**FORMS[form])
    save_backbone(tmp_path / "x.safetensors", model)
    read = read_encoder(tmp_path / "x.safetensors")
    for side in (28, 56):
        torch.testing.assert_close(read(images(side)), model(images(side)))


@pytest.mark.parametrize("form", ["plain", "registers", "swiglu"])
def test_a_file_of_timm(form, tmp_path):
    model = drawn(**FORMS[form])
    save_file(to_timm(model).state_dict(), tmp_path / "x.safetensors")
    read = read_encoder(tmp_path / "x.safetensors")
    torch.testing.assert_close(read(images(56)), model(images(56)), atol=1e-4, rtol=1e-4)


def test_timms_own_architecture_of_dinov2(tmp_path):
    """The names of a released file, with weights that were drawn."""
    torch.manual_seed(0)
    donor = timm.create_model(
        "vit_small_patch14_reg4_dinov2.lvd142m", img_size=28, depth=1, embed_dim=64, num_heads=1
    )
    torch.save(donor.state_dict(), tmp_path / "x.pth")
    read = read_encoder(tmp_path / "x.pth")
    assert (read.patch_size, read.num_register_tokens, read.grid_size) == (14, 4, (2, 2))
    expected = donor.eval().forward_features(images())[:, 0]
    torch.testing.assert_close(read(images()), expected, atol=1e-4, rtol=1e-4)


def test_the_reference_codes_checkpoint_keeps_its_own_interpolation(tmp_path):
    model = drawn()
    state = {f"module.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"teacher": state, "epoch": 3}, tmp_path / "x.pth")
    read = read_encoder(tmp_path / "x.pth")
    assert read.pos_embed_mode == "offset"
    torch.testing.assert_close(read(images()), model(images()))


def broken(**changes) -> dict[str, torch.Tensor]:
    state = drawn().state_dict() | changes
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (broken(pos_embed=None), "DINOv3's, are not read from files"),
        (broken(cls_token=None), "there is no cls_token"),
        (broken(cls_token=torch.zeros(64)), "there is no cls_token of 3 dimensions"),
        (broken(**{"blocks.0.mlp.fc1.weight": None}), "there is no blocks.0.mlp.fc1.weight"),
        (broken(pos_embed=torch.zeros(1, 7, 64)), "are no square"),
        (broken(**{"norm.bias": None}), "norm.bias is missing"),
        ({"fc.weight": torch.zeros(3, 3)}, "holds no vision transformer"),
        (drawn(embed_dim=24, num_heads=3).state_dict(), "how many attention heads"),
    ],
)
def test_what_is_none_is_said(state, sentence, tmp_path):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")) as error:
        read_encoder(tmp_path / "x.pth")
    assert "x.pth" in str(error.value) and "\n" not in str(error.value)
