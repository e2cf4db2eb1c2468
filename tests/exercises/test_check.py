"""What `check` does beside judging: a pinned state, a time limit, hints, progress, assignments."""

import contextlib
import json
import threading
import time

import nbformat
import pytest
import torch
import torch.nn.functional as F

from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.exercises import check, hint, list_exercises, pinned, progress
from dino_tutorial.exercises.assignment import FORMATS, assignment, write_assignments
from dino_tutorial.exercises.checking import judge
from dino_tutorial.exercises.registry import CHAPTERS, EXERCISES


def byol_loss(prediction, target):
    return (2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=-1)).mean()


def without_stop(prediction, target):
    return (2 - 2 * F.cosine_similarity(prediction, target, dim=-1)).mean()


@pytest.fixture
def clean():
    """The defaults of PyTorch as they were, whatever a test does to them."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype_is_pinned(clean, dtype):
    torch.set_default_dtype(dtype)
    assert check("byol_loss", byol_loss)
    assert check("byol_loss", without_stop).mistake == "no-stop-gradient"
    assert torch.get_default_dtype() == dtype


def test_the_default_device_is_pinned(clean):
    torch.set_default_device("meta")
    assert check("labelled", _labelled) and check("byol_loss", byol_loss)
    assert torch.get_default_device() == torch.device("meta")


def _labelled(labels, per_class, seed):
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    kinds = [(labels == kind).nonzero().flatten() for kind in labels.unique()]
    return torch.cat([where[keys[where].argsort()[:per_class]] for where in kinds])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_grad_mode_is_pinned(mode):
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert check("byol_loss", byol_loss)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


def test_autocast_is_pinned():
    with torch.autocast("cpu", torch.bfloat16):
        assert judge(EXERCISES["attention"], EXERCISES["attention"].solution)


def endless(prediction, target):
    while True:
        with contextlib.suppress(Exception):
            prediction = prediction + 0


def waits(prediction, target):
    time.sleep(60)


@pytest.mark.parametrize("answer", [endless, waits])
def test_an_answer_that_never_ends_is_ended(monkeypatch, answer):
    monkeypatch.setattr(pinned, "TIME_LIMIT", 0.3)
    verdict = check("byol_loss", answer)
    assert verdict.mistake == "time" and "0.3 seconds" in verdict.message
    assert check("byol_loss", byol_loss).mistake in (None, "time")  # no alarm is left behind
    time.sleep(0.4)


def test_outside_of_the_main_thread_too(monkeypatch):
    monkeypatch.setattr(pinned, "TIME_LIMIT", 0.3)
    said = []
    thread = threading.Thread(target=lambda: said.append(judge(EXERCISES["byol_loss"], endless)))
    thread.start()
    thread.join(60)
    assert said and said[0].mistake == "time"


def test_a_table_of_what_the_probes_want_is_no_answer():
    """Right on the probes that never change, wrong on fresh ones."""
    known = {}

    def learn(p, z):
        known[p.shape] = known.get(p.shape, []) + [p.detach().clone()]
        return byol_loss(p, z)

    exercise = EXERCISES["byol_loss"]
    assert judge(exercise, learn, draw=1)

    def table(p, z):
        seen = any(torch.equal(p, other) for other in known[p.shape])
        return byol_loss(p, z) if seen else 0 * byol_loss(p, z)

    assert judge(exercise, table, draw=1)
    assert not judge(exercise, table, draw=2)
    assert not check("byol_loss", table)


def test_hints_come_one_after_the_other():
    verdict = check("byol_loss", without_stop)
    assert "detach" not in verdict.message
    assert hint("byol_loss") == "use `target.detach()`."
    assert "should be" in hint("byol_loss") and "on a probe" not in verdict.message
    assert "that is all" in hint("byol_loss")
    check("byol_loss", without_stop)
    assert repr(hint("byol_loss")) == "use `target.detach()`."
    check("byol_loss", byol_loss)
    assert "solved" in hint("byol_loss")
    assert EXERCISES["koleo"].call in hint("koleo")  # nothing was checked yet
    with pytest.raises(UserError, match="did you mean"):
        hint("byol_los")


def test_what_was_solved_is_remembered(tmp_path, monkeypatch):
    path = tmp_path / "a" / "progress.json"
    monkeypatch.setenv("DINO_TUTORIAL_PROGRESS", str(path))
    assert "solved: 0 of" in str(progress())
    check("byol_loss", without_stop)
    assert not path.exists()
    check("byol_loss", byol_loss)
    assert json.loads(path.read_text()) == ["byol_loss"]
    assert "✓ byol_loss" in str(progress()) and "byol, 1 of 3" in progress()._repr_markdown_()
    path.write_text('{"broken": ')
    assert progress().solved == set()
    path.write_text('["byol_loss", "no such exercise", 3]')
    assert progress().solved == {"byol_loss"}


def test_nothing_is_remembered_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file" / "progress.json"), "off"):
        monkeypatch.setenv("DINO_TUTORIAL_PROGRESS", place)
        assert check("byol_loss", byol_loss)
        assert progress().solved == set()


@pytest.mark.parametrize("name", EXERCISES)
def test_a_statement_names_every_argument(name):
    """Each argument of the call stands in the text, which is long enough to say its shape."""
    exercise = EXERCISES[name]
    inside = exercise.call.partition("(")[2].rstrip(")").split(", ")
    missing = [a for a in inside if a not in exercise.task]
    assert missing == [] and len(exercise.task) > 80


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_an_assignment_has_what_is_asked_and_no_solution(chapter, kind):
    notebook = nbformat.from_dict(assignment(chapter, kind))
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells)
    for exercise in list_exercises(chapter):
        assert exercise.task in text and f'check("{exercise.name}", {exercise.name})' in text
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert not any("def " in source or "return" in source for source in code)
    empty = {"plain": "", "nbgrader": "# YOUR CODE HERE", "otter": "# BEGIN SOLUTION NO PROMPT"}
    answers = (
        [source for source in code if source.startswith(empty[kind])]
        if empty[kind]
        else [source for source in code if source == ""]
    )
    assert len(answers) == len(list_exercises(chapter))
    if kind == "nbgrader":
        marks = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
        assert sum(mark.get("points", 0) for mark in marks) == len(list_exercises(chapter))
        assert len({mark.grade_id for mark in marks}) == len(marks)


def test_assignments_from_the_command_line(tmp_path, capsys):
    assert main(["assignment", "byol", "--out", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one' / 'byol.ipynb'}\n"
    assert main(["assignment", "all", "--out", str(tmp_path / "all"), "--format", "otter"]) == 0
    written = {path.stem for path in (tmp_path / "all").glob("*.ipynb")}
    assert written == set(CHAPTERS)
    capsys.readouterr()
    assert main(["assignment", "byol", "--out", str(tmp_path / "one")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["assignment", "biol", "--out", str(tmp_path / "two")]) == 2
    assert "there is no chapter 'biol'" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_an_assignment_that_is_answered_passes(tmp_path):
    (path,) = write_assignments("byol", tmp_path)
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    names: dict = {}
    answers = iter(["byol_loss = answer", "both_directions = None", "trained_parameters = None"])
    names["answer"] = byol_loss
    for source in cells:
        exec(source or next(answers), names)
    assert names["check"]("byol_loss", names["byol_loss"])
    with pytest.raises(UserError, match="no format"):
        write_assignments("byol", tmp_path, "word")
