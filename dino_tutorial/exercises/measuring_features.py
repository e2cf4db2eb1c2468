"""Measuring: the k-nearest-neighbour vote, average precision."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.evaluation import knn_classify, retrieval_map
from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    draw,
    randn,
    vary,
)


def _knn(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    k: int,
    temperature: float,
    *,
    unit: tuple[str, ...] = ("train", "test"),
    axis: int = -1,
    weights: str = "exp",
    neighbours: str = "k",
    largest: bool = True,
) -> Tensor:
    bank = F.normalize(train_x, dim=axis) if "train" in unit else train_x
    queries = F.normalize(test_x, dim=axis) if "test" in unit else test_x
    similarity = queries @ bank.T
    if weights == "distance":
        similarity = -torch.cdist(queries, bank)
    count = {"k": k, "all": len(bank), "one": 1, "more": k + 1, "fewer": k - 1}[neighbours]
    found, index = similarity.topk(count, dim=1, largest=largest)
    weight = {
        "exp": (found / temperature).exp(),
        "distance": (found / temperature).exp(),
        "multiplied": (found * temperature).exp(),
        "none": found.exp(),
        "equal": torch.ones_like(found),
        "linear": found,
    }[weights]
    votes = torch.zeros(len(queries), int(train_y.max()) + 1)
    return votes.scatter_add_(1, train_y[index], weight)


def _observe_knn(answer: Answer) -> Observation:
    seen = {}
    probes = (40, 7, 0.5, 4), (25, 5, *vary(0.2), 3), (30, 4, 0.1, 5), (9, 8, 0.6, 6 + draw() % 3)
    for n, k, temperature, classes in probes:
        lengths = torch.linspace(0.3, 2, n)[:, None]
        train_x, test_x = lengths * randn(n, 5, seed=n), randn(8, 5, seed=n + 1, scale=0.7)
        train_y = randn(n, seed=n + 2).argsort() % classes
        if classes >= 5:  # a class that nobody has, in between, or two
            train_y[(train_y == 2) | (train_y == classes - 2)] = classes - 1
        votes = answer.tensor(train_x, train_y, test_x, k, temperature)
        if votes.ndim == 1 and len(votes) == len(test_x):
            raise Mistaken("classes", "it returns classes; return the votes (n_test, C)")
        if votes.shape != (len(test_x), classes):
            raise Mistaken(
                "shape", f"it returns shape {tuple(votes.shape)}, not (n_test, C) = (8, {classes})"
            )
        seen[f"the votes for k = {k}, row by row over their sum"] = _over_sum(votes)
    return seen


def _over_sum(votes: Tensor) -> Tensor:
    """What of votes counts: a row may be scaled by any positive number."""
    return votes.double() / votes.double().abs().sum(dim=-1, keepdim=True)


KNN_CLASSIFY = Exercise(
    name="knn_classify",
    chapter="measuring-features",
    call="knn_classify(train_x, train_y, test_x, k, temperature)",
    task="a bank `train_x` (N, D) with its classes `train_y` (N,), integers, queries `test_x` "
    "(n_test, D), an integer `k` and a float `temperature` τ to votes (n_test, C) with C = "
    "train_y.max() + 1, also where a class is missing in between: each of the k vectors of "
    "the bank with the largest cosine adds exp(cosine / τ) to its class. A row may be "
    "scaled by any positive number.",
    solution=knn_classify,
    variant=_knn,
    observe=_observe_knn,
    checked="the votes for two banks, rows scaled to sum 1",
    form=_over_sum,
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "not-normalised",
            "the features are not scaled to length one; the similarity is the cosine",
            {"unit": ()},
        ),
        Mistake(
            "one-normalised",
            "only one of bank and queries is scaled to length one; both have to be",
            {"unit": ("train",)},
            {"unit": ("test",)},
        ),
        Mistake(
            "wrong-axis",
            "the lengths are taken over the images and not over the features of each; "
            "normalise with `dim=-1`",
            {"axis": 0},
        ),
        Mistake(
            "temperature-multiplied",
            "the similarities are multiplied by the temperature; divide them",
            {"weights": "multiplied"},
        ),
        Mistake(
            "temperature-missing",
            "the similarities are not divided by the temperature",
            {"weights": "none"},
        ),
        Mistake(
            "unweighted",
            "all neighbours vote alike; the weight of one is exp(cosine / temperature)",
            {"weights": "equal"},
        ),
        Mistake(
            "linear-weights",
            "a neighbour's weight is its cosine; it is exp(cosine / temperature)",
            {"weights": "linear"},
        ),
        Mistake(
            "distances",
            "this weighs by distance; use the cosine similarity",
            {"weights": "distance"},
        ),
        Mistake(
            "all-vote",
            "the whole bank votes; only the k most similar do",
            {"neighbours": "all"},
        ),
        Mistake(
            "one-votes",
            "only the nearest neighbour votes; k of them do",
            {"neighbours": "one"},
        ),
        Mistake(
            "neighbours-miscounted",
            "one neighbour too many votes, or one too few; k of them do",
            {"neighbours": "more"},
            {"neighbours": "fewer"},
        ),
        Mistake(
            "farthest",
            "these are the least similar ones; take the k largest cosines",
            {"largest": False},
        ),
    ),
)


def _retrieval_map(
    features: Tensor,
    labels: Tensor,
    *,
    unit: bool = True,
    itself: bool = False,
    sign: int = 1,
    ties: str = "together",
    over: str = "hits",
    measure: str = "precision",
    pooled: bool = False,
) -> float:
    x = F.normalize(features, dim=-1) if unit else features
    similarity = sign * (x @ x.T)
    ranked = ~torch.eye(len(x), dtype=torch.bool) | itself  # (query, image)
    right = (labels[:, None] == labels) & ranked
    i, j = similarity[:, :, None], similarity[:, None]  # above: image j is not below image i
    before = torch.ones(len(x), len(x), dtype=torch.bool).tril()  # j is stored before i
    above = (i <= j if ties == "together" else (i < j) | ((i == j) & before)) & ranked[:, None]
    found = (above & right[:, None]).sum(dim=-1)
    if measure == "recall":
        value = found / right.sum(dim=1, keepdim=True)
    else:
        value = found / above.sum(dim=-1).clamp(min=1)  # none is above the query itself
    if over == "first":
        first = similarity.masked_fill(~ranked, -torch.inf).argmax(dim=1, keepdim=True)
        return right.gather(1, first).float().mean().item()
    counted = right if over == "hits" else ranked
    if pooled:
        return value[counted].mean().item()
    return ((value * counted).sum(dim=1) / counted.sum(dim=1)).mean().item()


def _observe_map(answer: Answer) -> Observation:
    # Along two axes, to and fro: equal cosines are equal however they are computed.
    signs = 2 * (randn(9, 1, seed=5) > 0).float() - 1
    along = signs * torch.eye(2)[(randn(9, seed=8) > 0).long()]
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    classes = classes[randn(9, seed=7).argsort()] if draw() else classes
    lengths = torch.linspace(0.3, 2, 9)[:, None]
    return {
        "the mean average precision of 9 images": answer.number(
            lengths * randn(9, 5, seed=6), classes
        ),
        "the mean average precision with ties": answer.number(along, classes),
    }


RETRIEVAL_MAP = Exercise(
    name="retrieval_map",
    chapter="measuring-features",
    call="retrieval_map(features, labels)",
    task="`features` (Q, D) and classes `labels` (Q,) to the mean average precision by cosine, "
    "one number: each image ranks all others. The precision at an image is taken over *all*"
    " the others that are at least as similar to the query, equally similar ones included; "
    "it is averaged over the images of the query's class, and then over the queries.",
    solution=retrieval_map,
    variant=_retrieval_map,
    observe=_observe_map,
    checked="the value for two sets of images, one of them full of ties",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "query-in-gallery",
            "the query is in its own ranking, always first and always right; leave it out",
            {"itself": True},
        ),
        Mistake(
            "not-normalised",
            "the features are not scaled to length one; the similarity is the cosine",
            {"unit": False},
        ),
        Mistake(
            "reversed",
            "the ranking begins with the least similar image",
            {"sign": -1},
        ),
        Mistake(
            "ties-in-stored-order",
            "equally similar images are ranked as they happen to be stored; the precision at an "
            "image is among all that are at least as similar",
            {"ties": "stored"},
        ),
        Mistake(
            "every-rank",
            "the precision is averaged over all ranks; only those of the right images count",
            {"over": "all"},
        ),
        Mistake(
            "first-only",
            "this is the share of queries whose first image is right; all right images count",
            {"over": "first"},
        ),
        Mistake(
            "recall",
            "this averages the recall at the right images, which depends on their number alone; "
            "divide by how many images are at least as similar",
            {"measure": "recall"},
        ),
        Mistake(
            "pooled",
            "all right images of all queries are averaged at once, so that a large class counts "
            "for more; average in each query first",
            {"pooled": True},
        ),
    ),
)

EXERCISES = (KNN_CLASSIFY, RETRIEVAL_MAP)
