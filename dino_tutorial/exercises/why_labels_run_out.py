"""Questions that an image answers itself, and a few labels: turns, puzzles, who is labelled."""

from functools import cache

import torch
from torch import Tensor

from dino_tutorial.evaluation import nested_subsets
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
from dino_tutorial.views import permutation_set, rotations


def _rotation_batch(
    images: Tensor,
    *,
    direction: int = 1,
    turn: str = "all",
    mirror: bool = False,
    answers: str = "by turn",
    first: int = 0,
    factor: int = 1,
) -> tuple[Tensor, Tensor]:
    turned = torch.stack([images.rot90(direction * k, (-2, -1)) for k in range(4)])
    if mirror:
        turned = torch.stack([images, images.mT, images.flip(-2), images.mT.flip(-2)])
    if turn == "none":
        turned = images.expand(4, *images.shape)
    right = factor * torch.arange(first, first + 4)
    batch = len(images)
    if first and turn == "from the answer":  # the answer 4 is upright again
        turned = turned.roll(-first, 0)
    if turn == "one each":
        which = torch.arange(batch) % 4
        return turned[which, torch.arange(batch)], which
    by_turn = right.repeat_interleave(batch)
    return turned.flatten(0, 1), {"by turn": by_turn, "by image": right.repeat(batch)}[answers]


def _observe_rotation_batch(answer: Answer) -> Observation:
    seen = {}
    for batch, size in ((3, 4), (2, 5)):
        out = answer(randn(batch, 3, size, size, seed=size))
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise Mistaken("not-two", "it has to return two things: (images, answers)")
        images, answers = (as_tensor(part).detach() for part in out)
        if len(answers.shape) != 1 or images.ndim < 2 or len(images) != len(answers):
            raise Mistaken(
                "shape",
                f"there is one answer for each image: yours have shapes "
                f"{tuple(images.shape)} and {tuple(answers.shape)}",
            )
        order = images.flatten(1).mean(dim=1).argsort(stable=True)  # a turn leaves the mean alone
        order = order[answers[order].argsort(stable=True)]  # any order of the batch is right
        where = f"for {batch} images of {size} pixels"
        seen[f"the sorted answers {where}"] = answers[order]
        seen[f"the images, in the order of their answers, {where}"] = images[order]
    return seen


ROTATION_BATCH = Exercise(
    name="rotation_batch",
    chapter="why-labels-run-out",
    call="rotation_batch(images)",
    task="`images` (B, 3, S, S) to a pair (turned, answers): turned (4B, 3, S, S), all four "
    "turns of each image, and answers (4B,), integers: k for k quarter turns counter-"
    "clockwise. Their order is free, as long as answers[i] belongs to turned[i].",
    solution=lambda images: (
        rotations(images).flatten(0, 1),
        torch.arange(4).repeat_interleave(len(images)),
    ),
    variant=_rotation_batch,
    observe=_observe_rotation_batch,
    checked="images and answers of two batches",
    mistakes=(
        Mistake(
            "clockwise",
            "the images turn clockwise; answer 1 is a quarter turn counter-clockwise",
            {"direction": -1},
        ),
        Mistake(
            "answers-shuffled",
            "answers and images are in different orders: one goes turn by turn, the other "
            "image by image",
            {"answers": "by image"},
        ),
        Mistake(
            "mirrored",
            "some images are mirrored; `transpose` or `flip` alone is no turn, both together are",
            {"mirror": True},
        ),
        Mistake(
            "not-turned",
            "all images are upright, whatever the answer says",
            {"turn": "none"},
        ),
        Mistake(
            "one-each",
            "each image is there once, in one turn; all four turns of each belong in the batch",
            {"turn": "one each"},
        ),
        Mistake(
            "from-one",
            "the answers start at 1; an upright image has answer 0",
            {"first": 1},
            {"first": 1, "turn": "from the answer"},
        ),
        Mistake(
            "degrees", "the answers are in degrees; count quarter turns, 0 to 3", {"factor": 90}
        ),
    ),
)


def _shuffle_tiles(
    tiles: Tensor,
    permutations: Tensor,
    answers: Tensor,
    *,
    inverse: bool = False,
    alike: bool = False,
    table: bool = True,
    moved: bool = True,
    axis: int = 0,
) -> Tensor:
    order = permutations[answers]  # (B, T)
    if not table:
        order = permutations[: len(answers)]
    if alike:
        order = order[:1].expand_as(order)
    if inverse:
        order = order.argsort(dim=1)
    if not moved:
        return tiles.clone()
    if axis:
        return tiles[:, answers % tiles.shape[1]]
    return tiles[order.T, torch.arange(len(answers))]


