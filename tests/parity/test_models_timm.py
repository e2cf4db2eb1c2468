"""Our vision transformer against timm's, both ways, at the training size and at others."""

import pytest
import timm
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.models import VisionTransformer, load_weights, to_timm

# timm's name, its overrides (small, but with every part), and the same model here
CASES = {
    "dino": (
        "vit_small_patch16_224.dino",
        {"img_size": 64, "embed_dim": 48, "num_heads": 3},
        {"img_size": 64, "patch_size": 16, "embed_dim": 48, "num_heads": 3},
    ),
    "dinov2": (
        "vit_small_patch14_dinov2.lvd142m",
        {"img_size": 56, "embed_dim": 48, "num_heads": 3},
        {
            "img_size": 56,
            "patch_size": 14,
            "embed_dim": 48,
            "num_heads": 3,
            "layer_scale_init": 1e-5,
        },
    ),
    "dinov2 with registers": (
        "vit_small_patch14_reg4_dinov2.lvd142m",
        {"img_size": 56, "embed_dim": 48, "num_heads": 3},
        {
            "img_size": 56,
            "patch_size": 14,
            "embed_dim": 48,
            "num_heads": 3,
            "layer_scale_init": 1e-5,
            "num_register_tokens": 4,
        },
    ),
    "dinov2 giant": (
        "vit_giant_patch14_dinov2.lvd142m",
        # 2.66667 x 2 times 48 is 256: twice the 128 that two thirds of 4 x 48 make
        {"img_size": 56, "embed_dim": 48, "num_heads": 2},
        {
            "img_size": 56,
            "patch_size": 14,
            "embed_dim": 48,
            "num_heads": 2,
            "layer_scale_init": 1e-5,
            "ffn": "swiglu",
        },
    ),
}


def randomise(model):
    """Give each parameter, scales and biases too, a value that a wrong mapping would show."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + (parameter.std() == 0))
    return model.eval()


@pytest.fixture(params=CASES.values(), ids=CASES.keys(), scope="module")
def pair(request):
    """timm's model with random weights, and ours with the same."""
    name, theirs, ours = request.param
    donor = timm.create_model(name, pretrained=False, depth=3, dynamic_img_size=True, **theirs)
    randomise(donor)
    model = VisionTransformer(depth=3, **ours)
    return donor, load_weights(model, donor.state_dict(), source="timm").eval()


def sizes(model):
    p, s = model.patch_size, model.patch_size * model.grid_size[0]
    return [(s, s), (s - p, s - p), (s + 2 * p, s + 2 * p), (s, s - 2 * p), (s + p, 3 * s)]


def test_tokens(pair):
    donor, model = pair
    for height, width in sizes(model):
        x = torch.randn(2, 3, height, width)
        expected = donor.forward_features(x)
        features = model.forward_features(x)
        registers = model.num_register_tokens
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(features.cls, expected[:, 0], **close)
        torch.testing.assert_close(features.registers, expected[:, 1 : 1 + registers], **close)
        torch.testing.assert_close(features.patches, expected[:, 1 + registers :], **close)
        torch.testing.assert_close(model(x), donor(x), **close)


@pytest.mark.parametrize("layer", [0, -1])
def test_attention(pair, layer):
    donor, model = pair
    seen = {}
    attention = donor.blocks[layer].attn
    hook = attention.qkv.register_forward_hook(lambda *call: seen.update(qkv=call[2]))
    x = torch.randn(2, 3, *sizes(model)[3])
    donor(x)
    hook.remove()
    query, key, _ = seen["qkv"].chunk(3, dim=-1)
    query, key = (t.unflatten(-1, (attention.num_heads, -1)) for t in (query, key))
    scores = torch.einsum("bihd,bjhd->bhij", query, key) * attention.scale
    expected = scores.softmax(dim=-1)
    torch.testing.assert_close(model.get_attention(x, layer), expected, atol=1e-5, rtol=1e-5)


def test_intermediate_layers(pair):
    donor, model = pair
    x = torch.randn(2, 3, *sizes(model)[0])
    expected = donor.get_intermediate_layers(x, n=2, norm=True, return_prefix_tokens=True)
    for tokens, (patches, prefix) in zip(
        model.get_intermediate_layers(x, n=2), expected, strict=True
    ):
        both = torch.cat([prefix, patches], dim=1)
        torch.testing.assert_close(tokens, both, atol=1e-5, rtol=1e-5)


def test_round_trip(pair):
    _, model = pair
    exported = to_timm(model)
    assert not exported.training
    back = VisionTransformer(
        img_size=tuple(side * model.patch_size for side in model.grid_size),
        patch_size=model.patch_size,
        embed_dim=48,
        depth=3,
        num_heads=model.num_heads,
        layer_scale_init=1.0 if hasattr(model.blocks[0].ls1, "gamma") else None,
        num_register_tokens=model.num_register_tokens,
        ffn="swiglu" if hasattr(model.blocks[0].mlp, "w12") else "mlp",
    )
    load_weights(back, exported.state_dict(), source="timm").eval()
    for height, width in sizes(model):
        x = torch.randn(2, 3, height, width)
        torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(back(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"qkv_bias": False, "img_size": (16, 24), "in_chans": 1},
        {"ffn": "swiglu", "mlp_ratio": 3.3, "num_register_tokens": 1},
        {"mlp_ratio": 2.7, "layer_scale_init": 0.1, "num_register_tokens": 3},
    ],
)
def test_to_timm_of_a_model_of_ours(arguments):
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = randomise(VisionTransformer(**(shape | arguments)))
    x = torch.randn(2, arguments.get("in_chans", 3), 16, 24)
    torch.testing.assert_close(to_timm(model)(x), model(x), atol=1e-5, rtol=1e-5)


def test_registers_with_positions_of_their_own():
    """timm can also give a position to every token, registers included."""
    donor = randomise(
        timm.models.VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=3,
            reg_tokens=2,
            num_classes=5,
            global_pool="token",
        )
    )
    model = VisionTransformer(32, 8, 24, depth=2, num_heads=3, num_register_tokens=2).eval()
    load_weights(model, donor.state_dict(), source="timm")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), donor.forward_features(x)[:, 0], atol=1e-5, rtol=1e-5)


def test_a_convolutional_stem_stays_here():
    with pytest.raises(UserError, match="stem='patch'"):
        to_timm(VisionTransformer(16, 4, 24, depth=1, num_heads=3, stem="conv"))
