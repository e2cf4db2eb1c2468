"""Released models: names of weights, and tokens of large norm."""

import math

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    as_tensor,
    draw,
    randn,
)

CHAPTER = "released-models"
State = dict[str, Tensor]


def _state(registers: str, position_rows: int, **more: Tensor) -> State:
    """A state dict of a vision transformer without blocks, D = 6 and N = 4 at first, in float32."""
    d, rows, kind = 6 + 2 * (draw() % 3), position_rows + draw() % 4, torch.float32
    if draw():
        kind = (torch.float16, torch.bfloat16, torch.float64)[draw() % 3]
    shapes = {
        "cls_token": (1, 1, d),
        registers: (1, 2 + draw() % 3, d),
        "pos_embed": (1, rows, d),
        "patch_embed.proj.weight": (d, 3, 2, 2),
        "blocks.0.ls1.gamma": (d,),
        "norm.weight": (d,),
    }
    state = {name: randn(*size, seed=len(name)).to(kind) for name, size in shapes.items()}
    return state | {"blocks.0.counter": torch.tensor(3)} | more


def _observe_names(answer: Answer, given: State, wanted: tuple[str, ...]) -> Observation:
    """The tensors of the names that are wanted, empty where there is none, and the others."""
    found = answer(given)
    if not isinstance(found, dict):
        raise Mistaken(
            "not-a-dict", "it has to return a dictionary from names to tensors, as it was given"
        )
    seen = {}
    for name in wanted:
        if name not in found:
            seen[f"`{name}`"] = torch.zeros(0)
            continue
        tensor = as_tensor(found[name]).detach()
        if tensor.dtype != given.get(name, given["cls_token"]).dtype:
            raise Mistaken("dtype", f"`{name}` has another dtype than before; keep it")
        seen[f"`{name}`"] = tensor
    for name in ("head.weight", "head.bias", "reg_token", "register_tokens", "mask_token"):
        if name not in wanted:
            seen[f"whether `{name}` is there"] = torch.tensor(name in found)
    known = {*wanted, *given, "reg_token", "register_tokens"}
    return seen | {"the number of other names": torch.tensor(len(found.keys() - known))}


def _from_timm(
    state: State,
    *,
    rename: bool = True,
    row: str = "zeros",
    head: bool = False,
) -> State:
    ours = {name: tensor for name, tensor in state.items() if head or not name.startswith("head.")}
    if rename:
        ours["register_tokens"] = ours.pop("reg_token")
    patches = ours["pos_embed"]
    none = torch.zeros_like(patches[:, :1])
    ours["pos_embed"] = {
        "zeros": lambda: torch.cat([none, patches], dim=1),
        "last": lambda: torch.cat([patches, none], dim=1),
        "class token": lambda: torch.cat([ours["cls_token"], patches], dim=1),
        "registers too": lambda: torch.cat([none, none, none, patches], dim=1),
        "absent": lambda: patches,
    }[row]()
    return ours


def _observe_from_timm(answer: Answer) -> Observation:
    others = {"attn_head.weight": randn(4, 6, seed=2), "norm_head.": randn(3, seed=3)}
    others["head_norm.weight"] = randn(6, seed=5)
    head = {"head.weight": randn(3, 6, seed=1), "head.bias": randn(3, seed=4)}
    given = _state("reg_token", 4, **head, **others)
    return _observe_names(answer, given, tuple(_state("register_tokens", 5, **others)))


