"""Checkpoints in the formats of the DINO and DINOv2 repositories.

Each is written from a timm model of the same weights, by the names and the position embedding that
the format prescribes, so the outputs to reach are timm's own. At another image size the reference
is a timm model of that size that holds the position embeddings as the repository interpolates them.
"""

import math

import pytest
import timm
import torch
from torch.nn.functional import interpolate

from dino_tutorial.models import VisionTransformer, load_weights

SHAPE = {"img_size": 56, "embed_dim": 48, "num_heads": 3, "depth": 4}


def donor_of(name, **overrides):
    torch.manual_seed(7)
    donor = timm.create_model(name, pretrained=False, **(SHAPE | overrides)).eval()
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + (parameter.std() == 0))
    return donor


def reference_positions(positions, height, width, **how):
    """(1, 1 + N, D) to another grid, in the manner that both repositories share."""
    side = math.isqrt(positions.shape[1] - 1)
    if "offset" in how:
        scale = ((height + how["offset"]) / side, (width + how["offset"]) / side)
        how = {"scale_factor": scale}
    else:
        how = {"size": (height, width), "antialias": True}
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, mode="bicubic", **how).permute(0, 2, 3, 1)
    assert grid.shape[1:3] == (height, width)
    return torch.cat([positions[:, :1], grid.reshape(1, height * width, -1)], dim=1)


def dino_state(donor):
    """The names of DINO are those of timm."""
    return dict(donor.state_dict())


def dinov2_state(donor, chunks=1):
    """The names of DINOv2: blocks in chunks, gated layers w12 and w3, registers, a mask token."""
    state = {"mask_token": torch.full((1, 48), 0.25)}
    for name, value in donor.state_dict().items():
        name = name.replace("reg_token", "register_tokens")
        if isinstance(donor.blocks[0].mlp, timm.layers.GluMlp):
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        part = name.split(".")
        if part[0] == "blocks" and chunks > 1:
            chunk = int(part[1]) * chunks // len(donor.blocks)
            name = ".".join(["blocks", str(chunk), *part[1:]])
        state[name] = value
    if "register_tokens" in state:  # timm has merged the class token with its position
        place = torch.randn(1, 1, 48)
        state["cls_token"] = state["cls_token"] - place
        state["pos_embed"] = torch.cat([place, state["pos_embed"]], dim=1)
    return state


def ours(**overrides):
    return VisionTransformer(**({**SHAPE, "patch_size": 14} | overrides)).eval()


def check(model, state, name, offset, overrides=None):
    """The model gives timm's outputs, at its own size and at three others."""
    donor = donor_of(name, **(overrides or {}))
    for height, width in [(4, 4), (3, 3), (7, 7), (4, 6)]:
        other = timm.create_model(
            name, **(SHAPE | (overrides or {}) | {"img_size": (height * 14, width * 14)})
        ).eval()
        weights = dict(donor.state_dict())
        how = {"offset": 0.1} if offset else {}
        positions = state["pos_embed"]
        if (height, width) != (4, 4):
            positions = reference_positions(positions, height, width, **how)
        weights["pos_embed"] = positions[:, 1:] if "reg_token" in weights else positions
        other.load_state_dict(weights)
        x = torch.randn(2, 3, height * 14, width * 14)
        torch.testing.assert_close(model(x), other(x), atol=1e-5, rtol=1e-5)


def wrapped(state, how):
    """What training code makes of a state dict."""
    return {
        "bare": lambda: state,
        "teacher.backbone": lambda: {
            "student": {f"module.backbone.{k}": torch.zeros_like(v) for k, v in state.items()},
            "teacher": {
                **{f"backbone.{k}": v for k, v in state.items()},
                "head.mlp.0.weight": torch.zeros(2, 2),
            },
            "epoch": 3,
        },
        "module": lambda: {f"module.{k}": v for k, v in state.items()},
        "flat": lambda: {
            f"{role}.backbone.{k}": v if role == "teacher" else torch.zeros_like(v)
            for role in ("student", "teacher")
            for k, v in state.items()
        },
    }[how]()


@pytest.mark.parametrize("how", ["bare", "teacher.backbone", "module", "flat"])
def test_dino(how):
    name, overrides = "vit_small_patch16_224.dino", {"patch_size": 14}
    state = dino_state(donor_of(name, **overrides))
    model = load_weights(ours(), wrapped(state, how), source="dino")
    check(model, state, name, offset=True, overrides=overrides)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_dinov2(chunks):
    name = "vit_small_patch14_dinov2.lvd142m"
    donor = donor_of(name)
    state = dinov2_state(donor, chunks)
    model = load_weights(ours(layer_scale_init=1.0), state, source="dinov2")
    check(model, state, name, offset=True)
    torch.testing.assert_close(model.mask_token, torch.full((1, 48), 0.25))


def test_dinov2_with_registers():
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    state = dinov2_state(donor_of(name))
    model = load_weights(ours(layer_scale_init=1.0, num_register_tokens=4), state, source="dinov2")
    check(model, state, name, offset=False)


def test_dinov2_giant():
    name = "vit_giant_patch14_dinov2.lvd142m"
    state = dinov2_state(donor_of(name), chunks=2)
    model = load_weights(ours(layer_scale_init=1.0, ffn="swiglu"), state, source="dinov2")
    check(model, state, name, offset=True)


def test_the_manner_of_interpolation_is_visible():
    """Otherwise the tests above could not tell one from the other."""
    positions = torch.randn(1, 17, 48)
    with_offset = reference_positions(positions, 3, 3, offset=0.1)
    without = reference_positions(positions, 3, 3)
    assert (with_offset - without).abs().max() > 0.05
