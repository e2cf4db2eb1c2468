"""Frozen features on real photos: segments across films, matches within them, classes, copies.

    python tools/measure_photos.py RUN [RUN ...] --davis FOLDER --cifar10 FOLDER --photos ANY

RUN is a folder of a run or of a checkpoint. The photos are folders that this repository does not
hold: DAVIS as `dino_tutorial.datasets.Davis` reads it, CIFAR-10 as `test/<class>/<image>`, and any
photos at all. Beside each run's features: those of the first run's encoder before training, the
pixels, and the colours. Writes summary.json, environment.json and command.txt.

Nothing is chosen on what is scored: the films are cut into folds, and linear maps, their settings
and thresholds come from the films of the other folds.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial import load_run
from dino_tutorial.datasets import ArrayDataset, Davis, open_dataset
from dino_tutorial.datasets.davis import Video
from dino_tutorial.datasets.scenes import corrupt
from dino_tutorial.evaluation import (
    color_histogram,
    copy_detection,
    extract_features,
    intersection_over_union,
    jaccard,
    linear_segmentation,
    mutual_matches,
    normalize,
    patch_pixels,
    pixel_features,
    retrieval_map,
)
from dino_tutorial.evaluation.patches import upsample
from dino_tutorial.files import make_folder, write_json, write_text
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.runs.folder import new_encoder

FOLDS = 4
FRAMES = 6  # of each film, evenly spaced, for segments
SEGMENTS = {"learning_rates": (0.1, 0.3), "weight_decays": (0.0, 1e-3), "steps": 150}
SHARES = torch.linspace(0.5, 0.98, 25)  # part of the pixels below the threshold, to choose among
GAPS, PAIRS = (5, 20), 4  # frames between the two of a pair, and pairs of each film
RETRIEVED = 2000  # images of CIFAR-10's test set
COPIED, COPY_SIZE, CUT = 300, 96, 12  # photos, their side, and what a crop leaves out, in pixels


class Sample(NamedTuple):
    """Frames of one film, uint8 (T, 3, h, w), and the object in them, bool (T, H, W)."""

    name: str
    frames: Tensor
    masks: Tensor


def sampled(film: Video, indices: Tensor) -> Sample:
    return Sample(film.name, film.frames[indices], film.masks[indices])


def patch_descriptions(encoders: dict, patch_size: int) -> dict:
    """Name -> function from frames uint8 (T, 3, h, w) to patch features (T, N, D)."""

    def tokens_of(encoder):
        return lambda frames: encoder.forward_features(normalize(frames)).patches

    def colours(frames: Tensor) -> Tensor:
        return patch_pixels(frames, patch_size).unflatten(-1, (3, -1)).mean(dim=-1)

    described = {name: tokens_of(encoder) for name, encoder in encoders.items()}
    pixels = {"pixels": lambda frames: patch_pixels(frames, patch_size), "colours": colours}
    return described | pixels


def image_descriptions(encoders: dict) -> dict:
    """Name -> function from a data set of n images to features (n, D)."""
    described = {
        name: lambda images, encoder=encoder: extract_features(encoder, images)[0]
        for name, encoder in encoders.items()
    }
    return described | {"pixels": pixel_features, "colours": color_histogram}


# Segments: an object in a film that the linear map has not seen


def best_threshold(scores: Tensor, masks: Tensor) -> float:
    """The threshold of scores (T, H, W) with the largest mean J."""
    thresholds = scores.flatten()[:: max(1, scores.numel() // 2**20)].quantile(SHARES)
    means = torch.stack([jaccard(scores > threshold, masks).mean() for threshold in thresholds])
    return float(thresholds[means.argmax()])


def by_film(scores: Tensor, threshold: float, films: list[Sample]) -> dict[str, float]:
    """J of each film from scores (T, H, W) of all their frames."""
    j = jaccard(scores > threshold, torch.cat([film.masks for film in films]))
    parts = j.split([len(film.masks) for film in films])
    return {film.name: float(part.mean()) for film, part in zip(films, parts, strict=True)}


def segment(films: list[Sample], describe: dict, patch_size: int) -> dict:
    """J of each film by description, and the mIoU of the most probable class over all films."""
    grid = tuple(side // patch_size for side in films[0].frames.shape[-2:])
    small, large = films[0].frames.shape[-2:], films[0].masks.shape[-2:]
    names = [*describe, "place alone"]
    j, confusion = {name: {} for name in names}, {name: 0 for name in describe}
    tokens = {
        name: torch.stack([tokens_of(film.frames) for film in films])  # (films, T, N, D)
        for name, tokens_of in describe.items()
    }
    for fold in range(FOLDS):
        unseen = torch.arange(len(films)) % FOLDS == fold
        test, train = (
            [film for film, one in zip(films, part, strict=True) if one]
            for part in (unseen, ~unseen)
        )
        truth = torch.cat([film.masks for film in test])
        shapes = torch.cat([film.masks for film in train])[:, None].float()
        coarse = tuple(side // 4 for side in small)  # four pixels a patch teach enough
        shapes = F.interpolate(shapes, size=coarse, mode="area")[:, 0] > 0.5
        for name, x in tokens.items():
            train_x, test_x = x[~unseen].flatten(0, 1), x[unseen].flatten(0, 1)
            fitted = linear_segmentation(
                train_x, shapes.long(), test_x, truth.long(), grid, n_classes=2, **SEGMENTS
            )
            scores = [
                fitted(x, size).diff(dim=1)[:, 0]
                for x, size in ((train_x, coarse), (test_x, tuple(large)))
            ]
            j[name] |= by_film(scores[1], best_threshold(scores[0], shapes), test)
            confusion[name] = confusion[name] + fitted.confusion
        place = shapes.float().mean(dim=0, keepdim=True)
        threshold = best_threshold(place.expand(len(shapes), -1, -1), shapes)
        everywhere = upsample(place[None], large)[0].expand(len(truth), -1, -1)
        j["place alone"] |= by_film(everywhere, threshold, test)
    j["whole frame"] = {film.name: float(film.masks.float().mean()) for film in films}
    scores = {name: {"J": mean(values.values())} for name, values in j.items()}
    for name, counts in confusion.items():
        background, thing = intersection_over_union(counts).tolist()
        scores[name] |= {"miou": (background + thing) / 2, "iou_object": thing}
    return {"scores": scores, "by_film": j}


# Matches: patches of two frames of one film


def match(films: Davis, describe: dict, patch_size: int) -> dict:
    """Of the object's patches: how many have a mutual match, and how many of these on the object.

    Means over films, by gap and description. "same place" matches each patch with its own place;
    "at random" is the object's part of the later frame.
    """
    rows = {gap: {} for gap in GAPS}
    for film in films:
        for gap in GAPS:
            first = torch.linspace(0, len(film.frames) - 1 - gap, PAIRS).round().long()
            one, other = sampled(film, first), sampled(film, first + gap)
            things = [on_object(each, patch_size) for each in (one, other)]  # (PAIRS, N)
            if not things[0].any():
                continue
            for name, tokens_of in describe.items():
                partner = mutual_matches(tokens_of(one.frames), tokens_of(other.frames)).partner
                rows[gap].setdefault(name, []).append(matched(partner, *things))
            places = torch.arange(things[0].shape[1]).expand_as(things[0])
            rows[gap].setdefault("same place", []).append(matched(places, *things))
            chance = things[1].float().mean(dim=1)[:, None].expand_as(things[0])[things[0]].mean()
            rows[gap].setdefault("at random", []).append((float(chance), 1.0))
    return {
        str(gap): {
            name: {
                "right": mean(right for right, _ in pairs if right is not None),
                "matched": mean(found for _, found in pairs),
                "films": len(pairs),
            }
            for name, pairs in described.items()
        }
        for gap, described in rows.items()
    }


def on_object(film: Sample, patch_size: int) -> Tensor:
    """Which patches are mostly the object: bool (T, N)."""
    grid = [side // patch_size for side in film.frames.shape[-2:]]
    cover = F.interpolate(film.masks[:, None].float(), size=grid, mode="area")
    return cover.flatten(1) > 0.5


def matched(partner: Tensor, one: Tensor, other: Tensor) -> tuple[float | None, float]:
    """Of the object's matches the part that lies on the object, and the part of it that matches."""
    found = one & (partner >= 0)
    right = found & other.gather(1, partner.clamp_min(0))
    share = float(right.sum() / found.sum()) if found.any() else None
    return share, float(found.sum() / one.sum())


