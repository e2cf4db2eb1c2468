"""Going on from a backbone whose head is missing: a fresh head, with care and without.

    python data/cards/measure_continuing.py [--seeds 0 1 2] [--steps 60]

The backbone of data/checkpoints/dino-scenes-laptop-s0 gets fresh heads and is trained on by DINO at
four times the preset's learning rate, so that it can be hurt. Three ways: all at once; the head
first, with the backbone frozen for the first 40 % of the steps; all at once with the Gram loss to
the backbone as it was. Measures k-NN and linear segmentation of student and teacher, and how far
the cosines between patches have moved. Writes summary.json, environment.json and command.txt.
"""

import argparse
import tempfile
from copy import deepcopy
from pathlib import Path

import torch

from dino_tutorial import configure, load_run
from dino_tutorial.build import build_method
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.environment import describe_environment
from dino_tutorial.evaluation import (
    accuracy,
    class_maps,
    extract_features,
    extract_patches,
    knn_classify,
    linear_segmentation,
    normalize,
)
from dino_tutorial.losses import GramLoss
from dino_tutorial.methods.dino import DINO
from dino_tutorial.runs import write_json, write_text
from dino_tutorial.training.loop import Trainer
from dino_tutorial.views import Augment

START = "data/checkpoints/dino-scenes-laptop-s0"
SIZE, GRID = 32, (4, 4)
SETTINGS = {
    "optim.lr": 2e-2,
    "optim.warmup_epochs": 0.05,
    "objective.freeze_last_layer_epochs": 0.0,
    "data.limit": 3000,
    "train.workers": 0,
    "train.checkpoint_every": 10_000,
}
GRAM_WEIGHT = 10.0
WARM_UP = 0.4  # of the steps, for the head alone


class AnchoredDINO(DINO):
    """DINO, plus ``weight`` times the Gram loss between the student's patches and an anchor's."""

    def __init__(self, backbone, options, anchor, weight):
        super().__init__(backbone, options)
        self.anchor, self.weight = deepcopy(anchor).requires_grad_(False), weight
        self.gram = GramLoss()

    def forward(self, views, values, measure):
        metrics = super().forward(views, values, measure)
        if self.weight > 0:
            whole = views[0][:2].flatten(0, 1)
            patches = self.student.backbone.forward_features(whole).patches
            gram = self.gram(patches, self.anchor.forward_features(whole).patches)
            metrics["loss"] = metrics["loss"] + self.weight * gram
        return metrics


class Measures:
    """k-NN, mIoU and drift of an encoder, on scenes of one split."""

    def __init__(self, split: str, anchor):
        self.bank, self.queries = SceneDataset("train", SIZE, 2000), SceneDataset(split, SIZE, 1000)
        self.fit, self.seen = SceneDataset("train", SIZE, 300), SceneDataset(split, SIZE, 300)
        self.anchor = anchor

    def __call__(self, encoder) -> dict[str, float]:
        encoder = deepcopy(encoder).eval()
        (bank, labels), (queries, truth) = (
            extract_features(encoder, images) for images in (self.bank, self.queries)
        )
        x, y = (extract_patches(encoder, images) for images in (self.fit, self.seen))
        maps = [class_maps(images.masks(), images.labels) for images in (self.fit, self.seen)]
        segmented = linear_segmentation(
            x, maps[0], y, maps[1], GRID, steps=100, learning_rates=(0.3,), weight_decays=(0.0,)
        )
        with torch.no_grad():
            pixels = normalize(self.seen.images())
            before = self.anchor.forward_features(pixels).patches
            drift = GramLoss()(encoder.forward_features(pixels).patches, before)
        return {
            "knn_top1": round(accuracy(knn_classify(bank, labels, queries, 20, 0.07), truth), 4),
            "miou": round(segmented.miou, 4),
            "gram_drift": round(drift.item(), 5),
        }


def phase(method, images, steps: int, seed: int, frozen: bool) -> None:
    backbone = method.student.backbone
    backbone.requires_grad_(not frozen)
    backbone.mask_token.requires_grad_(False)
    config = configure(changes=SETTINGS | {"train.epochs": steps * 32 / len(images)})
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            method=method,
            augment=Augment(method.view_specs(config.views)),
            dataset=images,
            optim=config.optim,
            train=config.train,
            seed=seed,
            device=torch.device("cpu"),
            folder=Path(folder),
        ).fit()


def continued(way: str, start, images, steps: int, seed: int) -> DINO:
    """The method after training on from ``start`` with fresh heads."""
    config = configure(changes=SETTINGS | {"seed": seed})
    heads = build_method(config).student.head
    weight = GRAM_WEIGHT if way == "with the Gram loss" else 0.0
    method = AnchoredDINO(deepcopy(start), config.objective, start, weight)
    for network in (method.student, method.teacher.network):
        network.head.load_state_dict(heads.state_dict())
    first = round(WARM_UP * steps) if way == "head first" else 0
    if first:
        phase(method, images, first, seed, frozen=True)
    phase(method, images, steps - first, 100 + seed, frozen=False)
    return method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--split", default="test")
    parser.add_argument("--into", type=Path, default=Path("data/results/continuing-scenes-laptop"))
    options = parser.parse_args()

    start = load_run(START).encoder().requires_grad_(True)
    images, measures = SceneDataset("train", SIZE, 3000), Measures(options.split, deepcopy(start))
    seeds = " ".join(map(str, options.seeds))
    command = f"python data/cards/measure_continuing.py --seeds {seeds} --steps {options.steps}"
    write_text(options.into / "command.txt", command + "\n")
    write_json(options.into / "environment.json", describe_environment(torch.device("cpu")))
    summary = {
        "start": START,
        "split": options.split,
        "steps": options.steps,
        "gram_weight": GRAM_WEIGHT,
        "warm_up": WARM_UP,
        "lr": SETTINGS["optim.lr"],
        "before": measures(start),
        "after": [],
    }
    for seed in options.seeds:
        for way in ("all at once", "head first", "with the Gram loss"):
            method = continued(way, start, images, options.steps, seed)
            networks = {"student": method.student.backbone, "teacher": method.encoder}
            found = {name: measures(encoder) for name, encoder in networks.items()}
            summary["after"].append({"way": way, "seed": seed, **found})
            write_json(options.into / "summary.json", summary)  # what is stopped early says so


if __name__ == "__main__":
    main()
