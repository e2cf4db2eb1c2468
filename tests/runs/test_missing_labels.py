"""A label of -1 reaches no score: not of a run, nor of an evaluation, a picture or a loss."""

import json
import math
import re

import pytest
import torch
from PIL import Image

from dino_tutorial import configure, evaluate, train
from dino_tutorial.cli import main
from dino_tutorial.datasets import ArrayDataset, open_dataset
from dino_tutorial.datasets.subset import labelled_subset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    accuracy,
    class_maps,
    knn_accuracies,
    label_efficiency,
    linear_probe,
    propagate_labels,
)
from dino_tutorial.methods.supervised import Supervised
from dino_tutorial.models import build_encoder
from dino_tutorial.plots import neighbour_rows

QUICK = {"device": "cpu", "train.epochs": 1, "data.image_size": 32}


def save(folder, n, colour):
    folder.mkdir(parents=True)
    for number in range(n):
        pixels = Image.new("RGB", (32, 32), colour)
        pixels.putpixel((number, 0), (255, 255, 255))
        pixels.save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def flat_test(tmp_path_factory):
    """Training images in two classes, test images beside each other."""
    folder = tmp_path_factory.mktemp("flat") / "images"
    save(folder / "train" / "red", 20, "red")
    save(folder / "train" / "green", 20, "green")
    save(folder / "test", 8, "red")
    return folder


@pytest.fixture(scope="module")
def run(flat_test, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(configure("byol", str(flat_test), "smoke", QUICK | {"folder": str(folder)}))


@pytest.mark.slow
def test_a_run_without_labelled_test_images_has_no_score(run, flat_test, capsys):
    scores = {key: value for key, value in run.summary.items() if key.startswith("knn")}
    assert set(scores.values()) == {None}
    page = run.report.read_text()
    assert "nothing useful was learned" not in page and "k-NN accuracy was not measured" in page
    assert "neighbours are of the query" not in page and "marks the right class" not in page
    assert main(["eval", str(run.folder), "--device", "cpu", "--k", "3"]) == 2
    assert "no labelled test images" in capsys.readouterr().err
    with pytest.raises(UserError, match="no labelled test images"):
        evaluate(run, k=3, device="cpu")


@pytest.mark.slow
def test_neighbours_of_unlabelled_images_are_not_counted_as_wrong(run, tmp_path, capsys):
    out = tmp_path / "neighbours.png"
    assert main(["show", str(run.folder), "neighbours", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "4 query images with 5 nearest neighbours" in told and "class" not in told


@pytest.mark.slow
def test_unlabelled_training_images_are_no_bank(tmp_path, capsys):
    save(tmp_path / "images" / "train", 32, "red")
    save(tmp_path / "images" / "test" / "red", 4, "red")
    save(tmp_path / "images" / "test" / "green", 4, "green")
    where = {"folder": str(tmp_path / "runs")}
    run = train(configure("byol", str(tmp_path / "images"), "smoke", QUICK | where))
    assert run.summary["knn_top1"] is None
    with pytest.raises(UserError, match="no labelled training images"):
        evaluate(run, k=3, device="cpu")
    with pytest.raises(UserError, match="supervised needs labels"):
        train(configure("supervised", str(tmp_path / "images"), "smoke", QUICK | where))


def test_the_classes_are_known_where_one_split_has_no_labels(flat_test):
    bank, queries = (open_dataset(flat_test, split) for split in ("train", "test"))
    assert bank.classes == queries.classes == ("green", "red")
    assert queries.labels.tolist() == [-1] * 8 and len(labelled_subset(queries)) == 0


def test_labelled_subset_takes_images_with_a_label_and_no_others():
    pixels = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    for classes in ((), ("a", "b")):
        mixed = ArrayDataset(pixels, torch.tensor([1, -1, 0, -1]), classes)
        assert labelled_subset(mixed).images()[:, 0, 0, 0].tolist() == [0, 2]
        assert len(labelled_subset(ArrayDataset(pixels, None, classes))) == 0


def test_a_supervised_batch_without_labels_teaches_nothing_and_breaks_nothing():
    torch.manual_seed(0)
    method = Supervised(build_encoder("vit_tiny", img_size=16, patch_size=8), n_classes=3)
    views = [torch.randn(1, 4, 3, 16, 16)]
    out = method(views, {}, True, labels=torch.full((4,), -1))
    assert out["loss"].item() == 0 and math.isnan(out["accuracy"].item())
    out["loss"].backward()
    assert all(p.grad.abs().max() == 0 for p in method.parameters() if p.grad is not None)
    some = torch.tensor([2, -1, 0, -1])
    loss = method(views, {}, False, labels=some)["loss"]
    logits = method.student(views)[1][0][[0, 2]]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, some[[0, 2]]))


def test_measures_refuse_test_images_without_label():
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    missing = y.clone()
    missing[3] = -1
    for measure in (
        lambda: accuracy(torch.rand(40, 2), missing),
        lambda: knn_accuracies(x, y, x, missing, [3]),
        lambda: knn_accuracies(x, missing, x, y, [3]),
        lambda: linear_probe(x, y, x, missing),
        lambda: label_efficiency(x, y, x, missing, [2]),
    ):
        with pytest.raises(UserError, match="no label"):
            measure()


def test_an_object_without_label_is_not_background():
    masks = torch.tensor([[[True, False]], [[True, False]]])
    assert class_maps(masks, torch.tensor([2, -1])).tolist() == [[[3, 0]], [[-1, 0]]]


def test_first_labels_below_0_are_refused():
    labels = torch.tensor([[0, -1], [1, 1]])
    with pytest.raises(UserError, match="labels below 0"):
        propagate_labels(torch.randn(2, 4, 3), labels, (2, 2))


def test_marks_are_only_drawn_where_both_labels_are_known():
    queries = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    found = torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([[0, -1, 1], [0, 0, 0]])
    figure = neighbour_rows(queries, found, torch.tensor([0, -1]), labels, ("a", "b"))
    assert "1 of 2 labelled neighbours are of the query's class" in figure.alt_text
    figure = neighbour_rows(queries, found, torch.tensor([-1, -1]), labels, ("a", "b"))
    assert not re.search("class", figure.alt_text)


@pytest.mark.slow
def test_a_recorded_summary_is_json_without_numbers_that_are_none(run):
    text = (run.folder / "summary.json").read_text()
    assert json.loads(text)["knn_top1"] is None
