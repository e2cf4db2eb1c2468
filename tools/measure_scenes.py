"""The numbers of the scenes' cards: what solves them, in colour and in gray, and how fast they are
drawn.

python tools/measure_scenes.py patterns      # or scenes
python tools/measure_scenes.py patterns RUN  # and the encoder of a run or of a record
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dino_tutorial import configure, load_run
from dino_tutorial.datasets import ArrayDataset, open_dataset
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.evaluation import accuracy, evaluate_knn, normalize
from dino_tutorial.runs import new_encoder
from dino_tutorial.training.batches import BatchOrder, batches
from dino_tutorial.views import Augment, ViewSpec

EPOCHS, BATCH, LR = 8, 64, 1e-3


def supervised(name: str, train: SceneDataset, test: SceneDataset) -> float:
    """The laptop encoder trained on the labels: random crops and flips, eight epochs."""
    torch.manual_seed(0)
    model = new_encoder(configure("dino", name))
    model = nn.Sequential(model, nn.Linear(model.embed_dim, len(train.classes)))
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    crop = Augment([ViewSpec(32, (0.5, 1.0), jitter_p=0, gray_p=0, blur_p=0)])
    generator = torch.Generator().manual_seed(0)
    order = BatchOrder(len(train), BATCH, steps, seed=0)
    for images, labels, _ in batches(train, order, torch.device("cpu"), 0):
        (view,) = crop.apply(images, crop.sample(BATCH, 32, 32, generator))
        loss = F.cross_entropy(model(view[0]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        return accuracy(model(normalize(test.images())), test.labels)


def in_gray(dataset: SceneDataset) -> ArrayDataset:
    """The same images without their colours (luma of ITU-R 601, as the views' gray)."""
    luma = (dataset.images().float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    gray = luma.round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
    return ArrayDataset(gray, dataset.labels, dataset.classes, f"{dataset.name} in gray")


def main() -> None:
    name = sys.argv[1]
    train, test = open_dataset(name, "train"), open_dataset(name, "test")
    started = time.perf_counter()
    train.images()
    seconds = time.perf_counter() - started
    encoders = {"untrained": new_encoder(configure("dino", name))}
    for run in sys.argv[2:]:
        encoders[Path(run).name] = load_run(run).encoder()
    print(f"k-NN (k = 20, T = 0.07) on {name}          in colour  in gray")
    rows: dict[str, list[float]] = {}
    for bank, queries in ((train, test), (in_gray(train), in_gray(test))):
        for encoder, network in encoders.items():
            knn = evaluate_knn(network, bank, queries, [20])
            rows.setdefault("raw pixels", []).append(knn["knn_raw_pixels"][20])
            rows.setdefault("colour histogram", []).append(knn["knn_color_histogram"][20])
            rows.setdefault(encoder, []).append(knn["knn_top1"][20])
    for row, values in rows.items():
        print(f"{row:40s} {100 * values[0]:8.1f} % {100 * values[-1]:6.1f} %")
    print(f"supervised, same encoder {100 * supervised(name, train, test):.1f} %")
    print(f"drawn at 32 px           {len(train) / seconds:.0f} scenes/s on this machine")


if __name__ == "__main__":
    main()
