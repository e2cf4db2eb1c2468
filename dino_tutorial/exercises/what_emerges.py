"""What emerges: masks from attention, their overlap with the truth, objects, followed labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.evaluation import attention_masks, jaccard
from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Observation,
    draw,
    randn,
    vary,
)

CHAPTER = "what-emerges"


def _attention_mask(
    attention: Tensor,
    mass: float,
    *,
    share: bool = True,
    rule: str = "mass",
    last: str = "kept",
    descending: bool = True,
    unsort: bool = True,
    together: bool = False,
) -> Tensor:
    if share:
        attention = attention / attention.sum(dim=-1, keepdim=True)
    if together:
        shape = attention.shape
        flat = attention.flatten()[None] / len(attention)
        return _attention_mask(flat, mass).view(shape)
    n_patches = attention.shape[-1]
    strongest, order = attention.sort(dim=-1, descending=descending)
    total = strongest.cumsum(dim=-1)
    kept = {
        "mass": (total - strongest < mass) if last == "kept" else (total < mass),
        "count": (torch.arange(n_patches) < round(mass * n_patches)).expand_as(total),
        "value": strongest > mass,
        "maximum": strongest > mass * strongest.amax(dim=-1, keepdim=True),
        "mean": strongest > strongest.mean(dim=-1, keepdim=True),
        "rest": total - strongest < 1 - mass,
        "from there on": total >= mass,
        "met": total - strongest <= mass,
        "at most": total <= mass,
    }[rule]
    return torch.zeros_like(kept).scatter(-1, order, kept) if unsort else kept


def _observe_attention_mask(answer: Answer) -> Observation:
    seen = {}
    for heads, n_patches, mass in ((1, 9, 0.6), (3, 25, 0.4), (2, 16, 0.9)):
        attention = 0.8 * randn(heads, n_patches + 1, seed=n_patches).softmax(dim=-1)[:, 1:]
        mask = answer.mask(attention, mass)
        seen[f"the mask for {heads} heads, {n_patches} patches and mass {mass}"] = mask
    # Shares of 1/2, 1/4, 1/8 …: two patches hold 3/4 to the last bit, and a third is too many.
    halves = torch.tensor([2.0, 8.0, 1.0, 4.0, 1.0]).roll(draw())[None] / 32
    seen["the mask where two patches hold exactly the mass"] = answer.mask(halves, 0.75)
    return seen


ATTENTION_MASK = Exercise(
    name="attention_mask",
    chapter=CHAPTER,
    call="attention_mask(attention, mass)",
    task="`attention` (heads, N) of the class token to the patches, whose rows sum to less than "
    "1 because the class token has its share, and a float `mass` to a boolean (heads, N): "
    "in each head the fewest patches, strongest first, that hold at least the part `mass` "
    "of what that head's patches have together.",
    solution=lambda attention, mass: attention_masks(
        attention[None], (1, attention.shape[-1]), mass
    )[0].flatten(1),
    variant=_attention_mask,
    observe=_observe_attention_mask,
    checked="one head and three, two masses",
    mistakes=(
        Mistake(
            "not-a-share",
            "the attention of the patches does not sum to 1, because the class token attends to "
            "itself as well; divide by the patches' sum first",
            {"share": False},
        ),
        Mistake(
            "one-short",
            "the last patch is missing: the mask has to hold at least this mass, and without it "
            "holds less",
            {"last": "dropped"},
            {"rule": "at most"},
        ),
        Mistake(
            "counted",
            "this takes a part of the patches; take as many as hold this part of the attention",
            {"rule": "count"},
        ),
        Mistake(
            "value-as-threshold",
            "the mass is no threshold for a single patch; add the patches up from the strongest",
            {"rule": "value"},
        ),
        Mistake(
            "part-of-the-maximum",
            "this compares with a part of the largest attention; add the patches up from the "
            "strongest until they hold the mass",
            {"rule": "maximum"},
        ),
        Mistake(
            "above-the-mean",
            "this takes what is above the mean and never looks at the mass",
            {"rule": "mean"},
        ),
        Mistake(
            "mass-of-the-rest",
            "the patches hold the part 1 − mass; they have to hold the part mass",
            {"rule": "rest"},
        ),
        Mistake(
            "the-others",
            "these are the patches after the strongest ones; take those up to the mass",
            {"rule": "from there on"},
        ),
        Mistake(
            "one-too-many",
            "where the patches hold exactly the mass, one more is taken; that many are enough",
            {"rule": "met"},
        ),
        Mistake(
            "weakest-first",
            "the patches are added up from the weakest; begin with the strongest",
            {"descending": False},
        ),
        Mistake(
            "still-sorted",
            "the mask is in the order of the sorted patches; put every entry back in the place "
            "of its patch, with `scatter`",
            {"unsort": False},
        ),
        Mistake(
            "heads-together",
            "the heads share one threshold; each has a mask of its own",
            {"together": True},
        ),
    ),
)


def _region_similarity(
    predicted: Tensor,
    true: Tensor,
    *,
    measure: str = "jaccard",
    empty: str = "agree",
    over: str = "frames",
) -> Tensor:
    dims = (-2, -1) if over != "everything" else (0, 1, 2)
    both = (predicted & true).sum(dims).float()
    either = (predicted | true).sum(dims).float()
    sizes = predicted.sum(dims).float(), true.sum(dims).float()
    value = {
        "jaccard": both / either,
        "dice": 2 * both / (sizes[0] + sizes[1]),
        "precision": both / sizes[0],
        "recall": both / sizes[1],
        "agreement": (predicted == true).float().mean(dims),
    }[measure]
    if empty in ("true", "predicted"):
        nobody = sizes[empty == "true"] == 0
        value = torch.where(nobody | (either == 0), 1.0, value)
    elif empty == "all":
        value = torch.ones_like(value) if either.sum() == 0 else value
    elif empty != "nan":
        value = torch.where(either == 0, 1.0 if empty == "agree" else 0.0, value)
    return value.mean() if over == "mean" else value


def _observe_region_similarity(answer: Answer) -> Observation:
    predicted, true = randn(6, 6, 5, seed=1) > 0.2, randn(6, 6, 5, seed=2) > 0.6
    predicted[3] = False
    true[1 + draw() % 2] = False
    predicted[4] = true[4] = False
    empty = torch.zeros(2, 3, 3, dtype=torch.bool)
    return {
        "J of six frames, with an empty mask in three": answer.tensor(predicted, true),
        "J of two empty masks": answer.tensor(empty, empty),
        "J of one frame": answer.tensor(predicted[:1], true[:1]),
    }


REGION_SIMILARITY = Exercise(
    name="region_similarity",
    chapter=CHAPTER,
    call="region_similarity(predicted, true)",
    task="boolean masks `predicted` (T, H, W) and `true` (T, H, W) to J of each frame, (T,): "
    "pixels in both over pixels in either; where both are empty they agree, so 1.",
    solution=jaccard,
    variant=_region_similarity,
    observe=_observe_region_similarity,
    checked="four masks, and masks that are empty",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "dice",
            "this is Dice's coefficient, which counts the overlap twice; divide the overlap by "
            "the union",
            {"measure": "dice"},
        ),
        Mistake(
            "precision",
            "the overlap is divided by the predicted mask alone; divide by the union",
            {"measure": "precision"},
        ),
        Mistake(
            "recall",
            "the overlap is divided by the true mask alone, so that the whole image would be "
            "perfect; divide by the union",
            {"measure": "recall"},
        ),
        Mistake(
            "pixels-that-agree",
            "this counts the pixels that agree, most of which are background; divide the overlap "
            "by the union",
            {"measure": "agreement"},
        ),
        Mistake(
            "empty-is-nan",
            "two empty masks give 0 / 0; they agree, so 1",
            {"empty": "nan"},
            {"empty": "all"},
        ),
        Mistake(
            "one-empty-is-one",
            "a frame counts 1 where only one of the two masks is empty; that is 0, and 1 only if "
            "both are empty",
            {"empty": "true"},
            {"empty": "predicted"},
        ),
        Mistake("empty-is-zero", "two empty masks get 0; they agree, so 1", {"empty": "zero"}),
        Mistake(
            "averaged",
            "the frames are averaged; return one number a frame",
            {"over": "mean"},
        ),
        Mistake(
            "pooled",
            "the pixels of all frames are counted together, so that large masks decide; count in "
            "each frame",
            {"over": "everything"},
        ),
    ),
)


def _lost_mask(
    patches: Tensor,
    k: int,
    *,
    centred: bool = True,
    axis: int = 0,
    fewest: bool = True,
    seed: str = "degree",
    candidates: str = "alike",
    grown: str = "sum",
) -> Tensor:
    if centred:
        patches = patches - patches.mean(dim=axis, keepdim=True)
    similarity = patches @ patches.T
    degree = (similarity > 0).sum(dim=1) if seed == "degree" else similarity.sum(dim=1)
    order = degree.argsort(stable=True, descending=not fewest)
    first, few = order[0], order[:k]
    alike = few[similarity[first, few] > 0]
    members = {"alike": alike, "all": few, "seed": order[:1]}[candidates]
    total = similarity[members]
    if grown == "expanded":
        return torch.zeros(len(patches), dtype=torch.bool).index_fill(0, members, True)
    return (total > 0).any(dim=0) if grown == "any" else total.sum(dim=0) > 0


def _observe_lost_mask(answer: Answer) -> Observation:
    seen = {}
    for n_patches, k, noise in (
        (30, 8, 0.9),
        (42, 12, 1.2),
        (28, 5, 1.5),
        (25, 3, 1.3),
        (35, 6, 1.5),
        (20, 1, 1.0),
    ):
        one = torch.arange(n_patches) % 7 < 2
        kinds = randn(2, 6, seed=n_patches)
        patches = kinds[one.long()] + noise * randn(n_patches, 6, seed=n_patches + 1) + 0.5
        mask = answer.mask(patches, k)
        seen[f"the mask of {n_patches} patches, k = {k}"] = mask
    return seen


LOST_MASK = Exercise(
    name="lost_mask",
    chapter=CHAPTER,
    call="lost_mask(patches, k)",
    task="`patches` (N, D) and an integer `k` to a boolean (N,). Subtract the patches' mean. Two"
    " patches are alike if their dot product is positive. Seed: the patch that is like the "
    "fewest. Of the k that are like the fewest (the seed is one of them; of equals the "
    "first come first), those like the seed join it. The object: all patches whose dot "
    "products with these sum to more than 0. No connected piece is taken here.",
    solution=_lost_mask,
    variant=_lost_mask,
    observe=_observe_lost_mask,
    checked="two images",
    mistakes=(
        Mistake(
            "not-centred",
            "the mean of the patches is not subtracted; without that most dot products are "
            "positive and everything is alike",
            {"centred": False},
        ),
        Mistake(
            "wrong-axis",
            "the mean is taken over the features of each patch; take it over the patches, `dim=0`",
            {"axis": 1},
        ),
        Mistake(
            "most-alike",
            "the seed is the patch that is like the most others, which is background; take the "
            "fewest",
            {"fewest": False},
        ),
        Mistake(
            "similarities-summed",
            "the dot products themselves are summed to find the seed; count the positive ones",
            {"seed": "sum"},
        ),
        Mistake(
            "all-candidates",
            "all k candidates join the seed; only those do whose dot product with it is positive",
            {"candidates": "all"},
        ),
        Mistake(
            "not-expanded",
            "this is what is like the seed alone; let the candidates that are like it join first",
            {"candidates": "seed"},
        ),
        Mistake(
            "any-is-enough",
            "one member that is alike makes a patch an object here; the dot products with all "
            "members are summed",
            {"grown": "any"},
        ),
        Mistake(
            "members-only",
            "only the seed and what joined it are returned; all patches are compared with them",
            {"grown": "expanded"},
        ),
    ),
)


def _carry_labels(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    topk: int,
    temperature: float,
    *,
    unit: bool = True,
    chosen: str = "topk",
    weights: str = "exp",
    divide: bool = True,
    axis: int = 1,
    hard: bool = False,
) -> Tensor:
    if unit:
        queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
    similarity = queries @ keys.T
    weight = {
        "exp": (similarity / temperature).exp(),
        "multiplied": (similarity * temperature).exp(),
        "none": similarity.exp(),
        "equal": torch.ones_like(similarity),
    }[weights]
    count = {"topk": topk, "all": len(keys), "one": 1, "farthest": topk}.get(chosen, 0)
    count = count or topk + {"one more": 1, "one fewer": -1}[chosen]
    found = similarity.topk(count, dim=1, largest=chosen != "farthest").indices
    weight = weight * torch.zeros_like(weight).scatter(1, found, 1.0)
    if divide:
        weight = weight / weight.sum(dim=axis, keepdim=True)
    if hard:
        labels = F.one_hot(labels.argmax(dim=1), labels.shape[1]).float()
    return weight @ labels


def _observe_carry_labels(answer: Answer) -> Observation:
    seen = {}
    for n, m, topk, temperature in ((6, 18, 4, *vary(0.3)), (9, 12, 3, 0.5), (1, 8, 7, 0.7)):
        keys = torch.linspace(0.3, 2, m)[:, None] * randn(m, 5, seed=m)
        queries = 0.7 * randn(n, 5, seed=n)
        labels = randn(m, 3 + draw() % 3, seed=m + n).softmax(dim=-1)
        carried = answer.tensor(queries, keys, labels, topk, temperature)
        seen[f"the labels of {n} patches from {m}"] = carried
    return seen


CARRY_LABELS = Exercise(
    name="carry_labels",
    chapter=CHAPTER,
    call="carry_labels(queries, keys, labels, topk, temperature)",
    task="features `queries` (N, D) of this frame, features `keys` (M, D) and soft `labels` (M, "
    "C) of earlier frames, an integer `topk` and a float `temperature` τ to labels (N, C): "
    "for each query the mean of the labels of the topk keys of largest cosine, weighted by "
    "exp(cosine / τ), with weights that sum to 1.",
    solution=_carry_labels,
    variant=_carry_labels,
    observe=_observe_carry_labels,
    checked="two frames",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "not-normalised",
            "the features are not scaled to length one; the similarity is the cosine",
            {"unit": False},
        ),
        Mistake(
            "all-patches",
            "all patches are averaged; only the topk most similar ones count",
            {"chosen": "all"},
        ),
        Mistake(
            "nearest-only",
            "only the most similar patch counts; topk of them do",
            {"chosen": "one"},
        ),
        Mistake(
            "neighbours-miscounted",
            "one key too many counts, or one too few; topk of them do",
            {"chosen": "one more"},
            {"chosen": "one fewer"},
        ),
        Mistake(
            "farthest",
            "these are the least similar patches; take the largest cosines",
            {"chosen": "farthest"},
        ),
        Mistake(
            "temperature-multiplied",
            "the cosines are multiplied by the temperature; divide them",
            {"weights": "multiplied"},
        ),
        Mistake(
            "temperature-missing",
            "the cosines are not divided by the temperature",
            {"weights": "none"},
        ),
        Mistake(
            "unweighted",
            "the topk patches count alike; the weight of one is exp(cosine / temperature)",
            {"weights": "equal"},
        ),
        Mistake(
            "not-a-mean",
            "the weights do not sum to 1; divide by their sum",
            {"divide": False},
        ),
        Mistake(
            "wrong-axis",
            "the weights sum to 1 over the patches of this frame; they have to over the patches "
            "that each of them looks at, `dim=1`",
            {"axis": 0},
        ),
        Mistake(
            "hard-labels",
            "the labels are rounded to one class before they are averaged; they stay soft",
            {"hard": True},
        ),
    ),
)

EXERCISES = (ATTENTION_MASK, REGION_SIMILARITY, LOST_MASK, CARRY_LABELS)