FROM_TIMM_NAMES = Exercise(
    name="from_timm_names",
    chapter=CHAPTER,
    call="from_timm_names(state)",
    task="`state`, timm's state dict of a model with registers, to a new dict with DINOv2's "
    "names: `reg_token` becomes `register_tokens`, positions (1, N, D) become (1, 1 + N, D)"
    " with zeros for the class token in front, and what begins with `head.` is left out; "
    "all other names and all values and dtypes stay.",
    solution=_from_timm,
    variant=_from_timm,
    observe=_observe_from_timm,
    checked="names and tensors of a model with registers and a classifier",
    mistakes=(
        Mistake(
            "registers-not-renamed",
            "`reg_token` keeps its name; here it is `register_tokens`",
            {"rename": False},
        ),
        Mistake(
            "position-missing",
            "the positions still have N rows; the class token's comes first, and it is zero, "
            "because timm has added it to `cls_token` already",
            {"row": "absent"},
        ),
        Mistake(
            "position-last",
            "the class token's position is the last row; it is the first",
            {"row": "last"},
        ),
        Mistake(
            "counted-twice",
            "the class token itself is put into the positions, to which it is then added once "
            "more; its position is zero here",
            {"row": "class token"},
        ),
        Mistake(
            "rows-for-registers",
            "the registers get rows in the positions; they belong to no place and have none",
            {"row": "registers too"},
        ),
        Mistake(
            "head-kept",
            "the classifier's weights are kept; an encoder has no place for `head.`",
            {"head": True},
        ),
    ),
)


def _to_timm(
    state: State,
    *,
    rename: bool = True,
    token: str = "sum",
    cut: str = "first",
    mask: bool = False,
) -> State:
    theirs = {name: tensor for name, tensor in state.items() if mask or name != "mask_token"}
    if rename:
        theirs["reg_token"] = theirs.pop("register_tokens")
    positions = theirs["pos_embed"]
    row = positions[:, -1:] if token == "last row" else positions[:, :1]
    if token != "alone":
        theirs["cls_token"] = theirs["cls_token"] + row
    theirs["pos_embed"] = {
        "first": positions[:, 1:],
        "last": positions[:, :-1],
        "none": positions,
    }[cut]
    return theirs


def _observe_to_timm(answer: Answer) -> Observation:
    given = _state("register_tokens", 5, mask_token=randn(1, 6, seed=2))
    return _observe_names(answer, given, tuple(_state("reg_token", 4)))


TO_TIMM_NAMES = Exercise(
    name="to_timm_names",
    chapter=CHAPTER,
    call="to_timm_names(state)",
    task="`state`, DINOv2's state dict of a model with registers, to a new dict with timm's "
    "names: `register_tokens` becomes `reg_token`, the class token's position, the first of"
    " (1, 1 + N, D), is added to `cls_token`, and the positions are those of the patches "
    "alone, (1, N, D); `mask_token` is left out; all other names, values and dtypes stay.",
    solution=_to_timm,
    variant=_to_timm,
    observe=_observe_to_timm,
    checked="names and tensors of a model with registers",
    mistakes=(
        Mistake(
            "position-dropped",
            "the class token's position is thrown away; add it to `cls_token`, or every image "
            "gets another class token",
            {"token": "alone"},
        ),
        Mistake(
            "position-kept",
            "the positions still have a row for the class token; timm's have N rows",
            {"cut": "none"},
            {"cut": "none", "token": "alone"},
        ),
        Mistake(
            "wrong-end",
            "the last row is taken for the class token's position; it is the first",
            {"cut": "last", "token": "last row"},
            {"cut": "last"},
            {"token": "last row"},
        ),
        Mistake(
            "registers-not-renamed",
            "`register_tokens` keeps its name; timm calls it `reg_token`",
            {"rename": False},
        ),
        Mistake(
            "mask-token-kept",
            "`mask_token` is kept; timm's model has none and refuses the state",
            {"mask": True},
        ),
    ),
)


