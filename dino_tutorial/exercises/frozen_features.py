"""Frozen features: the foreground of a PCA image, mean IoU."""

import torch
from torch import Tensor

from dino_tutorial.evaluation import (
    confusion_matrix,
    intersection_over_union,
    patch_pca,
)
from dino_tutorial.exercises.exercise import Answer, Exercise, Mistake, Observation, randn

CHAPTER = "frozen-features"


def _pca_foreground(
    patches: Tensor,
    *,
    centred: str = "over patches",
    basis: str = "common",
    threshold: str = "mean",
    side: str = "smaller",
) -> Tensor:
    if basis == "own":
        rest = {"centred": centred, "threshold": threshold, "side": side}
        return torch.cat([_pca_foreground(one[None], **rest) for one in patches])
    points = patches.flatten(0, 1).double()
    if centred == "over patches":
        points = points - points.mean(dim=0)
    elif centred == "over features":
        points = points - points.mean(dim=1, keepdim=True)
    first = points @ torch.linalg.eigh(points.T @ points).eigenvectors[:, -1]
    above = first > (0 if threshold == "mean" else first.median())
    smaller = above if above.sum() * 2 <= len(above) else ~above
    return (smaller if side == "smaller" else ~smaller).unflatten(0, patches.shape[:2])


def _observe_pca_foreground(answer: Answer) -> Observation:
    seen = {}
    for n_images, n_patches, every in ((3, 20, 4), (4, 15, 3), (2, 30, 5), (3, 24, 4), (5, 12, 4)):
        thing = torch.arange(n_images * n_patches).view(n_images, n_patches) % every == 0
        empty, full = (1, 0) if n_images == 5 else (0, None)
        thing[empty] = False  # an image without the object
        if full is not None:  # one that it fills, while it is the smaller side of all
            thing[full, : n_patches // 2 + 2] = True
        spread = torch.tensor([1.0, 0.7, 0.5, 0.4, 0.3])
        patches = 3 + spread * randn(n_images, n_patches, 5, seed=n_patches)
        patches = patches + 6 * thing[..., None] * randn(5, seed=every)
        mask = answer.mask(patches)
        seen[f"the foreground of {n_images} images of {n_patches} patches"] = mask
    return seen


PCA_FOREGROUND = Exercise(
    name="pca_foreground",
    chapter=CHAPTER,
    call="pca_foreground(patches)",
    task="patch features `patches` (B, N, D) of B images to a boolean (B, N): on which side of 0"
    " each patch lies along the first principal component of all B·N patches, after their "
    "mean is subtracted; the side with fewer patches is True.",
    solution=lambda patches: patch_pca(patches, 1).isfinite().all(dim=-1),
    variant=_pca_foreground,
    observe=_observe_pca_foreground,
    checked="five sets of images, one image of each without the object",
    mistakes=(
        Mistake(
            "not-centred",
            "the mean of the patches is not subtracted, so the first direction is about the mean "
            "itself and all patches lie on one side of it",
            {"centred": "no"},
        ),
        Mistake(
            "wrong-axis",
            "the mean is taken over the features of each patch; take it over all patches, `dim=0`",
            {"centred": "over features"},
        ),
        Mistake(
            "own-basis",
            "each image has a basis of its own, so that an image without the object is split "
            "as well; use one basis for all patches of all images",
            {"basis": "own"},
        ),
        Mistake(
            "larger-side",
            "this is the side with more patches; an eigenvector has no sign, and the rule takes "
            "the side with fewer",
            {"side": "larger"},
        ),
        Mistake(
            "split-in-halves",
            "the patches are split in two equal halves at the median; split them at 0",
            {"threshold": "median"},
        ),
    ),
)


def _mean_iou(
    predicted: Tensor,
    truth: Tensor,
    n_classes: int,
    *,
    measure: str = "iou",
    absent: str = "left out",
    over: str = "all images",
    among: str = "either",
) -> Tensor:
    if over == "each image":
        rest = {"measure": measure, "absent": absent}
        each = [
            _mean_iou(p[None], t[None], n_classes, **rest)
            for p, t in zip(predicted, truth, strict=True)
        ]
        return torch.stack(each).mean()
    counts = confusion_matrix(predicted, truth, n_classes).double()
    found, true, taken = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    if measure == "accuracy":
        return found.sum() / counts.sum()
    if measure == "pooled":
        return found.sum() / (true + taken - found).sum()
    scores = {
        "iou": found / (true + taken - found),
        "recall": found / true,
        "precision": found / taken,
        "dice": 2 * found / (true + taken),
        "overlap twice": found / (true + taken),
    }[measure]
    if among == "foreground":
        return scores[1:].nanmean()
    if among == "weighted":
        return (scores * true).nansum() / true.sum()
    if among == "truth":
        return scores[true > 0].nanmean()
    if among == "predicted":
        return scores[taken > 0].nanmean()
    if absent != "left out":
        scores = scores.nan_to_num(1.0 if absent == "one" else 0.0)
    return scores.nanmean()


def _observe_mean_iou(answer: Answer) -> Observation:
    seen = {}
    for name, n_classes, seed in (
        ("all four classes there", 4, 5),
        ("two of six classes nowhere", 6, 7),
        ("a class in the truth alone", 4, 9),
        ("a class predicted alone", 4, 11),
        ("the last class in the truth alone", 4, 13),
        ("the last class predicted alone", 5, 15),
    ):
        truth = (randn(3, 6, 8, seed=seed).abs() * 1.7).long().clamp(max=3)
        truth[0, 0, :4] = torch.arange(4)
        truth[2] = truth[2].clamp(max=1)  # the classes are not spread evenly over the images
        predicted = torch.where(randn(3, 6, 8, seed=seed + 1) > 0.4, truth.flip(2), truth)
        only = 3 if "last" in name else 2
        if "truth alone" in name:
            predicted[predicted == only] = 0
        if "predicted alone" in name:
            truth[truth == only] = 1
        if n_classes == 5:  # and one that is nowhere
            truth[truth == 2], predicted[predicted == 2] = 0, 1
        seen[f"the mean IoU, {name}"] = answer.number(predicted, truth, n_classes)
    return seen


MEAN_IOU = Exercise(
    name="mean_iou",
    chapter=CHAPTER,
    call="mean_iou(predicted, truth, n_classes)",
    task="`predicted` and `truth`, classes as integers (B, H, W), and `n_classes` to one number:"
    " for each class the pixels of all images that are it *and* were taken for it, over "
    "those that are it *or* were taken for it; the mean over the classes, leaving out those"
    " that occur in neither.",
    solution=lambda predicted, truth, n_classes: intersection_over_union(
        confusion_matrix(predicted, truth, n_classes)
    ).nanmean(),
    variant=_mean_iou,
    observe=_observe_mean_iou,
    checked="all classes there, some nowhere, one only predicted and one only in the truth",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "accuracy",
            "this is the share of right pixels, in which the background decides; divide overlap "
            "by union in each class and average the classes",
            {"measure": "accuracy"},
        ),
        Mistake(
            "recall",
            "the overlap is divided by the true pixels alone, so that painting everything in one "
            "class is perfect for it; divide by the union",
            {"measure": "recall"},
        ),
        Mistake(
            "dice",
            "this is Dice's coefficient, which counts the overlap twice; divide by the union",
            {"measure": "dice"},
        ),
        Mistake(
            "precision",
            "the overlap is divided by the predicted pixels alone; divide by the union",
            {"measure": "precision"},
        ),
        Mistake(
            "overlap-in-the-union-twice",
            "the union is the sum of the two sizes, which has the overlap twice; subtract it once",
            {"measure": "overlap twice"},
        ),
        Mistake(
            "classes-pooled",
            "overlaps and unions of all classes are added first, so that large classes decide; "
            "average the classes' shares",
            {"measure": "pooled"},
        ),
        Mistake(
            "background-left-out",
            "class 0 is left out; it counts like any other",
            {"among": "foreground"},
        ),
        Mistake(
            "weighted",
            "the classes are weighted by their pixels; each counts alike",
            {"among": "weighted"},
        ),
        Mistake(
            "absent-is-zero",
            "a class that is nowhere counts as 0; leave it out of the mean",
            {"absent": "zero"},
        ),
        Mistake(
            "absent-is-one",
            "a class that is nowhere counts as 1; leave it out of the mean",
            {"absent": "one"},
        ),
        Mistake(
            "truth-only",
            "a class that is predicted, and occurs in no truth, is left out; it counts 0",
            {"among": "truth"},
        ),
        Mistake(
            "predicted-only",
            "a class that is never predicted is left out; it counts 0",
            {"among": "predicted"},
        ),
        Mistake(
            "image-by-image",
            "each image has a mean of its own here; count the pixels of all images first",
            {"over": "each image"},
        ),
    ),
)

EXERCISES = (PCA_FOREGROUND, MEAN_IOU)
