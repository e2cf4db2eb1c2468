"""Where the time of one DINOv2 step goes, and what each saving is worth in time.

    python -m benchmarks.step_parts

ViT-S/16, two crops of 224 pixels and eight of 96, 4,096 prototypes for each head, fp32, on one
thread. Times are processor seconds, the fastest of a few turns that take turns, so that a busy
machine changes them little. What is kept for the backward pass is not measured here: the book
counts it. The result is written to benchmarks/step_parts.json with the machine described.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dino_tutorial import configure
from dino_tutorial.models import vit_small
from dino_tutorial.models.block import Attention
from dino_tutorial.runs import build_method
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.training.optim import (
    build_optimizer,
    clip_modules,
    param_groups,
    split_by_module,
)
from dino_tutorial.views import Augment

RESULTS = Path(__file__).parent / "step_parts.json"
CHANGES = {
    "model.arch": "vit_small",
    "model.patch_size": 16,
    "model.drop_path_rate": 0.0,
    "views.global_size": 224,
    "views.local_size": 96,
    "views.local_crops": 8,
    "data.image_size": 256,
    "objective.out_dim": 4096,
    "objective.patch_out_dim": 4096,
}


class Clock:
    """Processor seconds of named parts, added up."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, part: str, call: Callable):
        start = time.process_time()
        result = call()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - start
        return result


class Step:
    """One step of DINOv2, cut into parts that can be timed."""

    def __init__(self, batch: int):
        config = configure("dinov2", preset="gpu", changes=CHANGES)
        self.batch, self.method = batch, build_method(config).train()
        self.augment = Augment(self.method.view_specs(config.views))
        groups = param_groups(self.method, 0.04)
        self.optimizer = build_optimizer("adamw", groups, lr=1e-4)
        self.modules = split_by_module(self.method)
        self.values = {"teacher_temp": 0.07, "momentum": 0.992}

    def __call__(self, turn: int) -> dict[str, float]:
        clock, method, values = Clock(), self.method, self.values
        draw = torch.Generator().manual_seed(turn)
        images = torch.randint(256, (self.batch, 3, 256, 256), generator=draw, dtype=torch.uint8)
        hidden = method.draw_masks(self.batch, draw).to("cpu")
        params = self.augment.sample(self.batch, 256, 256, draw)
        views = clock("views", lambda: self.augment.apply(images, params))
        timed = time_calls(
            clock,
            {
                (method.guide, "forward"): "teacher",
                (method.student.backbone, "forward_features"): "student, global crops",
                (method.student.backbone, "forward"): "student, local crops",
            },
        )
        before = sum(clock.seconds.values())
        loss = clock("all", lambda: method(views, values, False, hidden)["loss"])
        for module, name in timed:
            delattr(module, name)
        named = sum(clock.seconds.values()) - before - clock.seconds["all"]
        clock.seconds["heads and losses"] = clock.seconds.pop("all") - named
        clock("backward", loss.backward)
        clock("clip and update", self.update)
        clock("teacher's average", lambda: method.after_step(values))
        return clock.seconds

    def update(self) -> None:
        clip_modules(self.modules, 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def time_calls(clock: Clock, names: dict[tuple, str]) -> list[tuple]:
    """Time these methods of these objects until they are deleted from them again."""
    for (owner, name), part in names.items():
        call = getattr(owner, name)
        setattr(owner, name, partial(_timed, clock, part, call))
    return list(names)


def _timed(clock: Clock, part: str, call: Callable, *arguments, **named):
    return clock(part, partial(call, *arguments, **named))


def written_out(attention: Attention, x: Tensor) -> Tensor:
    """Attention with its (T, T) matrix in memory."""
    *_, values = attention._queries_keys_values(x)
    return attention.proj((attention.weights(x) @ values).transpose(1, 2).flatten(2))


def savings(rounds: int) -> dict[str, float]:
    """Seconds of each way over those of the plain one, forward and backward."""
    torch.manual_seed(0)
    model, crops = vit_small().train(), torch.randn(2, 3, 224, 224)
    uniform = vit_small(drop_path_rate=0.4, drop_path_uniform=True).train()
    attention = model.blocks[0].attn
    few, many = torch.randn(4, 197, 384), torch.randn(1, 785, 384)
    ways = {
        "attention written out, 224 px": (written_out, attention, few),
        "attention fused, 224 px": (attention, few),
        "attention written out, 448 px": (written_out, attention, many),
        "attention fused, 448 px": (attention, many),
        "all tokens of the last block": (lambda x: model.forward_features(x).cls, crops),
        "class token of the last block": (model, crops),
        "activations again": (recompute, model, crops),
        "samples dropped": (uniform, torch.cat([crops] * 3)),  # 3 of 6 are kept
        "none dropped": (model, torch.cat([crops] * 3)),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, (call, *inputs) in ways.items():
            start = time.process_time()
            call(*inputs).square().mean().backward()
            seconds[name] = min(seconds[name], time.process_time() - start)
    pairs = {
        "fused attention, 224 px": ("attention fused, 224 px", "attention written out, 224 px"),
        "fused attention, 448 px": ("attention fused, 448 px", "attention written out, 448 px"),
        "class token of the last block": (
            "class token of the last block",
            "all tokens of the last block",
        ),
        "activations computed again": ("activations again", "class token of the last block"),
        "half of the samples dropped": ("samples dropped", "none dropped"),
    }
    return {name: seconds[a] / seconds[b] for name, (a, b) in pairs.items()}


def recompute(model, x: Tensor) -> Tensor:
    model.checkpoint_activations = True
    features = model(x)
    model.checkpoint_activations = False
    return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="timed turns")
    parser.add_argument("--batch", type=int, default=4, help="images of the step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    step = Step(options.batch)
    turns = [step(turn) for turn in range(options.rounds)]
    fastest = min(turns, key=lambda seconds: sum(seconds.values()))
    whole = sum(fastest.values())
    results = {
        "machine": describe_environment(torch.device("cpu")),
        "step": f"DINOv2, ViT-S/16, 2 x 224 + 8 x 96, batch {options.batch}, fp32",
        "rounds": options.rounds,
        "share_of_seconds": {part: seconds / whole for part, seconds in fastest.items()},
        "ratio_seconds": savings(options.rounds),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