@cache
def _permutations(n_tiles: int) -> Tensor:
    return permutation_set(n_tiles, 12)  # looks at all there are, for a second


def _observe_shuffle_tiles(answer: Answer) -> Observation:
    seen = {}
    for n_tiles, batch, side in ((4, 5, 2), (9, 4, 3), (4, 1, 1)):
        tiles = randn(n_tiles, batch, 3, side, side, seed=n_tiles)
        permutations = _permutations(n_tiles).clone()
        answers = (torch.tensor([7, 2, 11, 2, 9]) + draw())[:batch] % 12
        what = f"{batch} puzzles" if batch > 1 else "a single puzzle"
        seen[f"the shuffled tiles of {what} with T = {n_tiles}"] = answer.tensor(
            tiles, permutations, answers
        )
    return seen


SHUFFLE_TILES = Exercise(
    name="shuffle_tiles",
    chapter="why-labels-run-out",
    call="shuffle_tiles(tiles, permutations, answers)",
    task="`tiles` (T, B, 3, s, s) in reading order, `permutations` (K, T), a table with a "
    "permutation of 0 … T − 1 in each row, and `answers` (B,), a row of that table for each"
    " puzzle, to new tiles (T, B, 3, s, s): at place t of puzzle b lies "
    "tiles[permutations[answers[b], t], b].",
    solution=_shuffle_tiles,
    variant=_shuffle_tiles,
    observe=_observe_shuffle_tiles,
    checked="puzzles of 4 and of 9 tiles",
    mistakes=(
        Mistake(
            "inverse",
            "the permutation is applied backwards: `permutations[answers[b], t]` says which tile "
            "comes to place t, not where tile t goes",
            {"inverse": True},
        ),
        Mistake(
            "same-for-all",
            "the whole batch is shuffled by the first image's permutation; each has its own",
            {"alike": True},
        ),
        Mistake(
            "table-in-order",
            "puzzle b takes row b of the table; take row answers[b]",
            {"table": False},
        ),
        Mistake("not-shuffled", "the tiles lie where they lay", {"moved": False}),
        Mistake(
            "images-mixed",
            "whole images change places and not the tiles of one; T is the first dimension",
            {"axis": 1},
        ),
    ),
)


def _kinds() -> Tensor:
    """Classes of 120 images, 60, 40 and 20 of each; there are classes in between without any."""
    return torch.tensor([2, 2, 11, 2, 11, 14]).repeat(20).roll(draw())


def _labelled(
    labels: Tensor,
    per_class: int,
    seed: int,
    *,
    classes: bool = True,
    total: bool = False,
    seeded: bool = True,
    chance: bool = True,
    again: bool = False,
    nested: bool = True,
    mask: bool = False,
) -> Tensor:
    generator = torch.Generator().manual_seed(seed if nested else 1000 * seed + per_class)
    source = generator if seeded else None
    order = torch.randperm(len(labels), generator=source) if chance else torch.arange(len(labels))
    kinds = labels.unique()
    n_classes = len(kinds)
    if not classes:
        return order[: per_class * n_classes]
    count = per_class // n_classes if total else per_class
    chosen = [order[labels[order] == kind] for kind in kinds]
    if again:
        chosen = [one[torch.randint(len(one), (count,), generator=source)] for one in chosen]
    indices = torch.cat([one[:count] for one in chosen])
    return torch.zeros(len(labels)).index_fill(0, indices, 1).bool() if mask else indices


def _observe_labelled(answer: Answer) -> Observation:
    chosen_by: dict[tuple[int, int], set] = {}
    kinds, first = _kinds(), draw()
    for per_class, seed in ((6, first), (6, first), (18, first), (20, first), (6, first + 1)):
        indices = answer.tensor(kinds, per_class, seed)
        if indices.shape == kinds.shape:
            raise Mistaken("mask")
        if indices.numel() and set(indices.flatten().tolist()) <= set(kinds.tolist()):
            raise Mistaken("labels", "it returns labels; return the numbers of the images")
        if indices.ndim != 1 or (indices != indices.double().round()).any():
            shape = tuple(indices.shape)
            raise Mistaken("shape", f"it has to return whole numbers (n,), and yours are {shape}")
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(kinds):
            raise Mistaken("range", f"the numbers have to lie in 0..{len(kinds) - 1}, the images")
        indices = indices.long()
        _check_counts(indices, kinds, per_class)
        chosen = set(indices.tolist())
        if chosen_by.setdefault((per_class, seed), chosen) != chosen:
            raise Mistaken("not-seeded")
    if chosen_by[6, first] == chosen_by[6, first + 1]:
        raise Mistaken("not-random")
    if not chosen_by[6, first] < chosen_by[18, first] < chosen_by[20, first]:
        raise Mistaken("not-nested")
    _check_chance(answer, kinds)
    return {}


