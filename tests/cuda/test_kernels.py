"""Few and large kernels: what a GPU is sent for a step, counted without one."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from simulated_device import simulated_cuda
from test_steps import begun

from benchmarks import kernels
from dino_tutorial import configure
from dino_tutorial.losses import dino_loss
from dino_tutorial.losses.fused import fused_dino_loss
from dino_tutorial.views.color import color_jitter_

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("views", [2, 3, 10])
def test_a_gpu_compares_all_views_at_once(views):
    g = torch.Generator().manual_seed(0)
    student = torch.randn(views, 3, 40, generator=g, requires_grad=True)
    targets = torch.randn(2, 3, 40, generator=g).softmax(dim=-1)
    expected = dino_loss(student, targets, 0.1)
    expected.backward()
    with simulated_cuda() as ledger:
        there = student.detach().to(CUDA).requires_grad_()
        goals = targets.to(CUDA)
        ledger.take()
        value = fused_dino_loss(there, goals, 0.1)
        value.backward()
        used = ledger.take()
    assert not used.waits and sum(used.kernels.values()) <= 45  # ten views one by one: 115
    torch.testing.assert_close(value.held, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(there.grad.held, student.grad, rtol=1e-4, atol=1e-6)


def test_compiled_training_compiles_its_jitter(tmp_path):
    compiled = []
    with (
        mock.patch.object(torch, "compile", lambda *asked, **how: compiled.append((asked, how))),
        mock.patch.object(torch.nn.Module, "compile", lambda module: None),
    ):
        begun("dino", tmp_path, train__compile=True)
    assert compiled == [((color_jitter_,), {"dynamic": True})]


# In a process of its own, where no function is wrapped to check shapes; the compiler sees those.
COUNT_GRAPHS = """
import torch
from functools import partial
from dino_tutorial.views import Augment, dino_views

def counted(graph, inputs):
    graphs.append(graph)
    return graph.forward

graphs, draw = [], torch.Generator().manual_seed(0)
torch.compile = partial(torch.compile, backend=counted)
augment = Augment(dino_views(16, 8, 2))
augment.compile()
images = torch.rand(3, 3, 16, 16)
for _ in range(25):
    augment.apply(images, augment.sample(3, 16, 16, draw))
print(len(graphs))
"""


@pytest.mark.slow
def test_a_jitter_is_compiled_once_for_each_place_of_hue():
    """However many samples have it there; of a small batch it is sometimes one alone."""
    asked = [sys.executable, "-c", COUNT_GRAPHS]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "4" and "recompile_limit" not in done.stderr


@pytest.mark.slow
def test_a_compiled_jitter_is_the_jitter(unchecked):
    """For any number of samples of any size; graphs are run by PyTorch's own kernels."""
    jitter = torch.compile(color_jitter_, dynamic=True, fullgraph=True, backend="aot_eager")
    g = torch.Generator().manual_seed(0)
    order = torch.tensor([0, 3, 2, 1])
    for n, size in ((5, 16), (3, 24)):
        images, factors = torch.rand(n, 3, size, size, generator=g), torch.rand(n, 4, generator=g)
        expected = color_jitter_(images.clone(), factors, order.expand(n, 4), 1)
        found = jitter(images.clone(), factors, order.expand(n, 4), 1)
        torch.testing.assert_close(found, expected)


@cache
def of_compiled_networks(blocks):
    changes = {"model.depth": blocks}
    return kernels.of_compiled_networks(configure("dino", preset="paper", changes=changes))


@pytest.mark.slow
def test_compiled_networks_need_half_of_the_kernels(unchecked):
    """Of one block instead of twelve, each of which adds as many to both numbers."""
    config = configure("dino", preset="paper", changes={"model.depth": 1})
    assert of_compiled_networks(1) <= 0.75 * kernels.of_networks_and_loss(config)


@pytest.mark.slow
def test_the_paper_preset_is_sent_few_enough_kernels(unchecked):
    """Compiled, at least 30 % below the 3,900 of the step before views and losses were compiled.

    Each of its twelve blocks adds what the second one does.
    """
    one, two = of_compiled_networks(1), of_compiled_networks(2)
    views = kernels.of_compiled_views(configure("dino", preset="paper"))
    assert one < two and views > 0
    assert views + one + 11 * (two - one) <= 0.7 * kernels.BEFORE
