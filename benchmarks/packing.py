"""All crops in one forward pass, or one pass for each resolution: time and memory.

    python benchmarks/packing.py

A ViT-S/16 takes the crops of DINO's recipe, 2 x 224 and 8 x 96 pixels, forward and backward, in
fp32. All contenders run the same weights through the same blocks; they differ in how crops of two
lengths meet in one batch. Contenders take turns and the best of each counts; the clock is the
processor time of this process, on one thread. Peak memory is that of a child process for each, what
it held before the pass taken off. The results are written into benchmarks/results.json.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.models import VisionTransformer, vit_small
from dino_tutorial.models.block import Attention, Block
from dino_tutorial.runs.environment import describe_environment

HERE = Path(__file__).parent
GLOBAL, LOCAL, N_LOCAL = 224, 96, 8


def separate(model: VisionTransformer, views: list[Tensor]) -> Tensor:
    """One pass for each crop: (V · B, D)."""
    return torch.cat([model(crop) for group in views for crop in group])


def per_resolution(model: VisionTransformer, views: list[Tensor]) -> Tensor:
    """One pass for each size, as the package does it."""
    return model([group.flatten(0, 1) for group in views])


def packed_split(model: VisionTransformer, views: list[Tensor]) -> Tensor:
    """One sequence of all tokens; attention, and nothing else, apart for each size."""
    groups = [model.prepare_tokens(group.flatten(0, 1)) for group in views]

    def attend(attn: Attention, x: Tensor) -> Tensor:
        qkv = attn.qkv(x)
        outputs = []
        for part, group in zip(qkv.split([g[..., 0].numel() for g in groups]), groups, strict=True):
            q, k, v = _heads(part.view(*group.shape[:2], -1), attn)
            outputs.append(_tokens(F.scaled_dot_product_attention(q, k, v)).flatten(0, 1))
        return attn.proj(torch.cat(outputs))

    x = torch.cat([group.flatten(0, 1) for group in groups])  # (all tokens, D)
    for block in model.blocks[:-1]:
        x = _block(block, x, attend)
    parts = x.split([g[..., 0].numel() for g in groups])
    last = [
        model.blocks[-1](p.view_as(g), cls_only=True)[:, 0]
        for p, g in zip(parts, groups, strict=True)
    ]
    return model.norm(torch.cat(last))


def packed_nested(model: VisionTransformer, views: list[Tensor]) -> Tensor:
    """One sequence of all tokens; attention on a nested (jagged) tensor of crops."""
    groups = [model.prepare_tokens(group.flatten(0, 1)) for group in views]
    lengths = torch.tensor([g.shape[1] for g in groups for _ in g])
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    longest, shortest = int(lengths.max()), int(lengths.min())

    def attend(attn: Attention, x: Tensor) -> Tensor:
        qkv = attn.qkv(x).view(len(x), 3, attn.num_heads, -1).unbind(1)
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                part.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
            ).transpose(1, 2)
            for part in qkv
        )
        output = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return attn.proj(output.values().flatten(1))

    x = torch.cat([group.flatten(0, 1) for group in groups])
    for block in model.blocks:
        x = _block(block, x, attend)
    return model.norm(x[offsets[:-1]])


def packed_mask(model: VisionTransformer, views: list[Tensor]) -> Tensor:
    """One sequence for each image, of all its crops; a block-diagonal mask keeps them apart."""
    batch = views[0].shape[1]
    parts, lengths = [], []
    for group in views:
        tokens = model.prepare_tokens(group.flatten(0, 1)).unflatten(0, (-1, batch))  # (V, B, T, D)
        parts += tokens.unbind(0)
        lengths += [tokens.shape[2]] * len(group)
    crop = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = crop[:, None] == crop

    def attend(attn: Attention, x: Tensor) -> Tensor:
        q, k, v = _heads(attn.qkv(x), attn)
        return attn.proj(_tokens(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))

    x = torch.cat(parts, dim=1)  # (B, all tokens of an image, D)
    for block in model.blocks:
        x = _block(block, x, attend)
    first = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))[:-1]
    return model.norm(x[:, first].transpose(0, 1).flatten(0, 1))


CONTENDERS: dict[str, Callable[[VisionTransformer, list[Tensor]], Tensor]] = {
    "per_resolution": per_resolution,
    "separate": separate,
    "packed_split": packed_split,
    "packed_nested": packed_nested,
    "packed_mask": packed_mask,
}


def _block(block: Block, x: Tensor, attend: Callable[[Attention, Tensor], Tensor]) -> Tensor:
    x = x + block.ls1(attend(block.attn, block.norm1(x)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def _heads(qkv: Tensor, attn: Attention) -> tuple[Tensor, ...]:
    """(B, T, 3 · D) to three tensors (B, heads, T, D / heads)."""
    return qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _tokens(heads: Tensor) -> Tensor:
    """(B, heads, T, d) to (B, T, heads · d)."""
    return heads.transpose(1, 2).flatten(2)


def crops(batch: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, batch, 3, GLOBAL, GLOBAL, generator=g),
        torch.randn(N_LOCAL, batch, 3, LOCAL, LOCAL, generator=g),
    ]


def step(name: str, model: VisionTransformer, views: list[Tensor]) -> None:
    CONTENDERS[name](model, views).square().mean().backward()


def compare(rounds: int, batch: int) -> dict:
    """Seconds and MiB of each contender, and their ratios to one pass for each resolution."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, views = vit_small(), crops(batch)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    mebibytes = {name: peak_memory(name, model, views) for name in CONTENDERS}
    seconds = dict.fromkeys(CONTENDERS, float("inf"))
    for turn in range(rounds):
        for name in CONTENDERS:
            start = time.process_time()
            step(name, model, views)
            seconds[name] = min(seconds[name], time.process_time() - start)
        print(f"turn {turn}: {seconds}", flush=True)
    return {
        "crops": f"2 x {GLOBAL} + {N_LOCAL} x {LOCAL}, ViT-S/16, batch {batch}, fp32",
        "rounds": rounds,
        "seconds": seconds,
        "ratio_seconds": _ratios(seconds),
        "mib": mebibytes,
        "ratio_mib": _ratios(mebibytes),
    }


def peak_memory(name: str, model: VisionTransformer, views: list[Tensor]) -> float:
    """MiB that one step takes at its peak, beyond weights, gradients and crops.

    In a forked child, whose peak begins at what it has, and who leaves nothing behind.
    """
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        before = _resident("VmRSS")
        step(name, model, views)
        os.write(writable, str(_resident("VmHWM") - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writable)
    with open(readable) as pipe:
        return float(pipe.read())


def _ratios(values: dict[str, float]) -> dict[str, float]:
    """To the pass for each resolution: below 1, the other one is better."""
    return {n: v / values["per_resolution"] for n, v in values.items() if n != "per_resolution"}


def _resident(entry: str) -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if entry in line) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each contender")
    parser.add_argument("--batch", type=int, default=2, help="images")
    options = parser.parse_args()
    path = HERE / "results.json"
    machine = {"machine": describe_environment(torch.device("cpu"))}
    found = machine | compare(options.rounds, options.batch)
    results = json.loads(path.read_text())
    results.setdefault("multi_crop_forward", {})[f"batch_{options.batch}"] = found
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
