"""Multi-crop: which pairs there are, what the parts of the loss read, and the boxes."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Generator, Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    as_tensor,
    draw,
    randn,
    vary,
)
from dino_tutorial.exercises.self_distillation import pair_mask


def _crop_pairs(
    n_global: int,
    n_local: int,
    *,
    teachers: str = "global",
    students: str = "all",
    same: bool = False,
    once: bool = False,
    reverse: bool = False,
) -> list[tuple[int, int]]:
    views = range(n_global + n_local)
    seen = {"all": views, "local": views[n_global:], "global": views[:n_global]}
    pairs = [
        (g, v)
        for g in (views if teachers == "all" else views[:n_global])
        for v in seen[students]
        if (same or g != v) and not (once and v < g)
    ]
    return [(v, g) for g, v in pairs] if reverse else pairs


def _observe_pairs(answer: Answer) -> Observation:
    seen = {}
    for n_global, n_local in ((2, 3), (2, 0), (3, 2), (4, 1 + draw() % 6)):
        views = n_global + n_local
        counts = torch.zeros(views, views)
        for pair in _as_pairs(answer(n_global, n_local)):
            if not all(0 <= view < views for view in pair):
                raise Mistaken(
                    "no-such-view",
                    f"with {n_global} + {n_local} crops there are the views 0 to {views - 1}, "
                    f"and the pair {pair} is none of them; global crops come first",
                )
            counts[pair] += 1
        seen[f"how often each pair occurs with {n_global} + {n_local} crops"] = counts
    return seen


def _as_pairs(value: object) -> list[tuple[int, int]]:
    says = "it has to return pairs of numbers, (the teacher's view, the student's view)"
    if not isinstance(value, Iterable):
        raise Mistaken("not-pairs", says)
    try:
        return [(int(g), int(v)) for g, v in value]
    except (TypeError, ValueError):
        raise Mistaken("not-pairs", says) from None


CROP_PAIRS = Exercise(
    name="crop_pairs",
    chapter="multi-crop",
    call="crop_pairs(n_global, n_local)",
    task="two integers, `n_global` and `n_local`, to a list of all pairs (teacher's view, "
    "student's view) that DINO's loss compares, each once, in any order. Views are counted "
    "from 0, global crops first; the teacher sees the global crops, the student all, and no"
    " view is compared with itself.",
    solution=_crop_pairs,
    variant=_crop_pairs,
    observe=_observe_pairs,
    checked="all pairs for 2 + 3, 2 + 0 and 3 + 2 crops",
    mistakes=(
        Mistake(
            "same-view",
            "pairs of a view with itself are kept; leave out v = g",
            {"same": True},
        ),
        Mistake(
            "local-teachers",
            "the teacher sees local crops too; it sees the global ones only",
            {"teachers": "all"},
        ),
        Mistake(
            "globals-ignored",
            "the student sees only the local crops; it sees all of them, the global ones too",
            {"students": "local"},
        ),
        Mistake(
            "locals-ignored",
            "the local crops are missing; the student sees all crops",
            {"students": "global"},
        ),
        Mistake(
            "one-order",
            "of two global crops only one order is there; each is the teacher's once and the "
            "student's once",
            {"once": True},
        ),
        Mistake(
            "reversed",
            "the pairs are the wrong way round; the teacher's view comes first",
            {"reverse": True},
        ),
    ),
)


def _split_loss(
    student_logits: Tensor,
    targets: Tensor,
    student_temp: float,
    *,
    own_count: bool = False,
    divisor: str = "pairs",
    same: bool = False,
    teachers: int = 2,
    temperature: bool = True,
    multiply: bool = False,
    order: int = 1,
    axis: int = -1,
) -> tuple[Tensor, Tensor]:
    scale = 1 / student_temp if multiply else student_temp if temperature else 1.0
    log_q = (student_logits / scale).log_softmax(dim=axis)
    views, batch = log_q.shape[:2]
    cost = -torch.einsum("gbk,vbk->gv", targets, log_q) / batch
    kept = pair_mask("all" if same else "different", views)
    local, among = cost[:teachers, 2:].flatten(), cost[:, :2][kept[:, :2]]
    total = {"pairs": kept.sum(), "nothing": 1, "views": views}[divisor]
    counts = (len(local), len(among)) if own_count else (total, total)
    parts = local.sum() / counts[0], among.sum() / counts[1]
    return parts[::order]


def _observe_split(answer: Answer) -> Observation:
    seen = {}
    for views, batch, prototypes in ((10, 2, 7), (4, 3, 5)):
        s = randn(views, batch, prototypes, seed=views, scale=0.2)
        targets = randn(2, batch, prototypes, seed=views + 1, scale=2).softmax(dim=-1)
        parts = answer(s, targets, *vary(0.1))
        if isinstance(parts, Tensor | np.ndarray) and parts.shape == (2,):
            parts = tuple(parts)
        if not isinstance(parts, tuple | list) or len(parts) != 2:
            raise Mistaken("not-two", "it has to return two numbers: (local part, global part)")
        for name, part in zip(("local", "global"), parts, strict=True):
            seen[f"the {name} part for V = {views}"] = as_tensor(part).detach()
    return seen


SPLIT_LOSS = Exercise(
    name="split_loss",
    chapter="multi-crop",
    call="split_loss(student_logits, targets, student_temp)",
    task="`student_logits` (V, B, K), of which the first two views are global, `targets` (2, B, "
    "K), the teacher's probabilities for these two, and a float `student_temp` to two "
    "scalars, (local part, global part), of DINO's loss: the cross-entropies −Σ p ln q, "
    "their mean over the batch, of the pairs (g, v ≠ g) with a local student view v ≥ 2 and"
    " with a global one, each part divided by the number 2V − 2 of *all* pairs, so that "
    "they add up to the loss. A pair, a list or a tensor (2,).",
    solution=_split_loss,
    variant=_split_loss,
    observe=_observe_split,
    bounds=(0, math.inf),
    checked="both parts with 8 and with 2 local views",
    mistakes=(
        Mistake(
            "own-count",
            "each part is divided by the number of its own pairs; divide both by the number of "
            "all pairs, so that they add up to the loss",
            {"own_count": True},
        ),
        Mistake(
            "same-view",
            "pairs of a view with itself are kept in the global part; leave out v = g",
            {"same": True},
        ),
        Mistake(
            "exchanged",
            "the parts are exchanged; the local part comes first",
            {"order": -1},
        ),
        Mistake(
            "one-teacher-view",
            "the local views meet one teacher view only; they meet both",
            {"teachers": 1},
        ),
        Mistake(
            "temperature-missing",
            "the student's logits are not divided by its temperature",
            {"temperature": False},
        ),
        Mistake(
            "temperature-multiplied",
            "the student's logits are multiplied by its temperature; divide them",
            {"multiply": True},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the batch or the views; the K prototypes of one answer have to "
            "sum to 1, `dim=-1`",
            {"axis": 1},
            {"axis": 0},
        ),
        Mistake(
            "not-divided",
            "the parts are sums over pairs; divide both by the number of all pairs, 2V − 2",
            {"divisor": "nothing"},
        ),
        Mistake(
            "wrong-divisor",
            "the parts are divided by the number of views; there are 2V − 2 pairs",
            {"divisor": "views"},
        ),
    ),
)

_BOXES, _SIZE, _SMALL, _SCALE = 10_000, 256, 16, (0.05, 0.4)
_LARGE = (0.7, 1.0)  # so large that one box in five does not fit, and is drawn again


def _draw_boxes(
    n: int,
    scale: tuple[float, float],
    size: int,
    generator: Generator,
    *,
    tries: int = 10,
    area: str = "pixels",
    ratios: str = "log",
    inside: bool = True,
    last: int = 1,
    place: str = "uniform",
    alike: bool = False,
    stretch: float = 1.0,
    whole: bool = True,
    seeded: bool = True,
    fit: str = "again",
    widest: float = 4 / 3,
    rounding: str = "round",
    same: bool = False,
    order: str = "top, left, height, width",
) -> Tensor:
    source = generator if seeded else None

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(1 if alike else shape[0], *shape[1:], generator=source)
        return low + (high - low) * drawn.expand(*shape)

    side = uniform(*scale, n, tries) * size * stretch
    even = uniform(*(math.sqrt(share) for share in scale), n, tries) * size
    pixels = {"pixels": side * size, "side": side * side, "even sides": even * even}[area]
    ratio = uniform(-math.log(widest), math.log(widest), n, tries).exp()
    if ratios == "linear":
        ratio = uniform(3 / 4, 4 / 3, n, tries)
    if ratios == "square":
        ratio = torch.ones(n, tries)
    width, height = (pixels * ratio).sqrt(), (pixels / ratio).sqrt()
    if rounding == "round":
        width, height = width.round(), height.round()
    else:
        width, height = width.floor(), height.floor()
    fits = (width <= size) & (height <= size)
    if fit == "cut":
        fits = torch.ones_like(fits)
    first = fits.int().argmax(dim=1, keepdim=True)
    width, height = (s.gather(1, first)[:, 0].clamp(max=size) for s in (width, height))
    room = (size - height + last, size - width + last) if inside else (size * torch.ones(n),) * 2
    places = [uniform(0, 1, n), uniform(0, 1, n)]
    if place == "normal":
        places = [(0.5 + torch.randn(n, generator=source) / 8).clamp(0, 0.999) for _ in range(2)]
    if same:
        places[1] = places[0]
    top, left = ((share * r).floor() for share, r in zip(places, room, strict=True))
    if place == "centre":
        top, left = ((size - side) // 2 for side in (height, width))
    if place == "corner":
        top, left = torch.zeros(n), torch.zeros(n)
    named = {"top": top, "left": left, "height": height, "width": width}
    named |= {"bottom": top + height, "right": left + width}
    boxes = torch.stack([named[name] for name in order.split(", ")], dim=1)
    return boxes.long() if whole else boxes * 0.999


def _observe_boxes(answer: Answer) -> Observation:
    boxes = _boxes(answer, _SCALE)
    if not torch.equal(_boxes(answer, _SCALE, n=99), _boxes(answer, _SCALE, n=99)):
        raise Mistaken("not-seeded")
    if (boxes == boxes[0]).all(dim=1).float().mean() > 0.5:
        raise Mistaken("all-alike")
    _check_geometry(boxes)
    if torch.equal(_boxes(answer, _SCALE, n=9, seed=1), _boxes(answer, _SCALE, n=9, seed=2)):
        says = "another seed of the generator gives the same boxes"
        raise Mistaken("ignores-generator", f"{says}; draw with the generator that is handed in")
    _boxes(answer, _SCALE, n=1)
    _check_large(_boxes(answer, _LARGE, n=3_000))
    _check_small(_boxes(answer, _SCALE, _SMALL))
    return {}


def _boxes(
    answer: Answer,
    scale: tuple[float, float],
    size: int = _SIZE,
    n: int = _BOXES,
    seed: int = 0,
) -> Tensor:
    generator = torch.Generator().manual_seed(draw() + seed)
    boxes = answer.tensor(n, scale, size, generator).double()
    if boxes.shape != (n, 4):
        raise Mistaken("shape", f"for n = {n} it returns shape {tuple(boxes.shape)}, not ({n}, 4)")
    if not boxes.isfinite().all():
        raise Mistaken("not-finite", "some boxes are not finite numbers")
    return boxes


def _check_large(boxes: Tensor) -> None:
    """Raise what is wrong where boxes often do not fit: they are drawn again, not made to fit."""
    top, left, height, width = boxes.unbind(dim=1)
    if (boxes < 0).any() or (top + height > _SIZE).any() or (left + width > _SIZE).any():
        raise Mistaken("outside")
    share = height * width / _SIZE**2
    sides = torch.maximum(height, width)
    # Made to fit by cutting, one box in four has a side as long as the image; drawn again, few.
    if (sides == _SIZE).double().mean() > 0.1:
        raise Mistaken("not-drawn-again")
    if share.min() < _LARGE[0] - 0.01 or share.max() > _LARGE[1] + 0.01:
        raise Mistaken("area-range")


def _check_geometry(boxes: Tensor) -> None:
    """Raise the first mistake that the drawn boxes (n, 4) show.

    Of 10,000 boxes a mean is known to a hundredth of the range; the bounds are four times that.
    """
    top, left, height, width = boxes.unbind(dim=1)
    if boxes.max() <= 1:
        raise Mistaken("shares", "boxes are shares of the image; return pixels")
    if (top == 0).all():
        raise Mistaken("corner")
    if (height > top).all() and (width > left).all():
        raise Mistaken("corners")
    if (top * left / _SIZE**2 > _SCALE[0] - 0.01).all():
        raise Mistaken("order")
    if (boxes < 0).any() or (top + height > _SIZE).any() or (left + width > _SIZE).any():
        turned = (top + width <= _SIZE).all() and (left + height <= _SIZE).all()
        raise Mistaken("turned" if turned else "outside")
    share = height * width / _SIZE**2
    if share.min() < 0.5 * _SCALE[0] and share.max() < _SCALE[1] ** 2 + 0.01:
        raise Mistaken("area-as-side")
    if share.min() < _SCALE[0] - 0.01 or share.max() > _SCALE[1] + 0.01:
        raise Mistaken("area-range")
    if not _uniform(share, *_SCALE):
        raise Mistaken("area-not-uniform")
    ratio = (width / height).log()
    if ratio.std() < 0.05:
        raise Mistaken("square")
    if ratio.abs().max() > 1.05 * math.log(4 / 3) + 0.02 or ratio.std() < 0.155:
        raise Mistaken("ratio-range")
    if ratio.mean().abs() > 0.01 or not _uniform(ratio, -math.log(4 / 3), math.log(4 / 3), 0.04):
        raise Mistaken("ratio-not-logarithmic")
    if abs(_correlation(share, ratio)) > 0.05:
        raise Mistaken("drawn-together", "area and aspect ratio are not independent of each other")
    if (boxes != boxes.round()).any():  # places are looked at as whole numbers
        raise Mistaken("not-whole")
    # Where in the room that it has a box lies, in [0, 1]
    down, right = ((top + 0.5) / (_SIZE - height + 1), (left + 0.5) / (_SIZE - width + 1))
    if down.std() < 0.1 or right.std() < 0.1:
        raise Mistaken("not-moved")
    if (top + height == _SIZE).float().mean() < 0.3 * (top == 0).float().mean():
        raise Mistaken("last-place-missing")
    if (left + width == _SIZE).float().mean() < 0.3 * (left == 0).float().mean():
        raise Mistaken("last-place-missing")
    if abs(_correlation(down, right)) > 0.05:
        raise Mistaken("one-draw-for-both")
    if not (_uniform(down, 0, 1) and _uniform(right, 0, 1)):
        raise Mistaken("place-not-uniform")


def _check_small(boxes: Tensor) -> None:
    """Raise what only a small image shows: how sides and places become whole numbers."""
    top, left, height, width = boxes.unbind(dim=1)
    if (top + height > _SMALL).any() or (left + width > _SMALL).any():
        says = f"for size = {_SMALL} boxes reach outside the image, and for {_SIZE} they do not"
        raise Mistaken("size-unused", f"{says}; areas and places depend on `size`")
    gap = float((height * width).mean()) / _SMALL**2 - sum(_SCALE) / 2
    if gap > 0.01:
        raise Mistaken("sides-rounded-up", "sides are rounded up, which makes boxes too large")
    if gap < -0.01:
        raise Mistaken("sides-cut")
    for place, side in ((top, height), (left, width)):
        first, last = (place == 0).double().mean(), (place + side == _SMALL).double().mean()
        wanted = (1 / (_SMALL - side + 1)).mean()
        if min(first, last) < 0.85 * wanted or max(first, last) > 1.15 * wanted:
            raise Mistaken(
                "ends-unlike", "the first and the last place are not as likely as others"
            )


def _correlation(one: Tensor, two: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, two]))[0, 1])


def _uniform(values: Tensor, low: float, high: float, most: float = 0.025) -> bool:
    """Kolmogorov-Smirnov: whether the share below each value is what it is for a uniform draw."""
    found = ((values.sort().values - low) / (high - low)).clamp(0, 1)
    wanted = torch.linspace(0, 1, len(found), dtype=found.dtype)
    return bool((found - wanted).abs().max() < most)


DRAW_BOXES = Exercise(
    name="draw_boxes",
    chapter="multi-crop",
    call="draw_boxes(n, scale, size, generator)",
    task="the number `n` of boxes, `scale` = (low, high), the side `size` of a square image in "
    "pixels and a `torch.Generator`, `generator`, that makes all draws, to (n, 4) whole numbers "
    "(top, left, height, width). For each box: area uniform between low and high, as shares of "
    "the image's area; the logarithm of width / height uniform between ± ln 4/3; sides "
    "rounded to whole pixels; a box that does not fit into the image is drawn again, ten "
    "tries or more; then top uniform in 0 … size − height and left, on its own, in 0 … size"
    " − width, ends included.",
    solution=_draw_boxes,
    variant=_draw_boxes,
    observe=_observe_boxes,
    checked=f"areas, aspect ratios and places of {_BOXES:,} boxes, and that the generator decides",
    mistakes=(
        Mistake(
            "not-seeded",
            "the same generator gives other boxes the second time; pass `generator=generator` to "
            "every draw",
            {"seeded": False},
        ),
        Mistake(
            "all-alike",
            "all boxes are the same; each sample draws its own",
            {"alike": True},
        ),
        Mistake(
            "corners",
            "the last two columns are the bottom and right edges; they have to be height and width",
            {"order": "top, left, bottom, right"},
        ),
        Mistake(
            "order",
            "the columns are in another order; it is top, left, height, width",
            {"order": "height, width, top, left"},
        ),
        Mistake(
            "turned",
            "boxes reach outside: height and width, or top and left, have changed places",
            {"order": "top, left, width, height"},
            {"order": "left, top, height, width"},
        ),
        Mistake(
            "outside",
            "boxes reach outside the image; top goes from 0 to size − height",
            {"inside": False},
        ),
        Mistake(
            "area-as-side",
            "the scale is taken for the side of the box; it is the share of the image's area",
            {"area": "side"},
        ),
        Mistake(
            "area-range",
            "areas leave the range that `scale` gives",
            {"stretch": 2.0},
        ),
        Mistake(
            "area-not-uniform",
            "areas are not uniform between the two bounds; draw the area, not the side",
            {"area": "even sides"},
        ),
        Mistake(
            "not-drawn-again",
            "boxes that do not fit are cut; draw such a box again",
            {"fit": "cut"},
        ),
        Mistake(
            "ratio-range",
            "aspect ratios leave the range from 3/4 to 4/3, or do not fill it; the logarithm is "
            "uniform between ± ln 4/3",
            {"widest": 16 / 9},
            {"widest": (4 / 3) ** 0.5},
        ),
        Mistake(
            "one-draw-for-both",
            "top and left come from one draw, so that boxes lie along the diagonal; each is drawn "
            "on its own",
            {"same": True},
        ),
        Mistake(
            "place-not-uniform",
            "some places are more likely than others; draw them uniformly",
            {"place": "normal"},
        ),
        Mistake(
            "sides-cut",
            "the fractions of the sides are cut off, which makes boxes too small; round them",
            {"rounding": "floor"},
        ),
        Mistake(
            "not-whole",
            "boxes are whole pixels; round the sides and take the floor of the place",
            {"whole": False},
        ),
        Mistake(
            "square",
            "all boxes are squares; draw an aspect ratio too",
            {"ratios": "square"},
        ),
        Mistake(
            "ratio-not-logarithmic",
            "wide boxes are more likely than tall ones; draw the logarithm of the aspect ratio "
            "uniformly, not the ratio",
            {"ratios": "linear"},
        ),
        Mistake(
            "corner",
            "all boxes lie at the top; draw a place too",
            {"place": "corner"},
        ),
        Mistake(
            "not-moved",
            "all boxes have the same place in the room that they have; draw it uniformly",
            {"place": "centre"},
        ),
        Mistake(
            "last-place-missing",
            "no box reaches the end: there are size − height + 1 places, one more than drawn",
            {"last": 0},
        ),
    ),
)

EXERCISES = (CROP_PAIRS, SPLIT_LOSS, DRAW_BOXES)
