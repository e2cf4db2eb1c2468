"""The images of a run: what it learns from, and what measures it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn

from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.subset import labelled_subset, random_subset
from dino_tutorial.evaluation import accuracy, extract_features, knn_classify
from dino_tutorial.runs.config import Config
from dino_tutorial.seeds import Stream, mix


@dataclass(frozen=True)
class Images:
    """Splits of one data set.

    Attributes:
        train: what is trained on, on the canvas that crops are cut from, photographs whole.
        bank: the training split at the size of evaluation, with labels or without.
        test: the test split likewise.
    """

    train: ImageDataset
    bank: ImageDataset
    test: ImageDataset

    @classmethod
    def open(cls, config: Config) -> "Images":
        data, size = config.data, config.views.global_size
        opened = partial(open_dataset, config.source, root=data.root, limit=data.limit)
        train = opened("train", image_size=data.image_size, fit=data.fit)
        same = train.image_size == size and not train.padded
        bank = train if same else opened("train", image_size=size)
        return cls(train, bank, opened("test", image_size=size))

    @cached_property
    def labelled_bank(self) -> ImageDataset:
        return labelled_subset(self.bank)

    @cached_property
    def labelled_test(self) -> ImageDataset:
        return labelled_subset(self.test)

    def missing_labels(self) -> str | None:
        """Why no score can be had; None when there is one."""
        if len(self.bank.classes) < 2 or len(self.labelled_bank) == 0:
            return "no labelled training images of two classes"
        return None if len(self.labelled_test) else "no labelled test images"

    def watch(
        self, encoder: nn.Module, config: Config, device: torch.device
    ) -> Callable[[], dict[str, float]] | None:
        """A function that measures k-NN on *training* images: some are the bank, others queries.

        The test split stays unseen until the end, so watching it cannot tune anything.
        """
        bank = self.labelled_bank
        n_bank = min(config.knn.watch_bank, len(bank) * 4 // 5)
        if len(bank.classes) < 2 or n_bank < 1:
            return None
        seed = mix(config.seed, Stream.WATCHED)
        few = random_subset(bank, n_bank + config.knn.watch_queries, seed)
        k, temperature = min(config.knn.k, n_bank), config.knn.temperature

        def measure() -> dict[str, float]:
            features, labels = extract_features(encoder, few, device=device)
            votes = knn_classify(
                features[:n_bank], labels[:n_bank], features[n_bank:], k, temperature
            )
            return {"knn_top1": accuracy(votes, labels[n_bank:])}

        return measure
