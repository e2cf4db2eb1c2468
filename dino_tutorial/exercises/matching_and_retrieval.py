"""Matching and retrieval: mutual partners, and where a place lies in a crop that was enlarged."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.evaluation import mutual_matches
from dino_tutorial.exercises.exercise import Answer, Exercise, Mistake, Observation, draw, randn

CHAPTER = "matching-and-retrieval"


def _mutual_partners(
    first: Tensor,
    second: Tensor,
    *,
    similarity: str = "cosine",
    mutual: bool = True,
    nearest: bool = True,
    unmatched: str = "-1",
) -> Tensor:
    if similarity == "cosine":
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    scores = first @ second.T
    if not nearest:
        scores = -scores
    there = scores.argmax(dim=1)
    if not mutual:
        return there
    back = scores.argmax(dim=0)[there]
    agreed = back == torch.arange(len(first))
    if unmatched == "dropped":
        return there[agreed]
    return torch.where(agreed, there, -1 if unmatched == "-1" else 0)


def _observe_mutual_partners(answer: Answer) -> Observation:
    seen = {}
    for n, m in ((9, 14), (12, 7)):
        first = torch.linspace(0.3, 2, n)[:, None] * randn(n, 4, seed=n)
        second = torch.linspace(2, 0.2, m)[:, None] * randn(m, 4, seed=m)
        seen[f"the partners of {n} patches among {m}"] = answer.tensor(first, second)
    return seen


MUTUAL_PARTNERS = Exercise(
    name="mutual_partners",
    chapter=CHAPTER,
    call="mutual_partners(first, second)",
    task="patches `first` (N, D) of one image and `second` (M, D) of another to integers (N,): "
    "for each patch of the first the index of the patch of the second with the largest "
    "cosine, or −1 if that one has a larger cosine with another patch of the first.",
    solution=lambda first, second: mutual_matches(first[None], second[None]).partner[0],
    variant=_mutual_partners,
    observe=_observe_mutual_partners,
    checked="more patches in the second image, and fewer",
    mistakes=(
        Mistake(
            "not-normalised",
            "the patches are not scaled to length one; the similarity is the cosine",
            {"similarity": "dot"},
        ),
        Mistake(
            "one-way",
            "every patch gets a partner; it has one only if the choice is mutual",
            {"mutual": False},
        ),
        Mistake("farthest", "these are the least similar patches", {"nearest": False}),
        Mistake(
            "no-mark",
            "a patch without a partner gets 0, which is a patch of the second image; use -1",
            {"unmatched": "0"},
        ),
        Mistake(
            "dropped",
            "patches without a partner are left out, so that nobody knows whose partners these "
            "are; keep one entry a patch, with -1",
            {"unmatched": "dropped"},
        ),
    ),
)


def _places_after(
    places: Tensor,
    side: int,
    mirror: bool,
    *,
    corner: float = 1 / 8,
    zoom: float = 4 / 3,
    mirrored: str = "columns",
    whole: bool = False,
    cut: bool = False,
) -> Tensor:
    moved = (places - (int(corner * side) if whole else corner * side)) * zoom
    rows, columns = moved[:, 0], moved[:, 1]
    mirrors = {"always": True, "unless": not mirror, "columns": mirror, "index": mirror}
    if mirrors.get(mirrored):
        columns = side - (mirrored == "index") - columns
    if mirror and mirrored == "rows":
        rows = side - rows
    if mirror and mirrored == "around 0":
        columns = -columns
    places = torch.stack([rows, columns], dim=1)
    return places.clamp(0, side) if cut else places


def _observe_places_after(answer: Answer) -> Observation:
    seen = {}
    for n, side in ((7, 64), (5, 96), (6, 45 + draw() % 40)):
        places = side * (0.5 + 0.15 * randn(n, 2, seed=n))
        places[:2] = side * torch.tensor([[0.02, 0.6], [0.4, 0.97]])  # outside of the crop
        for mirror in (False, True):
            how = "mirrored" if mirror else "not mirrored"
            seen[f"{n} places in {side} pixels, {how}"] = answer.tensor(places, side, mirror)
    return seen


PLACES_AFTER = Exercise(
    name="places_after",
    chapter=CHAPTER,
    call="places_after(places, side, mirror)",
    task="`places` (N, 2), row and column in pixels of N points of a square image, real numbers "
    "from 0 at one edge to `side` at the other, the image's `side` in pixels and a boolean "
    "`mirror` to (N, 2): row and column of these points after the middle three quarters of each "
    "side have been enlarged to `side` pixels and, if `mirror`, left and right have been "
    "exchanged. Points outside stay in the result.",
    solution=_places_after,
    variant=_places_after,
    observe=_observe_places_after,
    checked="two sizes of image, mirrored and not, with points inside and outside of the crop",
    mistakes=(
        Mistake(
            "not-enlarged",
            "the crop's corner is subtracted and nothing is enlarged; three quarters of the side "
            "become the whole",
            {"zoom": 1.0},
        ),
        Mistake(
            "shrunk",
            "distances become smaller; what is enlarged has to be divided by three quarters",
            {"zoom": 3 / 4},
        ),
        Mistake(
            "other-zoom",
            "the crop is enlarged by another factor than 4 / 3; three quarters become the whole",
            {"zoom": 5 / 4},
            {"zoom": 16 / 9},
            {"zoom": 3 / 2},
            {"zoom": 2.0},
        ),
        Mistake(
            "no-corner",
            "the crop does not begin at the image's corner; subtract an eighth of the side first",
            {"corner": 0.0},
        ),
        Mistake(
            "wrong-corner",
            "a quarter of the side is cut off on each side; it is an eighth on each, a quarter in "
            "all",
            {"corner": 1 / 4},
        ),
        Mistake(
            "rows-mirrored",
            "top and bottom are exchanged; mirroring exchanges columns",
            {"mirrored": "rows"},
        ),
        Mistake(
            "around-zero",
            "mirrored columns are negative; a column c becomes side − c",
            {"mirrored": "around 0"},
        ),
        Mistake("never-mirrored", "`mirror` changes nothing", {"mirrored": "no"}),
        Mistake(
            "always-mirrored",
            "the columns are exchanged whatever `mirror` says",
            {"mirrored": "always"},
        ),
        Mistake(
            "mirrored-the-other-way",
            "the columns are exchanged where `mirror` is False, and not where it is True",
            {"mirrored": "unless"},
        ),
        Mistake(
            "mirrored-by-index",
            "mirrored columns are one pixel off: places are no indices of pixels, and the edge at "
            "0 goes to the edge at `side`; a column c becomes side − c, not side − 1 − c",
            {"mirrored": "index"},
        ),
        Mistake(
            "corner-rounded",
            "the corner of the crop is rounded to whole pixels; it lies at an eighth of the side, "
            "whatever that is",
            {"whole": True},
        ),
        Mistake(
            "cut-off",
            "places outside of the crop are moved to its edge; they stay where they are",
            {"cut": True},
        ),
    ),
)

EXERCISES = (MUTUAL_PARTNERS, PLACES_AFTER)
