"""The numbers of the scenes' card: what solves them, and how fast they are drawn.

python tools/measure_scenes.py
"""

import time

import torch
import torch.nn.functional as F
from torch import nn

from dino_tutorial import configure
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.evaluation import accuracy, evaluate_knn, normalize
from dino_tutorial.runs import new_encoder
from dino_tutorial.training.batches import BatchOrder, batches
from dino_tutorial.views import Augment, ViewSpec

EPOCHS, BATCH, LR = 8, 64, 1e-3


def supervised(train: SceneDataset, test: SceneDataset) -> float:
    """The laptop encoder trained on the labels: random crops and flips, eight epochs."""
    torch.manual_seed(0)
    model = new_encoder(configure())
    model = nn.Sequential(model, nn.Linear(model.embed_dim, len(train.classes)))
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    crop = Augment([ViewSpec(32, (0.5, 1.0), jitter_p=0, gray_p=0, blur_p=0)])
    generator = torch.Generator().manual_seed(0)
    order = BatchOrder(len(train), BATCH, steps, seed=0)
    for images, labels in batches(train, order, torch.device("cpu"), 0):
        (view,) = crop.apply(images, crop.sample(BATCH, 32, 32, generator))
        loss = F.cross_entropy(model(view[0]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        return accuracy(model(normalize(test.images())), test.labels)


def main() -> None:
    train, test = SceneDataset("train", 32, 10_000), SceneDataset("test", 32, 2_000)
    started = time.perf_counter()
    train.images()
    seconds = time.perf_counter() - started
    test.images()
    untrained = new_encoder(configure())
    knn = evaluate_knn(untrained, train, test, [20])
    print(f"k-NN raw pixels          {100 * knn['knn_raw_pixels'][20]:.1f} %")
    print(f"k-NN colour histogram    {100 * knn['knn_color_histogram'][20]:.1f} %")
    print(f"k-NN untrained encoder   {100 * knn['knn_top1'][20]:.1f} %")
    print(f"supervised, same encoder {100 * supervised(train, test):.1f} %")
    print(f"drawn at 32 px           {len(train) / seconds:.0f} scenes/s on this machine")


if __name__ == "__main__":
    main()
