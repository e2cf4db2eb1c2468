"""Curating: connected components, precision and recall of pairs, even shares of a budget."""

import math

import numpy as np
import torch
from torch import Tensor

from dino_tutorial.curation import duplicate_scores, even_shares
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


def _components(
    similar: Tensor,
    *,
    rounds: int | None = None,
    both_ways: bool = True,
    name: str = "smallest",
    alone: str = "itself",
) -> Tensor:
    n = len(similar)
    linked = similar | similar.T if both_ways else similar.tril()
    linked = linked | torch.eye(n, dtype=torch.bool)
    own = torch.arange(n)
    labels = own
    for _ in range(n if rounds is None else rounds):
        if name == "largest":
            labels = torch.where(linked, labels[None], -1).amax(dim=1)
        else:
            labels = torch.where(linked, labels[None], n).amin(dim=1)
    if name == "counted":
        labels = labels.unique(return_inverse=True)[1]
    if name == "size":
        labels = (labels[:, None] == labels).sum(dim=1)
    if alone == "-1":
        size = (labels[:, None] == labels).sum(dim=1)
        labels = torch.where(size > 1, labels, -1)
    return labels


def _right_components(similar: Tensor) -> Tensor:
    return _components(similar)


def _graph(n: int, *pairs: tuple[int, int]) -> Tensor:
    similar = torch.eye(n, dtype=torch.bool)
    for i, j in pairs:
        similar[i, j] = similar[j, i] = True
    return similar


def _renamed(similar: Tensor) -> Tensor:
    """The same graph with other names for its nodes; unchanged in the first draw."""
    order = randn(len(similar), seed=1).argsort() if draw() else torch.arange(len(similar))
    return similar[order][:, order]


def _observe_components(answer: Answer) -> Observation:
    chain = _renamed(_graph(10, *zip((9, 6, 2, 8, 5, 3, 7), (6, 2, 8, 5, 3, 7, 1), strict=True)))
    groups = _renamed(_graph(9, (8, 2), (2, 5), (0, 7), (3, 6)))
    return {
        "the labels of a chain of eight": answer.tensor(chain),
        "the labels of three groups": answer.tensor(groups),
        "the labels when nothing is similar": answer.tensor(_graph(4)),
    }


COMPONENTS = Exercise(
    name="components",
    chapter="curating-data",
    call="components(similar)",
    task="`similar` (n, n), boolean, symmetric, true where two images are similar, as each is to "
    "itself, to labels (n,): each image gets the smallest index of its connected component.",
    solution=_right_components,
    variant=_components,
    observe=_observe_components,
    checked="a chain, three groups, and images without a copy",
    mistakes=(
        Mistake(
            "neighbours-only",
            "copies of a copy are not followed: an image gets the smallest index among its own "
            "neighbours; repeat until nothing changes",
            {"rounds": 1},
        ),
        Mistake(
            "stopped-early",
            "a long chain falls into pieces; repeat until nothing changes, not a fixed few times",
            *({"rounds": rounds} for rounds in range(2, 6)),
        ),
        Mistake(
            "one-direction",
            "only neighbours with a smaller index are followed; a chain may lead up before it "
            "leads down",
            {"both_ways": False},
        ),
        Mistake(
            "largest",
            "a component is named by its largest index; take the smallest",
            {"name": "largest"},
        ),
        Mistake(
            "counted",
            "the components are numbered 0, 1, 2, …; the label is the smallest index in it, so "
            "that it says which image to keep",
            {"name": "counted"},
        ),
        Mistake(
            "sizes",
            "this is how many images a component has; return its smallest index",
            {"name": "size"},
        ),
        Mistake(
            "alone",
            "an image without a copy gets -1; it is a component of its own, named by itself",
            {"alone": "-1"},
        ),
    ),
)


def _pairs(groups: Tensor, own: bool | str = False) -> Tensor:
    together = groups[:, None] == groups
    return together if own is True else together.triu(0 if own else 1)


def _by_group(found: Tensor, true: Tensor, over: str) -> float:
    """A share of the groups found, or a mean over them, instead of one of pairs."""
    kinds = [true[found == group] for group in found.unique()]
    if over == "purity":
        return sum(int((k == k.mode().values).sum()) for k in kinds) / len(found)
    if over == "groups":
        return sum((k[:, None] == k).double().mean().item() for k in kinds) / len(kinds)
    whole = {tuple((true == group).tolist()) for group in true.unique()}
    return sum(tuple((found == g).tolist()) in whole for g in found.unique()) / len(kinds)


def _pair_scores(
    found: Tensor,
    true: Tensor,
    *,
    swapped: bool = False,
    own: bool | str = False,
    over: str = "pairs",
) -> tuple[float, float]:
    if over in ("purity", "groups", "whole groups"):
        return _by_group(found, true, over), _by_group(true, found, over)
    if over == "labels":
        right = (found == true).float().mean().item()
        return right, right
    if over == "removed":
        n = torch.arange(len(found))
        one, other = found != n, true != n
    else:
        one, other = _pairs(found, own), _pairs(true, own)
    both = (one & other).sum()
    if over == "all":
        agree = (one == other).triu(1).sum().item() / _pairs(torch.zeros_like(found)).sum().item()
        return agree, agree
    precision, recall = (both / one.sum()).item(), (both / other.sum()).item()
    return (recall, precision) if swapped else (precision, recall)


def _right_pair_scores(found: Tensor, true: Tensor) -> tuple[float, float]:
    kept = np.ones(len(found), bool)
    scores = duplicate_scores(found.numpy(), true.numpy(), kept)
    return scores["pair_precision"], scores["pair_recall"]


