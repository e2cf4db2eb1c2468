"""The record of a training in steps: components that do not jump, prototypes by kind."""

import runpy
from pathlib import Path

import numpy as np
import torch

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "record_training.py"))


def test_components_of_equal_features_have_equal_colours_whatever_their_basis():
    torch.manual_seed(0)
    spread = torch.tensor([3.0, 2.0, 1.5, 0.1, 0.1, 0.1])
    patches = torch.randn(TOOL["SHOWN"], TOOL["GRID"][0] * TOOL["GRID"][1], 6) * spread
    basis, _ = torch.linalg.qr(torch.randn(6, 6))
    turned, last = TOOL["components"]([patches @ basis, patches])
    assert turned.shape == (TOOL["SHOWN"], *TOOL["GRID"], 3)
    torch.testing.assert_close(turned, last, rtol=0, atol=1e-3)
    assert last.min() == 0 and last.max() == 1


def test_a_prototype_belongs_to_the_kind_that_has_most_of_it_on_training_scenes():
    kinds, per_kind = 10, TOOL["PER_KIND"]
    train = torch.full((kinds, 200), 0.001)
    for kind in range(kinds):  # each kind has eight of its own, the first the strongest
        train[kind, 100 + 8 * kind : 108 + 8 * kind] = torch.linspace(0.2, 0.1, 8)
    test = torch.arange(200.0).expand(kinds, -1) / 1000  # a prototype's own number
    shown = TOOL["chosen"]([{"train": train, "test": test}])
    assert shown.shape == (1, kinds, kinds * per_kind)
    expected = [(100 + 8 * kind + i) / 1000 for kind in range(kinds) for i in range(per_kind)]
    assert np.allclose(shown[0, 0], expected, atol=1e-3)


def test_an_equal_share_of_attention_is_sixteen():
    tokens = 1 + TOOL["GRID"][0] * TOOL["GRID"][1]
    attention = torch.full((2, 3, tokens, tokens), 1 / tokens)
    looks = TOOL["looks"](lambda pixels, block: attention, torch.zeros(2, 3, 96, 96))
    assert looks.shape == (2, 2, *TOOL["GRID"]) and torch.allclose(looks, torch.tensor(16.0))
