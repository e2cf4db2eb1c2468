"""A named architecture is that architecture, at every preset: no earlier layer's width is left."""

import pytest
import torch

from dino_tutorial import configure
from dino_tutorial.errors import UserError
from dino_tutorial.models import ENCODERS, build_encoder
from dino_tutorial.options import flatten, parse_assignments
from dino_tutorial.runs import PRESETS, new_encoder
from dino_tutorial.runs.records import command_line

VITS = [arch for arch in ENCODERS if arch.startswith("vit")]
RESNETS = [arch for arch in ENCODERS if not arch.startswith("vit")]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", VITS)
@pytest.mark.parametrize("method", ["dino", "dinov2"])
def test_a_named_transformer_is_itself(method, arch, preset):
    config = configure(method, preset=preset, changes={"model.arch": arch})
    with torch.device("meta"):
        encoder = new_encoder(config)
        patch, size = config.model.patch_size, config.views.global_size
        named = build_encoder(arch, **({"patch_size": patch} if patch else {}), img_size=size)
    assert encoder.embed_dim == named.embed_dim and len(encoder.blocks) == len(named.blocks)
    assert encoder.blocks[0].attn.num_heads == named.blocks[0].attn.num_heads
    assert count(encoder) == count(named)
    before = configure(method, preset=preset).model  # what is no part of the name stays
    assert (config.model.patch_size, config.model.drop_path_rate) == (
        before.patch_size,
        before.drop_path_rate,
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", RESNETS)
def test_a_named_residual_network_is_itself(arch, preset):
    with torch.device("meta"):
        encoder = new_encoder(configure("dino", preset=preset, changes={"model.arch": arch}))
        assert count(encoder) == count(build_encoder(arch))


def test_what_the_same_layer_says_of_it_holds():
    changes = {"model.embed_dim": 192, "model.arch": "vit_base", "model.num_heads": 3}
    model = configure("dino", changes=changes).model
    assert (model.embed_dim, model.num_heads, model.depth, model.stem) == (192, 3, None, None)


@pytest.mark.parametrize("changes", [{}, {"model.embed_dim": 384}, {"model.stem": "conv"}])
@pytest.mark.parametrize("arch", ["vit_tiny", "vit_small", "resnet10"])
def test_the_command_of_a_run_gives_its_architecture(arch, changes):
    if arch == "resnet10" and changes:
        changes = {"model.small_images": True}
    config = configure("dinov2", changes={"model.arch": arch, **changes})
    words = command_line(config).split()
    told = [word for flag, word in zip(words, words[1:], strict=False) if flag == "--set"]
    told = [word.strip("'") for word in told]
    assert flatten(configure("dinov2", changes=parse_assignments(told))) == flatten(config)


def test_an_unknown_architecture_is_one_sentence():
    with pytest.raises(UserError, match="did you mean 'vit_small'"):
        configure("dino", changes={"model.arch": "vit_smal"})
