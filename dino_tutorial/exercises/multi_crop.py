"""Multi-crop: which pairs there are, what the parts of the loss read, and the boxes."""

import math
from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    as_tensor,
    randn,
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
    for n_global, n_local in ((2, 3), (2, 0), (3, 2)):
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
    task="numbers of crops to all pairs (teacher's view, student's view) that the loss compares; "
    "views are counted from 0, global crops first.",
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
    order: int = 1,
) -> tuple[Tensor, Tensor]:
    log_q = (student_logits / (student_temp if temperature else 1.0)).log_softmax(dim=-1)
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
        parts = answer(s, targets, 0.1)
        if not isinstance(parts, tuple | list) or len(parts) != 2:
            raise Mistaken("not-two", "it has to return two numbers: (local part, global part)")
        for name, part in zip(("local", "global"), parts, strict=True):
            seen[f"the {name} part for V = {views}"] = as_tensor(part).detach()
    return seen


SPLIT_LOSS = Exercise(
    name="split_loss",
    chapter="multi-crop",
    call="split_loss(student_logits, targets, student_temp)",
    task="(V, B, K) logits and (2, B, K) probabilities to the two parts of DINO's loss, from the "
    "pairs with a local and with a global student view, both divided by the number of all pairs.",
    solution=_split_loss,
    variant=_split_loss,
    observe=_observe_split,
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

_BOXES, _SIZE, _SCALE = 10_000, 256, (0.05, 0.4)


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
    order: str = "top, left, height, width",
) -> Tensor:
    source = generator if seeded else None

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(1 if alike else shape[0], *shape[1:], generator=source)
        return low + (high - low) * drawn.expand(*shape)

    side = uniform(*scale, n, tries) * size * stretch
    even = uniform(*(math.sqrt(share) for share in scale), n, tries) * size
    pixels = {"pixels": side * size, "side": side * side, "even sides": even * even}[area]
    ratio = uniform(-math.log(4 / 3), math.log(4 / 3), n, tries).exp()
    if ratios == "linear":
        ratio = uniform(3 / 4, 4 / 3, n, tries)
    if ratios == "square":
        ratio = torch.ones(n, tries)
    width, height = (pixels * ratio).sqrt().round(), (pixels / ratio).sqrt().round()
    first = ((width <= size) & (height <= size)).int().argmax(dim=1, keepdim=True)
    width, height = (s.gather(1, first)[:, 0].clamp(max=size) for s in (width, height))
    room = (size - height + last, size - width + last) if inside else (size * torch.ones(n),) * 2
    top, left = ((uniform(0, 1, n) * r).floor() for r in room)
    if place == "centre":
        top, left = ((size - side) // 2 for side in (height, width))
    if place == "corner":
        top, left = torch.zeros(n), torch.zeros(n)
    named = {"top": top, "left": left, "height": height, "width": width}
    named |= {"bottom": top + height, "right": left + width}
    boxes = torch.stack([named[name] for name in order.split(", ")], dim=1)
    return boxes.long() if whole else boxes + 0.5


def _observe_boxes(answer: Answer) -> Observation:
    boxes = answer.tensor(_BOXES, _SCALE, _SIZE, torch.Generator().manual_seed(0)).double()
    if boxes.shape != (_BOXES, 4):
        shape = tuple(boxes.shape)
        raise Mistaken("shape", f"for n = {_BOXES} it returns shape {shape}, not ({_BOXES}, 4)")
    again = answer.tensor(_BOXES, _SCALE, _SIZE, torch.Generator().manual_seed(0)).double()
    if not torch.equal(boxes, again):
        raise Mistaken("not-seeded")
    if (boxes == boxes[0]).all(dim=1).float().mean() > 0.5:
        raise Mistaken("all-alike")
    _check_geometry(boxes)
    return {}


def _check_geometry(boxes: Tensor) -> None:
    """Raise the first mistake that the drawn boxes (n, 4) show."""
    top, left, height, width = boxes.unbind(dim=1)
    if (boxes != boxes.round()).any():
        raise Mistaken("not-whole")
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
    if (share.mean() - sum(_SCALE) / 2).abs() > 0.01:
        raise Mistaken("area-not-uniform")
    ratio = (width / height).log()
    if ratio.std() < 0.05:
        raise Mistaken("square")
    if ratio.mean().abs() > 0.01:
        raise Mistaken("ratio-not-logarithmic")
    if (top / (_SIZE - height).clamp(min=1)).std() < 0.1:
        raise Mistaken("not-moved")
    if (top + height == _SIZE).float().mean() < 0.3 * (top == 0).float().mean():
        raise Mistaken("last-place-missing")


DRAW_BOXES = Exercise(
    name="draw_boxes",
    chapter="multi-crop",
    call="draw_boxes(n, scale, size, generator)",
    task="(n, 4) random boxes (top, left, height, width) in a square image of `size` pixels: "
    "area uniform in `scale` (a share of the image's), logarithm of the aspect ratio uniform "
    "between ± ln 4/3, place uniform.",
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