def _high_norm(
    x: Tensor,
    factor: float,
    *,
    centre: str = "median",
    over: str = "image",
    power: float = 1.0,
    order: float = 2,
    axis: int = -1,
    above: bool = True,
) -> Tensor:
    norms = x.norm(dim=axis, p=order) ** power
    if centre in ("upper", "middle"):
        upper = norms.sort(dim=1).values[:, norms.shape[1] // 2]
        middle = upper if centre == "upper" else norms.quantile(0.5, dim=1)
        return norms > factor * middle[:, None]
    if over == "batch":
        typical = norms.median() if centre == "median" else norms.mean()
    elif centre == "median":
        typical = norms.median(dim=1, keepdim=True).values
    else:
        found = {"mean": norms.mean, "largest": norms.amax, "smallest": norms.amin}[centre]
        typical = found(dim=1, keepdim=True)
    return norms > factor * typical if above else norms < factor * typical


def _observe_high_norm(answer: Answer) -> Observation:
    seen = {}
    for n_patches, factor in ((12, 3.0), (20, 1.5), (15, 1.2)):
        x = randn(3, n_patches, 5, seed=n_patches)
        x[:, ::2] = x[:, ::2] * torch.eye(5)[torch.arange(n_patches)[::2] % 5]  # long in one place
        x = x / x.norm(dim=-1, keepdim=True)
        x = x * (1 + 0.3 * torch.arange(n_patches) / n_patches)[:, None]
        scale = torch.tensor([1.0, 2.5, 0.5])[:, None, None]
        planted = torch.zeros(3, n_patches)
        planted[:, 2], planted[1, 5], planted[2, 7] = 9.0, 3.0, 1.2
        mask = answer.mask(scale * x * (1 + planted[..., None]), factor)
        seen[f"which of {n_patches} patches are found, factor {factor:g}"] = mask
    # Two heaps of norms, the middle between them: which median it is decides about the upper one.
    norms = torch.tensor([1.0, 1.1, 0.2, 1.0, 2.0, 2.1, 1.9, 4.5]).roll(draw())
    x = randn(1, 8, 4, seed=8)
    x = norms[:, None] * x / x.norm(dim=-1, keepdim=True)
    seen["which patches are found where the norms form two heaps"] = answer.mask(x, 1.5)
    return seen


HIGH_NORM = Exercise(
    name="high_norm",
    chapter=CHAPTER,
    call="high_norm(x, factor)",
    task="patch tokens `x` (B, N, D) before the last normalisation and a float `factor` to a "
    "boolean (B, N): those whose L2 norm is more than `factor` times the median of the N "
    "norms of their image, as `torch.median` gives it.",
    solution=_high_norm,
    variant=_high_norm,
    observe=_observe_high_norm,
    checked="three images of different brightness, three factors",
    mistakes=(
        Mistake(
            "mean",
            "the norms are compared with their mean, which the large ones raise; take the median",
            {"centre": "mean"},
        ),
        Mistake(
            "whole-batch",
            "the median is taken over all images; take it in each, `dim=1`",
            {"over": "batch"},
            {"over": "batch", "centre": "mean"},
        ),
        Mistake(
            "squared",
            "these are squared norms, for which the factor is another one; take the root",
            {"power": 2.0},
        ),
        Mistake(
            "other-median",
            "of an even number of norms `torch.median` gives the lower of the two in the middle, "
            "and this is the upper one, or their mean; use `torch.median`",
            {"centre": "upper"},
            {"centre": "middle"},
        ),
        Mistake(
            "smallest",
            "the norms are compared with the smallest one; take the median",
            {"centre": "smallest"},
        ),
        Mistake(
            "other-norm",
            "this is another norm, a sum of absolute values or the largest of them; the L2 norm is "
            "the root of the sum of squares",
            {"order": 1},
            {"order": math.inf},
        ),
        Mistake(
            "nothing-found",
            "no patch is found, in none of the images; compare the norms of the tokens themselves "
            "with the median of their image, not with the largest",
            {"centre": "largest"},
        ),
        Mistake(
            "below", "the small norms are found; the large ones are asked for", {"above": False}
        ),
    ),
)

EXERCISES = (FROM_TIMM_NAMES, TO_TIMM_NAMES, HIGH_NORM)
