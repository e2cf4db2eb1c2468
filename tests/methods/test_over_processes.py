"""Two processes that share a batch do what one does alone: losses, gradients, queue, training."""

from pathlib import Path

import pytest
import torch
from tiny_training import trainer
from two_processes import call_in_two_processes

from dino_tutorial.losses import info_nce, nt_xent, sinkhorn_knopp
from dino_tutorial.methods.queue import Queue
from dino_tutorial.parallel import process_group

pytestmark = pytest.mark.slow  # whole trainings, other processes

TRAINED = ("rotation", "simclr", "moco", "supervised")  # nothing random or batch-normed in them


def share(tensor, processes, dim=0):
    """This process's part of a batch."""
    return tensor.chunk(processes.world, dim)[processes.rank]


def losses(processes):
    g = torch.Generator().manual_seed(0)
    two_views, keys, logits, negatives = (
        torch.randn(*shape, generator=g) for shape in ((2, 8, 5), (8, 5), (10, 6), (7, 5))
    )
    views = share(two_views, processes, dim=1).clone().requires_grad_()
    query = share(two_views[0], processes).clone().requires_grad_()
    key = share(keys, processes).clone().requires_grad_()
    values = {
        "nt_xent": nt_xent(views, 0.2),
        "in_batch": info_nce(query, key, temperature=0.2),
        "queue": info_nce(query, key, negatives, 0.2),
    }
    # DDP averages gradients over processes: as if each loss were divided by their number.
    torch.stack(list(values.values())).sum().div(processes.world).backward()
    result = {name: value.detach() for name, value in values.items()}
    result |= {"views": views.grad.transpose(0, 1), "query": query.grad, "key": key.grad}
    # Rows in unequal parts, as masked patches come.
    uneven = logits if processes.world == 1 else logits.split([3, 7])[processes.rank]
    result["sinkhorn"] = sinkhorn_knopp(uneven, 0.1)
    return result


def queue(processes):
    torch.manual_seed(0)
    line = Queue(6, 2)
    for start in (0.0, 100.0):
        line.add(share(torch.arange(start, start + 8).view(4, 2), processes))
        line.advance()
    return line.entries


def training(processes, folder):
    result = {}
    for method in TRAINED:
        run = trainer(method, folder / method, processes, train__epochs=3, views__jitter_p=0.0)
        run.fit()
        result[method] = (run.rows, run.method.state_dict())
    return result


def compute(folder: Path):
    with process_group("cpu") as processes:
        for name, value in (
            ("losses", losses(processes)),
            ("queue", queue(processes)),
            ("training", training(processes, folder)),
        ):
            torch.save(value, folder / f"{name}-{processes.rank}.pt")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Folders of what one process and what two have computed."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    compute(one)
    call_in_two_processes(compute, two)
    return one, two


def load(folder, name, rank=0):
    return torch.load(folder / f"{name}-{rank}.pt")


@pytest.mark.parametrize("name", ["nt_xent", "in_batch", "queue"])
def test_the_mean_of_the_losses_is_the_loss(stored, name):
    one, two = stored
    parts = [load(two, "losses", rank)[name] for rank in range(2)]
    torch.testing.assert_close(sum(parts) / 2, load(one, "losses")[name])
    assert parts[0] != parts[1]


@pytest.mark.parametrize("name", ["views", "query", "key", "sinkhorn"])
def test_the_parts_put_together_are_the_whole(stored, name):
    """Gradients too, although half of each is made in the other process."""
    one, two = stored
    parts = [load(two, "losses", rank)[name] for rank in range(2)]
    torch.testing.assert_close(torch.cat(parts), load(one, "losses")[name])


def test_every_process_has_the_whole_queue(stored):
    one, two = stored
    expected = load(one, "queue")
    assert expected[:4].flatten().tolist() == list(range(100, 108))
    for rank in range(2):
        assert torch.equal(load(two, "queue", rank), expected)


@pytest.mark.parametrize("method", TRAINED)
def test_training_is_the_same(stored, method):
    one, two = stored
    (rows, weights), *parts = (load(one, "training")[method],) + tuple(
        load(two, "training", rank)[method] for rank in range(2)
    )
    for half_rows, half_weights in parts:
        for ours, theirs in zip(rows, half_rows, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
            assert ours["ln_k"] == pytest.approx(theirs["ln_k"], rel=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(value, half_weights[name], rtol=5e-3, atol=5e-4)
