"""Checkpoints of this package and of others: which of their encoders is loaded, and that it is."""

import pytest
import torch
from tiny_training import trainer

from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.models import VisionTransformer, load_weights

SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def make(seed=0, **overrides):
    torch.manual_seed(seed)
    return VisionTransformer(**(SHAPE | overrides)).eval()


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


GOOD, OTHER = make(0).state_dict(), make(5).state_dict()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"distill"}))
def test_a_checkpoint_of_this_package_gives_the_encoder_that_is_kept(tmp_path, method):
    run = trainer(method, tmp_path, train__epochs=1)
    run.fit()
    kept = run.method.encoder.state_dict()
    size = {"img_size": run.method.encoder.grid_size[0] * run.method.encoder.patch_size}
    patch, width = run.method.encoder.patch_size, run.method.encoder.embed_dim
    block = run.method.encoder.blocks[0]
    model = VisionTransformer(
        **size,
        patch_size=patch,
        embed_dim=width,
        depth=len(run.method.encoder.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / width,
        layer_scale_init=1.0 if "ls1.gamma" in block.state_dict() else None,
        num_register_tokens=run.method.encoder.num_register_tokens,
        stem="conv" if "patch_embed.convs.0.weight" in kept else "patch",
    )
    load_weights(model, tmp_path / "checkpoint.pt")
    loaded = model.state_dict()
    assert loaded.keys() == kept.keys()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    "state",
    [
        {k.replace("blocks.1.", "blocks.1._orig_mod."): v for k, v in GOOD.items()},
        {k.replace("blocks.", "blocks._fsdp_wrapped_module."): v for k, v in GOOD.items()},
        {k.replace(".attn.", "._checkpoint_wrapped_module.attn."): v for k, v in GOOD.items()},
        prefixed(GOOD, "_orig_mod.module."),
        prefixed(GOOD, "_fsdp_wrapped_module.module.backbone."),
        prefixed(GOOD, "teacher_backbone."),
        {"state_dict": prefixed(GOOD, "teacher_backbone.") | prefixed(OTHER, "student_backbone.")},
        prefixed(GOOD, "encoder."),
        {"model_state_dict": prefixed(GOOD, "module.encoder.")},
        GOOD | {"epoch": 3, "name": "vit", "best": 0.5},
        {"state_dict": GOOD | {"step": 7}, "optimizer": {"lr": 1e-3}},
        {"state_dict": OTHER, "state_dict_ema": GOOD},
        {"state_dict_ema": prefixed(GOOD, "module."), "state_dict": OTHER, "epoch": 1},
        {"model": OTHER, "model_ema": GOOD},
        {"state_dict": prefixed(GOOD, "momentum_backbone.") | prefixed(OTHER, "backbone.")},
        {"student": prefixed(OTHER, "backbone."), "teacher": prefixed(GOOD, "backbone.")},
        prefixed(OTHER, "student.backbone.") | prefixed(GOOD, "teacher.network.backbone."),
        {"model": prefixed(OTHER, "student.backbone.") | prefixed(GOOD, "teacher.backbone.")},
    ],
)
def test_wrappers_of_others(state):
    torch.testing.assert_close(load_weights(make(1), state)(X), make(0)(X))


def hugging_face(state, dinov2):
    """The names that transformers gives the same weights."""
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    names |= {
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
    }
    told = {}
    for name, value in state.items():
        name = names.get(name, name)
        name = name.replace("patch_embed.proj.", "embeddings.patch_embeddings.projection.")
        name = name.replace("blocks.", "encoder.layer.")
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                told[name.replace("attn.qkv", f"attention.attention.{part}")] = rows
            continue
        name = name.replace("attn.proj.", "attention.output.dense.")
        if dinov2:
            name = name.replace("ls1.gamma", "layer_scale1.lambda1")
            name = name.replace("ls2.gamma", "layer_scale2.lambda1")
        else:
            name = name.replace("norm1.", "layernorm_before.").replace("norm2.", "layernorm_after.")
            name = name.replace("mlp.fc1.", "intermediate.dense.")
            name = name.replace("mlp.fc2.", "output.dense.")
        if name.startswith("norm."):
            name = "layernorm." + name.removeprefix("norm.")
        told[name] = value
    return told


@pytest.mark.parametrize("prefix", ["", "vit.", "dinov2."])
@pytest.mark.parametrize("dinov2", [False, True])
def test_names_of_hugging_face(prefix, dinov2):
    shape = {"layer_scale_init": 0.5, "num_register_tokens": 2} if dinov2 else {}
    donor = make(0, **shape)
    state = prefixed(hugging_face(donor.state_dict(), dinov2), prefix)
    state |= {"pooler.dense.weight": torch.ones(2), "classifier.weight": torch.ones(2)}
    torch.testing.assert_close(load_weights(make(1, **shape), state)(X), donor(X))


def test_what_holds_no_weights_is_still_refused():
    for state in ({}, {"epoch": 3}, {"model": {"name": "vit"}, "optimizer": 3}):
        with pytest.raises(UserError, match="holds no state dict"):
            load_weights(make(), state)
