"""However crops of two sizes meet in one pass, class tokens and gradients are the same."""

import sys
from pathlib import Path

import pytest
import torch

from dino_tutorial.models import VisionTransformer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import packing


def model(**changes):
    torch.manual_seed(0)
    small = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    return VisionTransformer(32, **small | changes)


def views():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(2, 4, 3, 32, 32, generator=g), torch.randn(5, 4, 3, 16, 16, generator=g)]


def outputs_and_gradients(name, network):
    network.zero_grad()
    outputs = packing.CONTENDERS[name](network, views())
    outputs.sin().sum().backward()
    return outputs, {n: p.grad.clone() for n, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", sorted(packing.CONTENDERS.keys() - {"separate"}))
@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2, "layer_scale_init": 0.3}])
def test_one_pass_equals_a_pass_for_each_crop(name, changes):
    network = model(**changes)
    expected, gradients = outputs_and_gradients("separate", network)
    assert expected.shape == (7 * 4, 24)
    found, ours = outputs_and_gradients(name, network)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(ours[parameter], gradient, atol=1e-4, rtol=1e-4)
