"""Weighted k-nearest-neighbour classification of frozen features.

Nothing is trained, so nothing can be tuned by accident: what k-NN reaches is what the features
hold. The protocol is that of Wu et al. 2018 (section 3.4) as DINO uses it: cosine similarity,
k = 20, temperature 0.07.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.inputs import MOST_CLASSES, as_features, as_labels, check_classes
from dino_tutorial.options import array, number, numbers, takes, whole

CHUNK_ENTRIES = 2**24  # similarities held at once: 64 MiB in float32
BANK_CHUNK = 2**16  # features of the bank that are compared with at once


@takes(
    finite=True,
    train_x=array("N D"),
    train_y=array("N"),
    test_x=array("n D"),
    k=whole(low=-(2**31)),
    temperature=number(0, 1e6, above=True),
    n_classes=whole(1, MOST_CLASSES, none=True),
)
@torch.no_grad()
def knn_classify(
    train_x: Float[Tensor, "N D"],
    train_y: Int[Tensor, " N"],
    test_x: Float[Tensor, "n D"],
    k: int = 20,
    temperature: float = 0.07,
    n_classes: int | None = None,
) -> Float[Tensor, "n C"]:
    """Let the k most similar training features vote on the class of each test feature.

    A neighbour with cosine similarity s votes with weight exp(s / temperature). The votes of a
    test feature are divided by their sum, which changes no decision and cannot overflow.

    Args:
        train_x: (N, D) features of the bank; any scale, they are L2-normalised here.
        train_y: (N,) int64 classes from 0.
        test_x: (n_test, D).
        k: number of neighbours, at most N.
        temperature: small values trust the nearest neighbours, large ones all k alike.
        n_classes: C; by default the largest class of the bank plus 1.

    Returns:
        Votes (n_test, C) on the device of ``test_x``, each row summing to 1.

    Raises:
        UserError: if k is not in 1..N, the temperature is not positive, a label lies outside
            0..C−1, or shapes or values do not fit.
    """
    train_x, train_y = as_features(train_x, "training features"), as_labels(train_y)
    n_classes = _check_labels(train_x, train_y, n_classes)
    similarity, index = top_neighbours(train_x, test_x, k)
    return vote(similarity, train_y.to(index.device)[index], temperature, n_classes)


@takes(
    finite=True,
    train_x=array("N D"),
    train_y=array("N"),
    test_x=array("n D"),
    test_y=array("n"),
    ks=numbers(whole()),
    temperature=number(0, 1e6, above=True),
)
def knn_accuracies(
    train_x: Float[Tensor, "N D"],
    train_y: Int[Tensor, " N"],
    test_x: Float[Tensor, "n D"],
    test_y: Int[Tensor, " n"],
    ks: Sequence[int],
    temperature: float = 0.07,
) -> dict[int, float]:
    """Top-1 accuracy of :func:`knn_classify` for several k, looking for neighbours only once."""
    train_x, train_y = as_features(train_x, "training features"), as_labels(train_y)
    n_classes = _check_labels(train_x, train_y, None)
    similarity, index = top_neighbours(train_x, test_x, max(ks))
    classes = train_y.to(index.device)[index]
    return {
        k: accuracy(vote(similarity[:, :k], classes[:, :k], temperature, n_classes), test_y)
        for k in ks
    }


def vote(
    similarity: Float[Tensor, "n k"],
    classes: Int[Tensor, "n k"],
    temperature: float,
    n_classes: int,
) -> Float[Tensor, "n C"]:
    """Votes (n, C) from the similarities (n, k) and classes (n, k) of each one's neighbours."""
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}: use a positive one, such as 0.07")
    weight = (similarity / temperature).softmax(dim=1)
    votes = weight.new_zeros(len(weight), n_classes)
    return votes.scatter_add_(1, classes, weight)


