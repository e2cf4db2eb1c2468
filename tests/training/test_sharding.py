"""A model cut up over two processes trains, stops and goes on like a copy on each, and like one."""

import signal
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tiny_training import trainer
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from two_processes import call_in_two_processes

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.features import evaluating
from dino_tutorial.parallel import own_part, process_group
from dino_tutorial.training.checkpoint import PREVIOUS, load_checkpoint
from dino_tutorial.training.loop import Interrupted
from dino_tutorial.training.optim import clip_gradients
from dino_tutorial.training.sharding import gathered, shard, sharded_like

pytestmark = pytest.mark.slow  # whole trainings, other processes

LAYOUTS = {"ddp": "none", "fsdp": "fsdp"}
# Between them: every clip rule and optimizer, batch norm, queues, a teacher and none, masks, drop
# path, micro-batches, recomputed activations, last layers that wait, a convolutional encoder.
TRAINED = {
    "dinov2": {
        "train.accumulate": 2,
        "train.checkpoint_activations": True,
        "model.drop_path_rate": 0.2,
        "model.num_register_tokens": 2,
    },
    "dino": {"objective.norm_last_layer": False, "optim.clip": 0.05, "train.eval_every": 1},
    "byol": {"optim.name": "lars", "optim.clip_rule": "global", "optim.lr": 4.0},
    "moco": {},
    "swav": {"optim.name": "sgd", "optim.lr": 0.04},
    "supervised": {
        "model.arch": "resnet10",
        "model.patch_size": None,
        "model.embed_dim": None,
        "model.depth": None,
        "model.num_heads": None,
    },
}
# Nothing in it depends on how a batch is shared, so one process has to do the same.
SPLITTABLE = {"objective.centering": "sinkhorn", "objective.koleo_weight": 0.0}
# Of its rows, what is a mean over images; the rest is measured among those of a process.
ROW = ("step", "loss", "dino_loss", "ibot_loss", "grad_norm", "lr", "momentum")


def build(method, folder, processes=None, **changes):
    settings = {"train.epochs": 2, "train.checkpoint_every": 2, **changes}
    return trainer(
        method, folder, processes, **{name.replace(".", "__"): v for name, v in settings.items()}
    )


def result(run):
    """Rows and whole state at the end; on rank 0 alone."""
    return (
        run.rows,
        gathered(run.method.state_dict(), True),
        gathered(run.optimizer.state_dict(), True),
    )


def watched(run):
    """What the k-NN watch does: the encoder by itself, in the middle of training."""
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)

    @torch.no_grad()
    def measure():
        encoder = run.method.encoder
        with evaluating(encoder):
            return {"seen": encoder(images).norm().item()}

    return measure


def train_in_each_layout(processes, folder):
    results = {}
    for layout, sharding in LAYOUTS.items():
        for method, changes in TRAINED.items():
            settings = changes | {"train.sharding": sharding}
            run = build(method, folder / layout / method, processes, **settings)
            run.evaluate = watched(run)
            run.fit()
            results[layout, method] = result(run)
    return results


def stop_and_go_on(processes, folder, alone):
    """The last steps of a run that began in each layout, also of ``alone``'s, in each layout."""
    results = {}
    for begun, sharding in LAYOUTS.items():
        settings = SPLITTABLE | {"train.sharding": sharding}
        run = build("dinov2", folder / begun, processes, **settings)
        run.fit()
        results[begun] = result(run)
    for begun in ("ddp", "fsdp", "one"):
        for layout, sharding in LAYOUTS.items():
            settings = SPLITTABLE | {"train.sharding": sharding}
            run = build("dinov2", folder / f"{begun}-{layout}", processes, **settings)
            run.restore(half_way(alone if begun == "one" else folder / begun))
            run.fit()
            results[f"{begun} then {layout}"] = result(run)
    return results


def half_way(folder):
    """The checkpoint before the last, as if the run had been cut off there."""
    return torch.load(folder / PREVIOUS) | {"log_sizes": [0, 0]}


