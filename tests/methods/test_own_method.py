"""A method from outside the package: the page's VICReg, and the least that a method can be."""

from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from dino_tutorial import configure, evaluate, load_run, train
from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS, Method, Network, help_of, title_of
from dino_tutorial.runs import register
from dino_tutorial.views import single_view

pytestmark = pytest.mark.slow  # whole trainings, other processes

PAGE = Path(__file__).resolve().parents[2] / "book" / "add-a-method.ipynb"


@pytest.fixture(autouse=True)
def _forget_methods(monkeypatch):
    monkeypatch.setattr("dino_tutorial.runs.config._OF_OTHERS", {})
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def vicreg():
    code = [c for c in nbformat.read(PAGE, as_version=4).cells if c.cell_type == "code"]
    cells = [c.source for c in code if "install" not in c.metadata.get("tags", [])]
    (last,) = (place for place, cell in enumerate(cells) if "class VICReg(" in cell)
    (registers,) = (cell for cell in cells if "register(" in cell)
    method = "\n\n\n".join(cells[: last + 1])  # settings and loss stand in the cell before
    assert len(method.splitlines()) <= 60
    names: dict = {}
    exec(method, names)  # the page's own code
    exec(registers, names)
    return names["VICReg"]


def test_the_pages_method_trains_is_measured_and_reported(vicreg, tmp_path):
    assert title_of("vicreg") == "VICReg" and help_of("vicreg").startswith("Two views of an image")
    run = train(configure("vicreg", preset="smoke", changes={"folder": str(tmp_path)}))
    assert {"loss", "distance", "hinge", "repeats"} <= set(run.metrics[-1])
    assert run.metrics[-1]["loss"] < run.metrics[0]["loss"]
    assert evaluate(run, limit=64)["knn_top1"] > 0
    assert "VICReg, trained" in run.report.read_text(encoding="utf-8")
    assert load_run(run.folder).config == run.config


def test_at_laptop_it_takes_a_step(vicreg, tmp_path):
    few = {"folder": str(tmp_path), "data.limit": 96, "train.epochs": 1, "optim.warmup_epochs": 1}
    run = train(configure("vicreg", preset="laptop", changes=few))
    assert run.complete and run.config.objective.out_dim == 512


def test_its_settings_are_checked_as_any_methods(vicreg):
    with pytest.raises(UserError, match="did you mean 'objective.variance'"):
        configure("vicreg", changes={"objective.varianc": 1})


@dataclass(frozen=True)
class NoSettings:
    pass


class Least(Method):
    """It pulls features to zero."""

    Settings = NoSettings

    def __init__(self, backbone, settings=NoSettings()):
        super().__init__()
        self.student = Network(backbone, nn.Identity())

    @staticmethod
    def view_specs(views):
        return single_view(views.global_size)

    def forward(self, views, values, measure):
        features, _ = self.student(views)
        return {"loss": features.square().mean()}


def test_a_loss_is_enough(tmp_path):
    register("least", Least)
    run = train(configure("least", preset="smoke", changes={"folder": str(tmp_path)}))
    assert run.complete and run.report.exists() and run.summary["feature_spread"] is None
    assert set(run.metrics[0]) == {
        "step",
        "epoch",
        "loss",
        "lr",
        "weight_decay",
        "grad_norm",
        "knn_top1",
    }
    assert torch.isfinite(torch.tensor(run.summary["final_loss"]))


def test_registering_again_and_in_vain():
    register("least", Least, presets={"smoke": {"optim.lr": 0.1}})
    assert configure("least", preset="smoke").optim.lr == 0.1
    register("least", Least)
    assert configure("least", preset="smoke").optim.lr != 0.1
    with pytest.raises(UserError, match="'dino' names DINO already"):
        register("dino", Least)
    with pytest.raises(UserError, match="cannot name a method"):
        register("My method", Least)
    with pytest.raises(UserError, match="unknown preset 'labtop': did you mean 'laptop'"):
        register("least", Least, presets={"labtop": {}})