def _check_chance(answer: Answer, kinds: Tensor) -> None:
    """Raise what is wrong with who is drawn, over thirty seeds.

    Of 300 images the mean place among those of their class is known to a fiftieth of the class.
    """
    picks = [answer.tensor(kinds, 10, seed).long() for seed in range(100, 130)]
    for kind in kinds.unique():
        own = (kinds == kind).nonzero().flatten()
        places = [torch.searchsorted(own, p[kinds[p] == kind].sort().values) for p in picks]
        together = torch.cat([place.diff() == 1 for place in places]).double().mean()
        if len(own) == 60 and together > 0.7:  # by chance it is one in six
            says = "the images of a class are drawn in one block, neighbours together"
            raise Mistaken("block", f"{says}; draw each on its own")
        if abs(torch.cat(places).double().mean() / (len(own) - 1) - 0.5) > 0.1:
            says = "not every image of a class has the same chance, whatever the seed"
            raise Mistaken("not-fair", f"{says}; draw among all of them")


def _check_counts(indices: Tensor, kinds: Tensor, per_class: int) -> None:
    """Raise what is wrong with how many images of each class there are."""
    n_classes = len(kinds.unique())
    counts = [int((kinds[indices] == kind).sum()) for kind in kinds.unique()]
    if len(indices.unique()) < len(indices) and counts == [per_class] * n_classes:
        raise Mistaken("twice")
    largest = max(int((kinds == kind).sum()) for kind in kinds.unique())
    if len(indices.unique()) < len(indices) == per_class * n_classes and indices.max() < largest:
        says = "the numbers are places within each class; return places in `labels`"
        raise Mistaken("within-class", says)
    if len(indices.unique()) < len(indices):
        raise Mistaken("twice", "an image is there twice, and the classes are not equally many")
    if len(indices) == per_class:
        raise Mistaken("total")
    if len(indices) != per_class * n_classes:
        raise Mistaken(
            "number",
            f"{per_class} labels of each of {n_classes} classes are {per_class * n_classes} "
            f"images, and it returns {len(indices)}",
        )
    if any((kinds[indices] == kind).sum() != per_class for kind in kinds.unique()):
        raise Mistaken("not-by-class")


LABELLED = Exercise(
    name="labelled",
    chapter="why-labels-run-out",
    call="labelled(labels, per_class, seed)",
    task="`labels` (N,), integers, not always 0, 1, 2, …, to the indices (n,) of the images that"
    " keep their label: exactly `per_class` different images of each class that occurs, "
    "drawn at random, in any order. The same `seed` draws the same images, another seed "
    "others. Draws are nested: those for a smaller `per_class` are among those for a larger"
    " one with the same seed.",
    solution=lambda labels, per_class, seed: nested_subsets(labels, [per_class], seed)[0],
    variant=_labelled,
    observe=_observe_labelled,
    checked="how many of each class, that the seed decides, and that the few are among the many",
    mistakes=(
        Mistake(
            "not-by-class",
            "images are drawn from all classes together, so that a class gets more or fewer, or "
            "none; draw within each class",
            {"classes": False},
        ),
        Mistake(
            "total",
            "per_class is taken for the number of all labels; it is the number for each class",
            {"total": True},
        ),
        Mistake(
            "not-seeded",
            "the same seed gives other images the second time; draw with a generator of that seed",
            {"seeded": False},
        ),
        Mistake(
            "not-random",
            "another seed gives the same images; draw them, and do not take the first ones",
            {"chance": False},
        ),
        Mistake(
            "twice",
            "an image is drawn twice; draw without putting back",
            {"again": True},
        ),
        Mistake(
            "not-nested",
            "the few are not among the many: with the same seed, more labels have to keep those "
            "that were there",
            {"nested": False},
        ),
        Mistake(
            "mask",
            "it returns one value for every image; return the numbers of the chosen ones",
            {"mask": True},
        ),
    ),
)

EXERCISES = (ROTATION_BATCH, SHUFFLE_TILES, LABELLED)