@takes(votes=array("n C"), labels=array("n"), topk=whole(low=-(2**31)))
def accuracy(votes: Float[Tensor, "n C"], labels: Int[Tensor, " n"], topk: int = 1) -> float:
    """The fraction of rows whose label is among the ``topk`` classes with most votes.

    A class without a single vote is not among them, even where fewer than ``topk`` have some.

    Args:
        votes: (n, C), or logits (any of which is below 0) or probabilities.
        labels: (n,) int64 from 0.
        topk: 1 for top-1 accuracy; at most C.
    """
    votes, labels = as_features(votes, "votes"), as_labels(labels)
    if votes.ndim != 2 or labels.ndim != 1:
        raise UserError(
            f"accuracy needs votes (n, C) and labels (n,), not {tuple(votes.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if len(votes) != len(labels) or len(labels) == 0:
        raise UserError(
            f"accuracy needs one label a row, and a row: got {len(votes)} rows of votes and "
            f"{len(labels)} labels"
        )
    if votes.isnan().any():
        raise UserError("votes hold NaN: what gave them has diverged, so no place is the first")
    if not 1 <= topk <= votes.shape[1]:
        raise UserError(f"topk is {topk}, but there are {votes.shape[1]} classes: use 1 to that")
    if int(labels.min()) < 0:
        raise UserError(
            "some test images have no label (−1), so no answer is right: leave them out"
        )
    best = votes.topk(topk, dim=1).indices
    right = best == labels.to(best.device)[:, None]
    if (votes >= 0).all():
        right &= votes.gather(1, best) > 0
    hits = right.any(dim=1)
    return int(hits.sum()) / len(hits)


@takes(finite=True, features=array("N D"), queries=array("q D"), k=whole(low=-(2**31)))
def nearest_neighbours(
    features: Float[Tensor, "N D"], queries: Float[Tensor, "q D"], k: int
) -> Int[Tensor, "q k"]:
    """The k features most similar to each query by cosine, most similar first.

    Args:
        features: (N, D), the bank.
        queries: (q, D). A query that is itself in the bank finds itself first.
        k: at most N.

    Returns:
        Indices (q, k) into ``features``, int64.
    """
    return top_neighbours(features, queries, k)[1]


@torch.no_grad()
def top_neighbours(
    features: Float[Tensor, "N D"], queries: Float[Tensor, "q D"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Cosine similarities and indices, both (q, k), of each query's nearest features.

    The similarity matrix is never held whole: bank and queries are taken in chunks, so 64 MiB of
    similarities are enough for any number of either, and two queries work as well as 10,000. The
    bank may lie on the host and the queries on a device: it then visits the device part by part.
    """
    features, queries = as_features(features), as_features(queries, "queries")
    check_features(features, queries)
    if not 1 <= k <= len(features):
        raise UserError(
            f"k = {k} neighbours from a bank of {len(features)} images: "
            f"use a k from 1 to {len(features)}"
        )
    best: list[tuple[Tensor, Tensor]] = []
    at_once = max(1, CHUNK_ENTRIES // min(len(features), BANK_CHUNK))
    for first, part in zip(
        range(0, len(features), BANK_CHUNK), features.split(BANK_CHUNK), strict=True
    ):
        bank = F.normalize(part.to(queries.device).float(), dim=1).T
        found = []
        for chunk in queries.split(at_once):
            similarity = F.normalize(chunk.float(), dim=1) @ bank
            values, places = similarity.topk(min(k, len(part)), dim=1)
            found.append((values, places + first))
        best = [_nearer(a, b, k) for a, b in zip(best, found, strict=True)] if first else found
    similarity, index = (torch.cat(parts) for parts in zip(*best, strict=True))
    return similarity, index


def _nearer(
    one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """The k best of two lists of similarities and indices, each (q, at most k)."""
    similarity, index = (torch.cat(pair, dim=1) for pair in zip(one, two, strict=True))
    similarity, places = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return similarity, index.gather(1, places)


def check_features(features: Tensor, queries: Tensor) -> None:
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1]:
        raise UserError(
            "features and queries must be (N, D) and (n, D) with one D, not "
            f"{tuple(features.shape)} and {tuple(queries.shape)}"
        )
    if len(queries) == 0:
        raise UserError("there are no queries: the test set is empty")
    if not (features.isfinite().all() and queries.isfinite().all()):
        raise UserError("features hold NaN or infinity: the encoder that made them has diverged")


def _check_labels(train_x: Tensor, train_y: Tensor, n_classes: int | None) -> int:
    """Return C after making sure that every label lies in 0..C−1."""
    if train_y.shape != (len(train_x),) or len(train_y) == 0:
        raise UserError(
            f"{len(train_x)} training features need as many labels, "
            f"not a tensor of shape {tuple(train_y.shape)}"
        )
    low, high = int(train_y.min()), int(train_y.max())
    check_classes(high + 1)
    n_classes = high + 1 if n_classes is None else n_classes
    if low < 0:
        raise UserError("some training images have no label (−1): leave them out of the bank")
    if high >= n_classes:
        raise UserError(f"a training label is {high}, but n_classes is {n_classes}")
    return n_classes
