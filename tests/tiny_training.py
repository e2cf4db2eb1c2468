"""A data set and a network so small that any method trains on them within seconds."""

from pathlib import Path

import torch

from dino_tutorial import configure
from dino_tutorial.datasets import ArrayDataset
from dino_tutorial.methods import METHODS, Method
from dino_tutorial.parallel import Processes
from dino_tutorial.runs import build_method
from dino_tutorial.runs.folder import new_encoder
from dino_tutorial.training.loop import Trainer
from dino_tutorial.views import Augment

SIZE, CLASSES = 32, 4


def pictures(n: int = 64) -> ArrayDataset:
    """Light above, dark below, and a square in the colour of the class somewhere."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % CLASSES
    colours = torch.tensor([[220, 30, 30], [30, 200, 30], [40, 60, 230], [220, 200, 20]])
    light = torch.linspace(220, 40, SIZE)[:, None].expand(SIZE, SIZE)
    images = light.expand(n, 3, SIZE, SIZE).clone()
    images += 20 * torch.rand(n, 3, SIZE, SIZE, generator=g)
    for image, label, (x, y) in zip(
        images, labels, torch.randint(4, 16, (n, 2), generator=g).tolist(), strict=True
    ):
        image[:, y : y + 12, x : x + 12] = colours[label][:, None, None].float()
    names = ("red", "green", "blue", "yellow")
    return ArrayDataset(images.clamp(0, 255).to(torch.uint8), labels, names, "tiny")


def trainer(
    method: str,
    folder: Path,
    processes: Processes | None = None,
    evaluate=None,
    device: str = "cpu",
    teacher: Method | None = None,
    **changes,
) -> Trainer:
    """A trainer of the smoke preset on the tiny pictures; keys of ``changes`` have ``__``.

    ``teacher`` is the trained method that distillation starts from.
    """
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    config = configure(method, preset="smoke", changes={"device": "cpu"} | dotted)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = pictures()
    if teacher is None:
        built = build_method(config, len(dataset.classes))
    else:
        built = METHODS[method](new_encoder(config), config.objective, teacher=teacher)
    built.to(device)
    return Trainer(
        method=built,
        augment=Augment(built.view_specs(config.views)),
        dataset=dataset,
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        device=torch.device(device),
        folder=folder,
        processes=processes or Processes(),
        evaluate=evaluate,
        warn=lambda sentence: None,
    )