def in_fp16(processes, folder):
    """Losses, norms and the last scale of a loss that begins at a scale at which steps overflow."""
    results = {}
    for layout, sharding in LAYOUTS.items():
        settings = {"train.sharding": sharding, "train.precision": "fp16", "train.log_every": 1}
        run = build("dino", folder / layout, processes, **settings)
        run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**11})
        run.fit()
        norms = [row["grad_norm"] for row in run.rows]
        results[layout] = [row["loss"] for row in run.rows], norms, run.scaler.get_scale()
    return results


def what_lies_here(processes, folder):
    """Numbers that each rank holds, of its share and of the whole."""
    run = build("dinov2", folder / "parts", processes, **{"train.sharding": "fsdp"})
    run.fit()
    moments = [m["exp_avg"] for m in run.optimizer.state.values()]
    kinds = {
        "student": list(run.method.student.parameters()),
        "teacher": list(run.method.teacher.parameters()),
        "moments": moments,
    }
    return {
        name: (
            sum(own_part(t).numel() for t in tensors),
            sum(t.numel() for t in tensors),
            all(isinstance(t, DTensor) for t in tensors),
        )
        for name, tensors in kinds.items()
    }


def clipped(rule):
    """The norm and the gradients of three layers, one of them with fewer rows than processes."""
    g = torch.Generator().manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Linear(4, rows) for rows in (5, 1, 6)))
    gradients = [torch.randn(p.shape, generator=g) for p in module.parameters()]
    if torch.distributed.is_initialized():
        shard(module, "cpu")
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = sharded_like(gradient, parameter)
    norm = clip_gradients(list(module.parameters()), 1.0, rule)
    return norm, gathered([p.grad for p in module.parameters()], True)


def times_watched(processes, folder):
    """How often this process measured, of three times in each layout, and what its rows say."""
    results = {}
    for layout, sharding in LAYOUTS.items():
        settings = {"train.sharding": sharding, "train.eval_every": 1, "train.epochs": 1.5}
        run = build("simclr", folder / layout, processes, **settings)
        run.evaluate = Mock(return_value={"seen": 1.0})
        run.fit()
        results[layout] = run.evaluate.call_count, [row.get("seen") for row in run.rows]
    return results


