"""Efficient training: crops packed into one sequence, what lies on a process, norms of parts."""

import math

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    draw,
    randn,
)


def _packed_mask(
    lengths: list[int],
    *,
    inverted: bool = False,
    causal: bool = False,
    shared_class_token: bool = False,
    floats: bool = False,
) -> Tensor:
    crop = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = crop[:, None] == crop
    if causal:
        mask = mask.tril()
    if shared_class_token:
        first = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        mask[:, first] = True
    mask = ~mask if inverted else mask
    return mask.float() if floats else mask


def _observe_mask(answer: Answer) -> Observation:
    seen = {}
    for lengths in ([3, 3, 2], [1, 4], [2, 1 + draw() % 4, 2]):
        mask = answer.tensor(lengths)
        if mask.dtype != torch.bool:
            raise Mistaken("not-boolean")
        seen[f"the mask for lengths {lengths}"] = mask
    return seen


PACKED_MASK = Exercise(
    name="packed_mask",
    chapter="efficient-training",
    call="packed_mask(lengths)",
    task="`lengths`, a list of the numbers of tokens of the crops in one sequence, to a boolean "
    "(T, T), T their sum: true where a token (row) may look at another (column), which are "
    "those of its own crop.",
    solution=_packed_mask,
    variant=_packed_mask,
    observe=_observe_mask,
    checked="the masks of three crops and of two",
    mistakes=(
        Mistake(
            "inverted",
            "the mask is true where a token must not look; true means that it may",
            {"inverted": True},
        ),
        Mistake(
            "causal",
            "tokens see only those before them; in an image they see all of their crop",
            {"causal": True},
        ),
        Mistake(
            "shared-class-token",
            "class tokens of other crops are visible; every token sees its own crop alone",
            {"shared_class_token": True},
        ),
        Mistake(
            "not-boolean",
            "the mask holds numbers, which attention would add to the scores; make it boolean",
            {"floats": True},
        ),
    ),
)


def _state_bytes(
    parameters: int,
    processes: int,
    sharding: str,
    *,
    moments: int = 2,
    width: int = 4,
    teacher: bool = True,
    always_cut: bool = False,
    exchanged: bool = False,
    cut: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[float, ...]:
    sizes = (parameters, parameters * teacher, parameters, moments * parameters)
    is_cut = (sharding == "fsdp") != exchanged or always_cut
    return tuple(
        width * size / (processes if is_cut and this else 1)
        for size, this in zip(sizes, cut, strict=True)
    )


def _observe_bytes(answer: Answer) -> Observation:
    return {
        f"the four numbers for {processes} processes and {sharding}": answer.tensor(
            840_000 + draw() * 84, processes, sharding
        ).double()
        for processes in (2, 7)
        for sharding in ("none", "fsdp")
    }


STATE_BYTES = Exercise(
    name="state_bytes",
    chapter="efficient-training",
    call="state_bytes(parameters, processes, sharding)",
    task="the number of the student's `parameters`, the number of `processes` and `sharding`, "
    '"none" or "fsdp", to four numbers: the bytes that one process holds of (student, '
    'teacher, gradients, AdamW\'s state), all in float32. With "fsdp" each of them is cut into '
    "equal parts.",
    solution=_state_bytes,
    variant=_state_bytes,
    observe=_observe_bytes,
    checked="all four numbers in both layouts on 2 and on 7 processes",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "one-moment",
            "AdamW keeps two numbers for each parameter, the mean of its gradients and of their "
            "squares",
            {"moments": 1},
        ),
        Mistake(
            "two-bytes",
            "two bytes are counted for each number; float32 takes four",
            {"width": 2},
        ),
        Mistake(
            "no-teacher",
            "the teacher is missing; it is a second network of the same size",
            {"teacher": False},
        ),
        Mistake(
            "copies-cut",
            'with "none" every process holds everything; nothing is divided',
            {"always_cut": True},
        ),
        Mistake(
            "layouts-exchanged",
            'it divides for "none" and not for "fsdp"; it is the other way round',
            {"exchanged": True},
        ),
        Mistake(
            "state-alone",
            'with "fsdp" weights and gradients are cut up too, not the optimizer\'s state alone',
            {"cut": (False, False, False, True)},
            {"cut": (False, False, True, True)},
        ),
        Mistake(
            "teacher-whole",
            "the teacher is whole; it is only averaged, so its parts can lie apart too",
            {"cut": (True, False, True, True)},
        ),
    ),
)


def _norm_of_parts(parts: list[Tensor], *, rule: str = "root of squares") -> Tensor:
    norms = torch.stack([part.norm() for part in parts])
    squares = norms.square().sum()
    return {
        "root of squares": squares.sqrt(),
        "sum": norms.sum(),
        "mean": norms.mean(),
        "largest": norms.max(),
        "first": norms[0],
        "no root": squares,
        "mean of squares": norms.square().mean().sqrt(),
        "absolute": sum(part.abs().sum() for part in parts),
        "entries": torch.cat(parts).square().mean().sqrt(),
        "spectral": torch.linalg.matrix_norm(torch.cat(parts), 2),
        "nuclear": torch.linalg.matrix_norm(torch.cat(parts), "nuc"),
        "sum first": sum(part.sum(dim=0) for part in parts).norm(),
    }[rule]


def _observe_norm(answer: Answer) -> Observation:
    return {
        f"the norm of parts with {', '.join(map(str, rows))} rows": answer.number(
            [randn(n, 3 + draw() % 3, seed=seed) for seed, n in enumerate(rows)]
        )
        for rows in ((4, 2), (5, 0, 5), (0, 3, 0, 2, 0), (1, 2, 3, 4), (3,))
    }


NORM_OF_PARTS = Exercise(
    name="norm_of_parts",
    chapter="efficient-training",
    call="norm_of_parts(parts)",
    task="`parts`, a list of (n, D) tensors, the parts of one gradient, of which some may be "
    "empty (n = 0), to the L2 norm of the whole, one number.",
    solution=_norm_of_parts,
    variant=_norm_of_parts,
    observe=_observe_norm,
    checked="two, three and four parts, some of them empty, first and in the middle",
    bounds=(0, math.inf),
    mistakes=(
        Mistake("sum", "norms of parts do not add up; their squares do", {"rule": "sum"}),
        Mistake("mean", "the norms are averaged; add their squares", {"rule": "mean"}),
        Mistake("largest", "only the largest part counts; all do", {"rule": "largest"}),
        Mistake(
            "own-part",
            "only the first part counts: every process would clip by a number of its own",
            {"rule": "first"},
        ),
        Mistake("no-root", "the square root is missing", {"rule": "no root"}),
        Mistake(
            "mean-of-squares",
            "squares are averaged; the norm of the whole is the root of their sum",
            {"rule": "mean of squares"},
            {"rule": "entries"},
        ),
        Mistake(
            "other-norm",
            "this is another norm, of absolute values or of the matrix as a map; the L2 norm is "
            "the root of the sum of all squares",
            {"rule": "absolute"},
            {"rule": "spectral"},
            {"rule": "nuclear"},
        ),
        Mistake(
            "rows-summed",
            "the rows are added before the norm is taken; add the squares of all numbers",
            {"rule": "sum first"},
        ),
    ),
)

EXERCISES = (PACKED_MASK, STATE_BYTES, NORM_OF_PARTS)
