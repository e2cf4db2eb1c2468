"""Finding images by their features: retrieval by class, and which pairs are copies.

Similarity is the cosine everywhere. Ties, which collapsed features make in plenty, count as one
rank and against the features, as scikit-learn counts them: the order in which images happen to
be stored changes no score.

What no feature has to learn is measured by the same functions: pass ``pixel_features``,
``color_histogram`` or an untrained encoder's features instead.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.inputs import as_features, as_labels
from dino_tutorial.evaluation.knn import check_features
from dino_tutorial.options import array, number, numbers, takes, whole

CHUNK_ENTRIES = 2**22  # similarities sorted at once


@takes(
    finite=True,
    queries=array("Q D"),
    query_labels=array("Q"),
    gallery=array("N D", none=True),
    gallery_labels=array("N", none=True),
)
@torch.no_grad()
def retrieval_map(
    queries: Float[Tensor, "Q D"],
    query_labels: Int[Tensor, " Q"],
    gallery: Float[Tensor, "N D"] | None = None,
    gallery_labels: Int[Tensor, " N"] | None = None,
) -> float:
    """Mean average precision of ranking a gallery by its similarity to each query.

    The average precision of a query is the mean, over the images of its label, of the precision
    among everything at least as similar as that image. Features without any information reach
    about the label's share of the gallery.

    Args:
        queries: (Q, D) features; any scale, they are L2-normalised here.
        query_labels: (Q,) int64. Images with one label are what should be found: a class, a
            landmark, an original and its copies. −1 means none: such a query is left out, such
            a gallery image only distracts.
        gallery: (N, D). Without it the queries are the gallery, and each query is left out of
            its own ranking.
        gallery_labels: (N,) int64.

    Returns:
        The mean over all queries that have anything to find, in 0..1.

    Raises:
        UserError: if no query has anything to find, or shapes or values do not fit.

    Source: the metric of Oxford and Paris buildings (Philbin et al. 2007; Radenović et al. 2018),
    which DINO reports in section 4.2.1; equal to scikit-learn's ``average_precision_score``.
    """
    total = count = 0
    for hits, tied in _rankings(queries, query_labels, gallery, gallery_labels):
        found = hits.cumsum(dim=1)
        precision = found.gather(1, tied) / (tied + 1)
        positives = found[:, -1]
        average = (precision * hits).sum(dim=1) / positives.clamp_min(1)
        total += average.sum().double()
        count += (positives > 0).sum()
    return float(total) / _counted(int(count))


@takes(
    finite=True,
    queries=array("Q D"),
    query_labels=array("Q"),
    gallery=array("N D", none=True),
    gallery_labels=array("N", none=True),
    ks=numbers(whole()),
)
@torch.no_grad()
def recall_at(
    queries: Float[Tensor, "Q D"],
    query_labels: Int[Tensor, " Q"],
    gallery: Float[Tensor, "N D"] | None = None,
    gallery_labels: Int[Tensor, " N"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[int, float]:
    """The share of queries with at least one right image among their k most similar.

    An image counts as one of the k only if at most k are at least as similar.

    Args:
        queries, query_labels, gallery, gallery_labels: as for :func:`retrieval_map`.
        ks: numbers of images looked at.

    Returns:
        ``{k: R@k in 0..1}`` over the queries that have anything to find.

    Raises:
        UserError: as :func:`retrieval_map`, or if a k is not positive.
    """
    if min(ks) < 1:
        raise UserError(f"recall among the {min(ks)} most similar images: use a k from 1")
    within, count = dict.fromkeys(ks, 0), 0
    for hits, tied in _rankings(queries, query_labels, gallery, gallery_labels):
        first = torch.where(hits, tied, hits.shape[1]).amin(dim=1)  # (q,) rank from 0
        for k in ks:
            within[k] += (first < k).sum()
        count += hits.any(dim=1).sum()
    return {k: int(hit) / _counted(int(count)) for k, hit in within.items()}


@takes(
    finite=True,
    queries=array("Q D"),
    query_sources=array("Q"),
    gallery=array("N D", none=True),
    gallery_sources=array("N", none=True),
    precision=number(-1e9, 1e9),
)
@torch.no_grad()
def copy_detection(
    queries: Float[Tensor, "Q D"],
    query_sources: Int[Tensor, " Q"],
    gallery: Float[Tensor, "N D"] | None = None,
    gallery_sources: Int[Tensor, " N"] | None = None,
    precision: float = 0.9,
) -> dict[str, float]:
    """Can one threshold on the similarity tell pairs of copies from all other pairs?

    Every pair of a query and a gallery image is a candidate and gets its similarity as score.
    Unlike the mean average precision, this asks that scores of different queries compare.

    Args:
        queries: (Q, D) features; any scale.
        query_sources: (Q,) int64. Two images are copies if they have the same source; −1 means
            that the image is a copy of none.
        gallery: (N, D); without it all pairs of two different queries are the candidates.
        gallery_sources: (N,) int64.
        precision: of ``recall_at_precision``, above 0 and up to 1.

    Returns:
        ``auc``, the probability that a pair of copies is more similar than another pair;
        ``average_precision`` over all pairs (micro-AP); ``recall_at_precision``, the largest
        share of the copies found by a threshold of at least that precision; ``threshold``, the
        similarity at which it is reached (NaN if no threshold is precise enough); and
        ``chance``, the share of copies among the pairs, which is the average precision of
        scores without information.

    Raises:
        UserError: if there are no copies, or nothing but copies, or shapes or values do not fit.

    Source: the measures of the Image Similarity Challenge (Douze et al. 2021, section 4).
    """
    if not 0 < precision <= 1:
        raise UserError(f"precision is {precision}: use a part above 0 and up to 1")
    arguments = (queries, query_sources, gallery, gallery_sources)
    copies = torch.cat([scores[hits] for scores, hits in _similarities(*arguments)])
    copies = copies.sort().values  # (P,), each of them a threshold
    n_pairs = len(queries) * (len(queries) - 1 if gallery is None else len(gallery))
    n_others = n_pairs - len(copies)
    if len(copies) == 0 or n_others == 0:
        raise UserError(
            f"{len(copies)} of {n_pairs} pairs are copies: detection needs copies and other pairs"
        )
    at_least = torch.zeros_like(copies, dtype=torch.int64)  # pairs at or above each threshold
    above = torch.zeros_like(at_least)
    for scores, _ in _similarities(*arguments):
        at_least += _reaching(copies, scores, right=True)
        above += _reaching(copies, scores, right=False)
    copies_at_least = _reaching(copies, copies, right=True)
    others_at_least = at_least - copies_at_least
    others_above = above - _reaching(copies, copies, right=False)
    precisions = copies_at_least.double() / at_least
    enough = (precisions >= precision).nonzero()  # the lowest such threshold finds the most
    best = int(enough[0]) if len(enough) else None
    return {
        "auc": 1 - float((others_at_least + others_above).double().mean()) / (2 * n_others),
        "average_precision": float(precisions.mean()),
        "recall_at_precision": 0.0 if best is None else int(copies_at_least[best]) / len(copies),
        "threshold": float("nan") if best is None else float(copies[best]),
        "chance": len(copies) / n_pairs,
    }


def _reaching(thresholds: Tensor, scores: Tensor, right: bool) -> Tensor:
    """How many scores reach (``right``) or exceed each of the ascending thresholds (P,)."""
    place = torch.searchsorted(thresholds, scores.flatten(), right=right)
    counts = torch.bincount(place, minlength=len(thresholds) + 1)
    return counts.flip(0).cumsum(0).flip(0)[1:]


def _rankings(*arguments: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks (q, N) of :func:`_similarities`, most similar first.

    Of each place in the ranking: whether the image there is right, and the last place, from 0,
    with the same similarity.
    """
    for scores, hits in _similarities(*arguments):
        scores, order = scores.sort(dim=1, descending=True)
        place = torch.arange(scores.shape[1], device=scores.device)
        ends = F.pad(scores[:, :-1] != scores[:, 1:], (0, 1), value=True)
        tied = torch.where(ends, place, len(place)).flip(1).cummin(dim=1).values.flip(1)
        yield hits.gather(1, order), tied