class Reductions(TorchDispatchMode):
    """Counts the sums over processes by their name."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if name.startswith("c10d.") and "reduce" in name:
            self.calls[name] += 1
        return func(*args, **kwargs or {})


def reductions(processes, folder):
    """How often gradients are summed over processes in a step of three parts."""
    counts = {}
    for layout, sharding in LAYOUTS.items():
        settings = {"train.sharding": sharding, "train.epochs": 0.5, "train.batch_size": 24}
        for parts in (1, 3):
            here = folder / f"{layout}-{parts}"
            run = build("rotation", here, processes, **settings, **{"train.accumulate": parts})
            with Reductions() as counted:
                run.fit()
            counts[layout, parts] = dict(counted.calls)
    return counts


def stopped_on_one(processes, folder):
    """The step after which this process stopped, when the other one was asked to."""

    def stop():
        if processes.rank == 1:
            signal.raise_signal(signal.SIGINT)
        return {}

    run = build("dino", folder, processes, **{"train.sharding": "fsdp"})
    run.evaluate = stop
    try:
        run.fit()
    except Interrupted as interrupted:
        return interrupted.step


def train_in_all_ways(folder: Path, alone: Path):
    with process_group("cpu") as processes:
        results = {
            "layouts": train_in_each_layout(processes, folder / "layouts"),
            "resumed": stop_and_go_on(processes, folder / "resumed", alone),
            "fp16": in_fp16(processes, folder / "fp16"),
            "parts": what_lies_here(processes, folder),
            "watched": times_watched(processes, folder / "watched"),
            "reductions": reductions(processes, folder / "reductions"),
            "stopped": stopped_on_one(processes, folder / "stopped"),
            "clipped": {rule: clipped(rule) for rule in ("parameter", "global")},
        }
        torch.save(results, folder / f"results-{processes.rank}.pt")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """What one process has done alone, then the folder of two, and what they found by rank."""
    alone, folder = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    run = build("dinov2", alone, **SPLITTABLE)
    run.fit()
    written = call_in_two_processes(train_in_all_ways, folder, alone)
    assert "UserWarning" not in written
    return result(run), folder, [torch.load(folder / f"results-{r}.pt") for r in range(2)]


def assert_same(ours, theirs, names=None, **tolerance):
    """Equal rows, or what ``names`` names of them, and equal states of method and optimizer."""
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a.keys() == b.keys()
        for name in names or a:
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
    for part in (1, 2):
        torch.testing.assert_close(ours[part], theirs[part], **tolerance)


def last_steps(result):
    rows, *states = result
    return rows[2:], *states


@pytest.mark.parametrize("method", TRAINED)
def test_parts_train_as_copies_do(stored, method):
    layouts = stored[2][0]["layouts"]
    assert_same(layouts["fsdp", method], layouts["ddp", method], rtol=1e-3, atol=1e-5)


def test_all_leave_out_a_step_that_overflows_on_one(stored):
    (losses, norms, scale), fsdp = (stored[2][0]["fp16"][layout] for layout in LAYOUTS)
    assert norms[0] is None and norms[-1] is not None  # left out, and then not
    assert scale == fsdp[2] < 2.0**11
    assert [norm is None for norm in fsdp[1]] == [norm is None for norm in norms]
    assert fsdp[0] == pytest.approx(losses, rel=1e-2)
    assert [rank["fp16"]["ddp"][2] for rank in stored[2]] == [scale, scale]


def test_one_process_watches_while_the_others_wait(stored):
    first, second = (rank["watched"] for rank in stored[2])
    assert first["ddp"] == (3, [1.0] * 3) and second["ddp"] == (0, [None] * 3)
    assert first["fsdp"] == second["fsdp"] == (3, [1.0] * 3)  # each holds half of the encoder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_a_batch_are_summed_over_processes_once(stored, layout):
    for rank in stored[2]:
        counts = rank["reductions"]
        assert counts[layout, 1] and counts[layout, 3] == counts[layout, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_train_as_one_does(stored, layout):
    assert_same(stored[2][0]["resumed"][layout], stored[0], ROW, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("begun", ["one", *LAYOUTS])
def test_any_layout_goes_on_where_any_stopped(stored, begun, layout):
    found = stored[2][0]["resumed"][f"{begun} then {layout}"]
    assert_same(found, last_steps(stored[0]), ROW, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_process_goes_on_where_two_stopped(stored, layout, tmp_path):
    alone, folder, _ = stored
    run = build("dinov2", tmp_path, **SPLITTABLE)
    run.restore(half_way(folder / "resumed" / layout))
    assert run.step == 2
    run.fit()
    assert_same(result(run), last_steps(alone), ROW, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_holds_everything_in_one_piece(stored):
    folder = stored[1] / "resumed"
    ddp, fsdp = (load_checkpoint(folder / layout) for layout in LAYOUTS)
    assert not any(isinstance(tensor, DTensor) for tensor in fsdp["method"].values())
    for part in ("method", "optimizer"):
        torch.testing.assert_close(fsdp[part], ddp[part], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["student", "teacher", "moments"])
def test_each_process_keeps_about_half(stored, kind):
    (first, total, all_cut), (second, again, _) = (rank["parts"][kind] for rank in stored[2])
    assert all_cut and total == again
    assert first + second == total
    assert max(first, second) < 0.6 * total  # what has one row alone lies with the first


@pytest.mark.parametrize("rule", ["parameter", "global"])
def test_norms_are_of_whole_gradients(stored, rule):
    norm, gradients = clipped(rule)
    for rank in stored[2]:
        found, theirs = rank["clipped"][rule]
        torch.testing.assert_close(found, norm)
        torch.testing.assert_close(theirs, gradients)


def test_all_stop_together_with_a_whole_checkpoint(stored):
    assert [rank["stopped"] for rank in stored[2]] == [1, 1]
    assert load_checkpoint(stored[1] / "stopped")["step"] == 1


def test_alone_there_is_nothing_to_cut_up(tmp_path):
    with pytest.raises(UserError, match="this is one: start it by torchrun"):
        build("dino", tmp_path, **{"train.sharding": "fsdp"})