# Whole images: classes and copies


def retrieve(folder: Path, describe: dict) -> dict:
    """Mean average precision of CIFAR-10's classes, every image a query to all others."""
    images = open_dataset(folder, "test", image_size=32, limit=RETRIEVED)
    maps = {
        name: retrieval_map(features(images), images.labels) for name, features in describe.items()
    }
    same = images.labels[:, None] == images.labels
    chance = (same.sum() - len(images)) / (len(images) * (len(images) - 1))
    return {"images": len(images), "chance": float(chance), "map": maps}


def detect_copies(folder: Path, describe: dict) -> dict:
    """Average precision of telling a photo's crop from the other photos, over all pairs."""
    found = open_dataset(folder, "train", image_size=COPY_SIZE, limit=COPIED)
    images, sources = found.images(), torch.arange(len(found))
    originals, copies = (ArrayDataset(x, sources) for x in (images, cropped(images)))
    scores = {}
    for name, features in describe.items():
        measured = copy_detection(features(copies), sources, features(originals), sources)
        scores[name] = {m: measured[m] for m in ("average_precision", "recall_at_precision")}
    return {
        "photos": len(images),
        "size": COPY_SIZE,
        "chance": measured["chance"],
        "scores": scores,
    }


def cropped(images: Tensor) -> Tensor:
    """A crop of each photo at a random place, enlarged to its old size and brightened."""
    draw = torch.Generator().manual_seed(0)
    size = images.shape[-1]
    corners = torch.randint(0, CUT + 1, (len(images), 2), generator=draw).tolist()
    side = size - CUT
    crops = torch.stack(
        [
            image[:, y : y + side, x : x + side]
            for image, (y, x) in zip(images, corners, strict=True)
        ]
    )
    enlarged = F.interpolate(crops.float(), size=size, mode="bilinear", align_corners=False)
    return corrupt(enlarged.round().to(torch.uint8), "brightness", 2)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def rounded(value):
    """Every number of a nested dictionary with four digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--davis", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--cifar10", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--photos", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--short-side", type=int, default=120, help="of the frames, in pixels")
    parser.add_argument("--into", type=Path, default=Path("data/results/frozen-photos"))
    options = parser.parse_args()

    make_folder(options.into)
    write_json(options.into / "environment.json", describe_environment(torch.device("cpu")))
    runs = [load_run(folder) for folder in options.runs]
    encoders = {run.folder.name: run.encoder() for run in runs}
    encoders["untrained"] = new_encoder(runs[0].config).eval()
    (patch_size,) = {encoder.patch_size for encoder in encoders.values()}
    films = Davis(options.davis, None, options.short_side, multiple=patch_size)
    evenly = [
        sampled(film, torch.linspace(0, len(film.frames) - 1, FRAMES).round().long())
        for film in films
    ]
    patches, images = patch_descriptions(encoders, patch_size), image_descriptions(encoders)
    summary = {
        "data": "DAVIS-2016 val, CIFAR-10 test, photos",
        "films": len(films),
        "frames_short_side": options.short_side,
        "frames_each": FRAMES,
        "folds": FOLDS,
        "patch_size": patch_size,
        "segments": segment(evenly, patches, patch_size),
        "matches": match(films, patches, patch_size),
        "classes": retrieve(options.cifar10, images),
        "copies": detect_copies(options.photos, images),
    }
    shown = " ".join(str(folder) for folder in options.runs)
    folders = "--davis FOLDER --cifar10 FOLDER --photos ANY"
    command = f"python tools/measure_photos.py {shown} {folders}"
    write_text(options.into / "command.txt", f"{command} --short-side {options.short_side}\n")
    write_json(options.into / "summary.json", rounded(summary))
    for name, scores in summary["segments"]["scores"].items():
        print(f"{name:32} J {100 * scores['J']:5.1f}")


if __name__ == "__main__":
    main()
