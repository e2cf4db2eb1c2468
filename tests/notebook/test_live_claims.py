"""The live checks of the claims ledger can fail: each does when the package were otherwise."""

import ast
from pathlib import Path

import nbformat
import pytest
from torch.nn.functional import normalize

from dino_tutorial import losses, methods, models, views
from dino_tutorial.runs import configure

BOOK = Path(__file__).resolve().parents[2] / "book"
CELLS = [cell for cell in nbformat.read(BOOK / "claims.ipynb", 4).cells if cell.cell_type == "code"]
CHECKS = {
    int(tag.removeprefix("claim-")): cell.source
    for cell in CELLS
    for tag in cell.metadata.get("tags", [])
    if tag.startswith("claim-")
}


@pytest.fixture
def names(monkeypatch) -> dict:
    """What the ledger defines before its first check."""
    monkeypatch.chdir(BOOK)
    names = {}
    for cell in CELLS:
        if any(tag.startswith("claim-") for tag in cell.metadata.get("tags", [])):
            return names
        exec(compile(cell.source, "claims", "exec"), names)
    raise AssertionError("no cell of the ledger has the tag of a claim")


def run(number: int, names: dict) -> None:
    """As a notebook does: what the last line is worth is shown."""
    tree = ast.parse(CHECKS[number], f"claim-{number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"claim-{number}", "exec"), names)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), f"claim-{number}", "eval"), names)
        if shown is not None:
            print(shown)


def configured(**ours):
    """A ``configure`` whose presets are other ones."""

    def other(method, preset, changes=None):
        return configure(method, preset=preset, changes=(changes or {}) | ours)

    return other


class LooksAtAttention(methods.DINO):
    """A DINO that uses its attention maps while it trains."""

    def forward(self, views, values, measure):
        self.student.backbone.get_attention(views[0][0])
        return super().forward(views, values, measure)


class TeacherSeesAll(methods.DINO):
    def forward(self, views, values, measure):
        self.teacher(views)
        return super().forward(views, values, measure)


class FixedTarget(methods.BYOL):
    def after_step(self, values):
        """The random network stays as it is."""


class WithoutPredictor(methods.BYOL):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        del self.predictor


def pushing_apart(prediction, target):
    prediction, target = normalize(prediction, dim=-1), normalize(target, dim=-1)
    return (prediction @ target.T).mean() - 2 * (prediction * target).sum(dim=-1).mean()


def normalised_over_the_batch(logits, assignments, temp):
    return losses.swapped_prediction_loss(
        logits - logits.mean(dim=1, keepdim=True), assignments, temp
    )


def needs_xformers(**arguments):
    import xformers  # noqa: F401

    return models.vit_small(**arguments)


OTHERWISE = {
    2: {"configure": configured(**{"views.global_scale": [0.5, 1.0]})},
    6: {"DINO": LooksAtAttention},
    11: {
        "configure": configured(
            **{
                "objective.teacher_temp_start": 0.07,
                "objective.teacher_temp": 0.04,
                "objective.teacher_temp_warmup_epochs": 30,
            }
        )
    },
    12: {"dino_views": lambda: views.dino_views(hue=0.0)},
    14: {
        "swapped_prediction_loss": lambda *tensors, temp: losses.swapped_prediction_loss(
            *tensors, temp=2 * temp
        )
    },
    18: {"vit_small": models.vit_tiny},
    19: {"DINO": TeacherSeesAll},
    20: {"byol_loss": pushing_apart},
    21: {"BYOL": FixedTarget},
    22: {"swapped_prediction_loss": normalised_over_the_batch},
    23: {"BYOL": WithoutPredictor},
    27: {"vit_small": needs_xformers},
}


@pytest.mark.parametrize("number", sorted(CHECKS))
def test_a_live_check_holds_and_can_fail(number, names, capsys):
    run(number, names)
    assert capsys.readouterr().out.strip()
    names.update(OTHERWISE[number])
    with pytest.raises((AssertionError, ImportError)):
        run(number, names)


def test_every_live_check_is_challenged():
    assert CHECKS.keys() == OTHERWISE.keys()
