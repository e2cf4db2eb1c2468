"""Activations computed again in the backward pass: the same numbers, less kept."""

import pytest
import torch
from tiny_training import trainer

from dino_tutorial.errors import UserError
from dino_tutorial.models import VisionTransformer


def model(**changes):
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, 3, 3, **changes).train()


def result(network, checkpointing, features):
    """Outputs, gradients, and how many numbers autograd kept for the backward pass."""
    network.checkpoint_activations = checkpointing
    network.zero_grad()
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = torch.arange(16).expand(6, 16) % 3 == 0
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(2)  # drop path
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = (
            network.forward_features(x, masks) if features else (network([x, x[..., :16, :16]]),)
        )
    sum(part.sin().sum() for part in found).backward()
    return found, [p.grad for p in network.parameters() if p.requires_grad], sum(kept.values())


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_gradients_are_equal_drop_path_included(features, uniform):
    network = model(drop_path_rate=0.4, drop_path_uniform=uniform)
    plain, gradients, kept = result(network, False, features)
    again, ours, kept_again = result(network, True, features)
    for a, b in zip((*plain, *gradients), (*again, *ours), strict=True):
        assert torch.equal(a, b)
    assert kept_again < 0.5 * kept


def test_a_run_with_it_is_the_run_without(tmp_path):
    rows = []
    for checkpointing in (False, True):
        run = trainer(
            "dinov2",
            tmp_path / str(checkpointing),
            train__epochs=1,
            train__checkpoint_activations=checkpointing,
            model__drop_path_rate=0.2,
        )
        assert run.method.student.backbone.checkpoint_activations == checkpointing
        assert not run.method.teacher.network.backbone.checkpoint_activations
        run.fit()
        rows.append(run.rows)
    assert rows[0] == rows[1]


def test_other_encoders_are_refused(tmp_path):
    sentence = "checkpoint_activations is for vision transformers"
    with pytest.raises(UserError, match=sentence):
        trainer(
            "simclr",
            tmp_path,
            train__checkpoint_activations=True,
            model__arch="resnet10",
            model__patch_size=None,
            model__embed_dim=None,
            model__depth=None,
            model__num_heads=None,
        )
