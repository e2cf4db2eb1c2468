"""Data sets of the hub, with a small library in place of `datasets` and its network."""

import io
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.every import open_every
from dino_tutorial.errors import UserError


class Image:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    names = ["cat", "dog"]


class Rows:
    """What of `datasets.Dataset` is used: columns, single rows, selections, encoded images."""

    def __init__(self, columns: dict, features: dict, fingerprint: str = "f") -> None:
        self.columns, self.features, self._fingerprint = columns, features, fingerprint

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        assert type(key) is int and not self.features["picture"].decode
        return {name: values[key] for name, values in self.columns.items()}

    def select(self, chosen):
        columns = {name: [v[n] for n in chosen] for name, v in self.columns.items()}
        return Rows(columns, self.features, f"{self._fingerprint}/{hash(tuple(chosen))}")

    def cast_column(self, name, feature):
        return Rows(self.columns, self.features | {name: feature}, self._fingerprint)


def rows(n: int, labels: bool = True) -> Rows:
    columns = {"picture": [], "kind": []}
    for number in range(n):
        file = io.BytesIO()
        Pillow.fromarray(np.full((40, 60, 3), 5 * number, np.uint8)).save(file, "PNG")
        columns["picture"].append({"bytes": file.getvalue(), "path": None})
        columns["kind"].append(number % 2)
    features = {"picture": Image(), "kind": ClassLabel() if labels else object()}
    return Rows(columns, features)


@pytest.fixture
def hub(monkeypatch) -> dict:
    """The sets that are there, by name."""
    sets: dict = {}
    fake = SimpleNamespace(load_dataset=lambda name: sets[name], Image=Image)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return sets


def test_a_set_with_both_splits(hub):
    hub["ann/pets"] = {"train": rows(12), "validation": rows(4)}
    train, test = (open_dataset("hf:ann/pets", split, image_size=32) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (12, 4, ("cat", "dog"))
    assert train.labels.tolist() == [0, 1] * 6
    assert train.images()[:, 0, 0, 0].tolist() == [5 * n for n in range(12)]
    whole = open_dataset("hf:ann/pets", "train", image_size=64, fit="whole")
    assert whole.placed()[1][0].tolist() == [40, 60]
    few = open_dataset("hf:ann/pets", "train", image_size=32, limit=5)
    assert len(few) == 5 and few.fingerprint() != train.fingerprint()
    every = open_every("hf:ann/pets", 32)
    assert len(every.paths) == 16 and every.paths[-1] == "test/3"


def test_a_tenth_is_held_out_where_there_is_one_split(hub):
    hub["ann/pets"] = {"train": rows(40, labels=False)}
    train, test = (open_dataset("hf:ann/pets", split, image_size=8) for split in ("train", "test"))
    assert len(train) + len(test) == 40 and 1 <= len(test) <= 12
    seen = [set(split.images()[:, 0, 0, 0].tolist()) for split in (train, test)]
    assert not seen[0] & seen[1]
    assert train.classes == () and (train.labels == -1).all()


def test_decoding_on_demand_in_other_processes(hub, monkeypatch):
    monkeypatch.setattr("dino_tutorial.datasets.decode.MEMORY_LIMIT", 1)
    hub["ann/pets"] = {"train": rows(6), "test": rows(2)}
    images = pickle.loads(pickle.dumps(open_dataset("hf:ann/pets", "train", image_size=8)))
    assert not images.in_memory
    assert images.images(torch.tensor([4, 1]))[:, 0, 0, 0].tolist() == [20, 5]


def test_what_cannot_be_had_is_one_sentence(hub):
    with pytest.raises(UserError, match=r"^hf:ann/none cannot be had \('ann/none'\): check its"):
        open_dataset("hf:ann/none")
    hub["ann/words"] = {"train": Rows({"text": ["a"]}, {"text": object()})}
    with pytest.raises(UserError, match="hf:ann/words has no column of images"):
        open_dataset("hf:ann/words")
    hub["ann/odd"] = {"everything": rows(3)}
    with pytest.raises(UserError, match="has no split train, only everything"):
        open_dataset("hf:ann/odd")


def test_without_the_library_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'dino-tutorial\[hub\]'$"):
        open_dataset("hf:ann/pets")
