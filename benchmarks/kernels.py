"""How many kernels a GPU has to be sent for a step of DINO at `paper`, counted without one.

    python -m benchmarks.kernels        # a minute of processor time

A step of 64 images in bf16 is run on tensors without values, and its operators are counted that
compute something: once as they are, once as `train.compile=true` has them. Compiled networks are
taken as far as inductor decides what becomes one kernel, and no code is made of them. Counted are
views, forward and backward pass; clipping, the optimizer's step and the teacher's average launch a
few kernels over lists of tensors. What differs on a GPU: Triton may join a little more or less than
the decisions for the CPU, which are the ones counted. Written to benchmarks/kernels.json.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dino_tutorial import configure
from dino_tutorial.losses import fused
from dino_tutorial.methods import Method
from dino_tutorial.runs import build_method
from dino_tutorial.runs.config import Config
from dino_tutorial.runs.cost import _views, _without_values
from dino_tutorial.views import Augment, augment

RESULTS = Path(__file__).parent / "kernels.json"
BEFORE = 3900  # of the same step on a simulated device, before compiled views and losses
IMAGES = 64  # of a GPU at `paper`
ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach")


class Kernels(TorchDispatchMode):
    """Counts operators that compute; views and empty tensors need no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(made)) and computes(func):
            self.count += 1
        return made


@cache
def computes(func: Any) -> bool:
    name = func._schema.name.removeprefix("aten::")
    aliases = [value.alias_info for value in func._schema.returns if value.alias_info is not None]
    is_view = any(not alias.is_write for alias in aliases) or name == "_unsafe_view"
    return not is_view and name not in ALLOCATE


class Decided(Exception):
    """Inductor knows its kernels; their code is not wanted."""


@contextmanager
def counting_compiler() -> Iterator[tuple[Callable[..., Any], list[int]]]:
    """A backend of torch.compile, and the kernels of each graph that it is given.

    It runs the graphs uncompiled.
    """
    counts: list[int] = []

    def decide(graph: GraphLowering) -> Any:
        graph.init_wrapper_code()
        graph._update_scheduler()
        nodes = graph.scheduler.nodes
        counts.append(sum(not isinstance(node, NopKernelSchedulerNode) for node in nodes))
        raise Decided

    def inner(module: torch.fx.GraphModule, inputs: Any, **others: Any) -> Any:
        try:
            compile_fx_inner(module, inputs, **others)
        except Exception as error:  # inductor wraps what its parts raise
            if Decided.__name__ not in repr(error):
                raise
        return module.forward

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        return compile_fx(module, inputs, inner_compile=inner)

    torch._dynamo.reset()
    with (
        mock.patch.object(GraphLowering, "compile_to_module", decide),
        inductor.patch(force_disable_caches=True),
    ):
        yield backend, counts
    torch._dynamo.reset()


def of_networks_and_loss(config: Config) -> int:
    """Kernels of a forward and backward pass as it is."""
    with FakeStep(config) as run, run.fake, Kernels() as kernels:
        run()
    return kernels.count


def of_compiled_networks(config: Config) -> int:
    """The same with compiled networks; what is around them is counted as it is."""
    with FakeStep(config) as run, counting_compiler() as (backend, counts):
        for network in run.method.networks:
            network.compile(backend=backend)
        run()
    return sum(counts) + of_the_loss(config)


def of_the_loss(config: Config) -> int:
    """Kernels of targets and loss, forward and backward."""
    views = 2 + config.views.local_crops
    with FakeStep(config) as run, run.fake, Kernels() as kernels:
        student = torch.empty(views, IMAGES, config.objective.out_dim, requires_grad=True)
        teacher = torch.empty(2, IMAGES, config.objective.out_dim)
        kernels.count = 0
        targets = run.method.loss.probabilities(teacher, 0.04)
        loss = fused.fused_dino_loss(student, targets, config.objective.student_temp)
        run.method.loss.note(teacher)
        loss.backward()
    return kernels.count


class FakeStep:
    """Forward and backward of a method whose tensors have no values, losses as a GPU has them."""

    def __init__(self, config: Config) -> None:
        self.method: Method = build_method(config).train()
        self.specs = self.method.view_specs(config.views)
        tables = self.method.schedules(1, 1)
        self.values = {name: float(table[0]) for name, table in tables.items()}
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        _without_values(self.method, self.fake)
        as_on_a_gpu = lambda logits: max(2, fused.PART // logits[0].numel())  # noqa: E731
        self.patch = mock.patch.object(fused, "_views_together", as_on_a_gpu)

    def __enter__(self) -> "FakeStep":
        self.patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.stop()

    def __call__(self) -> None:
        with self.fake:
            views = _views(self.specs, IMAGES)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.method(views, self.values, False)["loss"]
        loss.backward()


def of_views(config: Config, jitter: Callable[..., Any] | None = None) -> int:
    """Kernels of the views of a batch, those of the jitter only if it is not given.

    The images are small, so that this takes seconds: the number of kernels depends on the number
    of samples alone, which a GPU works on all at once. What the host works out about them, some
    seventy operators, is counted too.
    """
    specs = build_specs(config)
    made = Augment(specs)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 64, 64), generator=draw, dtype=torch.uint8)
    params = made.sample(IMAGES, 64, 64, draw)
    made._jitter = jitter or made._jitter
    with mock.patch.object(augment, "chunk_numbers", lambda _: 2**40), Kernels() as kernels:
        made.apply(images, params)
    return kernels.count


def build_specs(config: Config) -> Any:
    small = config.changed({"views.global_size": 32, "views.local_size": 16})
    return build_method(small).view_specs(small.views)


def of_compiled_views(config: Config) -> int:
    """The same with a compiled jitter, which each size of views is given at four places of hue."""
    with counting_compiler() as (backend, counts):
        jitter = torch.compile(augment.color_jitter_, dynamic=True, backend=backend)
        for place in range(4):
            order = torch.tensor([0, 1, 2])
            order = torch.cat([order[:place], torch.tensor([3]), order[place:]]).expand(2, 4)
            with torch.no_grad():
                jitter(torch.rand(2, 3, 8, 8), torch.rand(2, 4), order, place)
    sizes = len(Augment(build_specs(config)).groups)
    return of_views(config, lambda images, *_: images) + sizes * sum(counts)


def main() -> None:
    config = configure("dino", preset="paper")
    results: dict[str, Any] = {
        "step": f"DINO at paper, {IMAGES} images, bf16: views, forward, backward",
        "torch": torch.__version__,
        "before": BEFORE,
        "eager": {"views": of_views(config), "passes": of_networks_and_loss(config)},
        "compiled": {"views": of_compiled_views(config), "passes": of_compiled_networks(config)},
    }
    for kind in ("eager", "compiled"):
        total = sum(results[kind].values())
        results[kind] |= {"total": total, "below_before": round(1 - total / BEFORE, 3)}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