def _observe_pair_scores(answer: Answer) -> Observation:
    # What a group is called says nothing, so the names of the two are in different orders.
    probes = {
        "two merged groups": ([0, 0, 0, 0, 4, 4, 4, 7], [5, 5, 2, 2, 4, 4, 0, 7]),
        "a group cut in two": ([0, 0, 2, 2, 2, 5, 6, 6, 8], [9, 9, 9, 9, 9, 5, 5, 7, 0]),
    }
    seen = {}
    for name, (found, true) in probes.items():
        order = randn(len(true), seed=1).argsort() if draw() else torch.arange(len(true))
        out = answer(torch.tensor(found)[order], torch.tensor(true)[order])
        out = [] if isinstance(out, str | dict) else as_tensor(out).flatten()
        if len(out) != 2:
            raise Mistaken("not-two", "it has to return two numbers: (precision, recall)")
        precision, recall = out
        seen[f"precision and recall of {name}"] = torch.tensor([float(precision), float(recall)])
    return seen


PAIR_SCORES = Exercise(
    name="pair_scores",
    chapter="curating-data",
    call="pair_scores(found, true)",
    task="`found` (n,), the component of each image, and `true` (n,), its true group, both "
    "integers, to a pair (precision, recall) of unordered pairs of different images: of the"
    " pairs found together the share that belong together, and of the pairs that belong "
    "together the share found together.",
    solution=_right_pair_scores,
    variant=_pair_scores,
    observe=_observe_pair_scores,
    checked="groups that were merged, and a group that was cut",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "swapped",
            "precision and recall have changed places; precision divides by the pairs found",
            {"swapped": True},
        ),
        Mistake(
            "with-itself",
            "each image counts as a pair with itself, which is always found; leave the diagonal "
            "out",
            {"own": True},
            {"own": "once"},
        ),
        Mistake(
            "by-group",
            "this is a share of each group, or of the groups; count pairs over all of them",
            {"over": "groups"},
            {"over": "purity"},
            {"over": "whole groups"},
        ),
        Mistake(
            "labels-compared",
            "the labels are compared image by image; only who is together with whom matters, not "
            "what a group is called",
            {"over": "labels"},
        ),
        Mistake(
            "agreement",
            "pairs that are rightly apart count too; nearly all pairs are apart, so this is near "
            "1 whatever was found",
            {"over": "all"},
        ),
        Mistake(
            "images",
            "this counts images that were removed; count pairs of images",
            {"over": "removed"},
        ),
    ),
)


def _shares(
    sizes: Tensor,
    total: int,
    *,
    rule: str = "even",
    rest: str = "largest",
) -> Tensor:
    total = min(int(total), int(sizes.sum()))
    if rule == "proportional":
        return sizes * total // sizes.sum()
    if rule == "uncapped":
        return torch.full_like(sizes, total // len(sizes))
    if rule == "capped":
        return sizes.clamp(max=total // len(sizes))
    if rule == "smallest first":
        order = sizes.argsort(stable=True)
        before = sizes[order].cumsum(0) - sizes[order]
        shares = torch.empty_like(sizes)
        shares[order] = torch.minimum(sizes[order], (total - before).clamp(min=0))
        return shares
    limit = max(
        (limit for limit in range(total + 1) if sizes.clamp(max=limit).sum() <= total), default=0
    )
    shares = sizes.clamp(max=limit)
    left = total - int(shares.sum())
    if rest == "largest" and left:
        shares[sizes.argsort(stable=True)[-left:]] += 1
    elif rest == "one":
        shares[sizes.argmax()] += left
    return shares


def _right_shares(sizes: Tensor, total: int) -> Tensor:
    return torch.from_numpy(even_shares(sizes.numpy(), total))


def _observe_shares(answer: Answer) -> Observation:
    sizes = torch.tensor([100, 4, 37, 12, 61]).roll(draw())
    totals = (13, 68, 120, 1000, 14 + draw() % 50)
    return {f"the shares of {total}": answer.tensor(sizes, total) for total in totals}


EVEN_SHARES = Exercise(
    name="even_shares",
    chapter="curating-data",
    call="even_shares(sizes, total)",
    task="`sizes` (G,), the numbers of images in the clusters, and an integer `total` to shares "
    "(G,), whole numbers that sum to total, or to all images if there are fewer: all shares"
    " alike, but none above its cluster's size; what small clusters cannot use goes to the "
    "others, and single images that are left go one each to the largest clusters.",
    solution=_right_shares,
    variant=_shares,
    observe=_observe_shares,
    checked="four budgets, from less than everybody's size to more than there is",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "proportional",
            "the shares are proportional to the sizes, which keeps the imbalance as it was",
            {"rule": "proportional"},
        ),
        Mistake(
            "above-the-size",
            "a cluster gives more images than it has; no share is above its size",
            {"rule": "uncapped"},
        ),
        Mistake(
            "not-handed-on",
            "what small clusters cannot use is lost; it goes to the others",
            {"rule": "capped"},
        ),
        Mistake(
            "smallest-first",
            "the small clusters are used up before a large one gives anything; all give alike "
            "until one is empty",
            {"rule": "smallest first"},
        ),
        Mistake(
            "remainder-lost",
            "the images that do not divide evenly are lost; they go one each to the largest "
            "clusters",
            {"rest": "lost"},
        ),
        Mistake(
            "remainder-to-one",
            "all images that do not divide evenly come from one cluster; take one each from the "
            "largest",
            {"rest": "one"},
        ),
    ),
)

EXERCISES = (COMPONENTS, PAIR_SCORES, EVEN_SHARES)