def _similarities(
    queries: Tensor, query_labels: Tensor, gallery: Tensor | None, gallery_labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks (q, N): cosines, and which images share the query's label.

    A query that is itself in the gallery has the similarity −∞ to itself and is not right.
    """
    itself = gallery is None
    if itself and gallery_labels is not None:
        raise UserError("labels of a gallery were given without one: pass its features as gallery")
    queries = as_features(queries, "queries")
    query_labels = None if query_labels is None else as_labels(query_labels)
    if not itself:
        gallery = as_features(gallery, "features of the gallery")
        gallery_labels = None if gallery_labels is None else as_labels(gallery_labels)
    if itself:
        gallery, gallery_labels = queries, query_labels
    check_features(gallery, queries)
    for name, x, y in (("query", queries, query_labels), ("gallery", gallery, gallery_labels)):
        if y is None or y.shape != (len(x),):
            given = "none" if y is None else f"a tensor of shape {tuple(y.shape)}"
            raise UserError(f"{len(x)} {name} features need as many labels, not {given}")
    bank = F.normalize(gallery.to(queries.device).float(), dim=1).T
    labels = gallery_labels.to(queries.device)
    size = max(1, CHUNK_ENTRIES // max(1, len(gallery)))
    for indices in torch.arange(len(queries), device=queries.device).split(size):
        scores = F.normalize(queries[indices].float(), dim=1) @ bank
        wanted = query_labels.to(queries.device)[indices, None]
        hits = (wanted == labels) & (wanted >= 0)
        if itself:
            rows = torch.arange(len(indices), device=queries.device)
            scores[rows, indices] = -torch.inf
            hits[rows, indices] = False
        yield scores, hits


def _counted(queries: int) -> int:
    if queries == 0:
        raise UserError("no query shares its label with any gallery image: nothing can be found")
    return queries
