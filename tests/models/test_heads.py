"""Heads against the framework's own weight normalisation and batch norm."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from dino_tutorial.models import BYOLHead, DINOHead


def make(**overrides):
    torch.manual_seed(0)
    arguments = {"hidden_dim": 32, "bottleneck_dim": 8} | overrides
    return DINOHead(12, 20, **arguments)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_prototypes_are_a_weight_normed_layer(norm_last_layer):
    head, x = make(norm_last_layer=norm_last_layer), torch.randn(6, 12)
    last = weight_norm(nn.Linear(8, 20, bias=False), dim=0)
    with torch.no_grad():
        last.parametrizations.weight.original1.copy_(head.last_layer.weight)
        last.parametrizations.weight.original0.fill_(1.0)
        if not norm_last_layer:
            scale = torch.rand(20, 1) + 0.5
            last.parametrizations.weight.original0.copy_(scale)
            head.last_layer.scale.copy_(scale)
    hidden = F.gelu(head.mlp[0](x))
    hidden = F.gelu(head.mlp[2](hidden))
    bottleneck = head.mlp[4](hidden)
    expected = last(bottleneck / bottleneck.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(head(x), expected)

    head(x).pow(3).sum().backward()
    got = head.last_layer.weight.grad.clone()
    expected.pow(3).sum().backward()
    torch.testing.assert_close(got, last.parametrizations.weight.original1.grad)
    if not norm_last_layer:
        torch.testing.assert_close(
            head.last_layer.scale.grad, last.parametrizations.weight.original0.grad
        )


def test_logits_are_cosines():
    head = make()
    with torch.no_grad():
        head.last_layer.weight.mul_(torch.rand(20, 1) * 10 + 0.1)  # lengths do not matter
    logits = head(100 * torch.randn(50, 12))
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.last_layer.weight[3] = F.normalize(head.mlp(torch.ones(1, 12)), dim=-1)[0] * 7
    assert head(torch.ones(1, 12))[0, 3].item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_layers_of_the_mlp(n_layers):
    linear = [m for m in make(n_layers=n_layers).mlp if isinstance(m, nn.Linear)]
    assert len(linear) == n_layers
    assert linear[-1].out_features == 8
    assert isinstance(make(n_layers=n_layers).mlp[-1], nn.Linear)


def test_the_default_head_is_the_one_of_the_paper():
    torch.manual_seed(0)
    head = DINOHead(384, 4096)
    widths = [(m.in_features, m.out_features) for m in head.mlp if isinstance(m, nn.Linear)]
    assert widths == [(384, 2048), (2048, 2048), (2048, 256)]
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert head.mlp[2].bias.abs().max() == 0
    assert list(dict(head.last_layer.named_parameters())) == ["weight"]


def test_byol_head_normalises_over_the_batch():
    torch.manual_seed(0)
    head, x = BYOLHead(6, hidden_dim=16, out_dim=4), torch.randn(10, 6)
    hidden = x @ head[0].weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    expected = hidden.clamp(min=0) @ head[3].weight.T + head[3].bias
    torch.testing.assert_close(head(x), expected, atol=1e-5, rtol=1e-4)
    assert BYOLHead(6)(x).shape == (10, 256)


def test_batch_norm_follows_each_hidden_layer_and_not_the_bottleneck():
    head = DINOHead(8, 16, hidden_dim=12, bottleneck_dim=4, batch_norm=True)
    kinds = [type(layer).__name__ for layer in head.mlp]
    assert kinds == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]
    assert [layer.num_features for layer in head.mlp if hasattr(layer, "num_features")] == [12, 12]
