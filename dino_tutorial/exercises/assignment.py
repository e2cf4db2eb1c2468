"""Notebooks of exercises to hand out: what is asked, an empty cell, a check; no solutions."""

import json
from pathlib import Path

from dino_tutorial.errors import UserError
from dino_tutorial.exercises.exercise import Exercise
from dino_tutorial.exercises.registry import CHAPTERS, list_exercises
from dino_tutorial.files import kind_of, made_folder, user_path, write_text

FORMATS = ("plain", "nbgrader", "otter")
IMPORTS = """import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dino_tutorial.exercises import check, hint, list_exercises, progress"""


def write_assignments(chapter: str, out: str | Path, kind: str = "plain") -> list[Path]:
    """Write ``CHAPTER.ipynb``, an exercise notebook, for one chapter or for each of them.

    Args:
        chapter: file name of a chapter, such as ``"byol"``; ``"all"`` for all.
        out: a folder, made if need be; notebooks of these names in it must not be there yet.
        kind: ``"plain"``; ``"nbgrader"``, with its metadata: answers are marked as such and
            removed from the student's version, tests are locked and have a point each;
            ``"otter"``, in the raw cells that ``otter assign`` reads.

    Returns:
        The files that were written.

    Raises:
        UserError: if there is no such chapter or format, or a file cannot be written.
    """
    if kind not in FORMATS:
        raise UserError(f"there is no format '{kind}': choose one of {', '.join(FORMATS)}")
    chapters = CHAPTERS if chapter == "all" else (chapter,)
    notebooks = {f"{name}.ipynb": assignment(name, kind) for name in chapters}
    out = user_path(out)
    there = [name for name in notebooks if kind_of(out / name)]
    if there:
        raise UserError(f"{out / there[0]} is there already: choose another folder with --out")
    paths = [out / name for name in notebooks]
    with made_folder(out):
        try:
            for path, notebook in zip(paths, notebooks.values(), strict=True):
                write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        except BaseException:
            for path in paths:
                path.unlink(missing_ok=True)
            raise
    return paths


def assignment(chapter: str, kind: str = "plain") -> dict:
    """The exercise notebook of a chapter, as JSON of nbformat 4."""
    exercises = list_exercises(chapter)
    title = chapter.replace("-", " ").capitalize()
    says = (
        f"# Exercises: {title}\n\nWrite each function or class in the empty cell below its "
        "text, then run the check. It says what is wrong, and `hint(name)` says more. "
        "`progress()` shows what is solved."
    )
    cells = [_raw(f"# ASSIGNMENT CONFIG\nname: {chapter}")] if kind == "otter" else []
    cells += [_markdown(says), _code(IMPORTS)]
    for exercise in exercises:
        cells += {"plain": _plain, "nbgrader": _nbgrader, "otter": _otter}[kind](exercise)
    cells.append(_code("progress()"))
    for number, cell in enumerate(cells):
        cell["id"] = f"{chapter}-{number}"
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": python, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _plain(exercise: Exercise) -> list[dict]:
    return [_asked(exercise), _code(""), _code(_check(exercise))]


def _nbgrader(exercise: Exercise) -> list[dict]:
    """An autograded answer and a locked test, as nbgrader's metadata (schema 3) says it."""
    answer = _code("# YOUR CODE HERE\nraise NotImplementedError()")
    answer["metadata"]["nbgrader"] = {
        "grade": False,
        "grade_id": f"answer-{exercise.name}",
        "locked": False,
        "schema_version": 3,
        "solution": True,
        "task": False,
    }
    test = _code(f"assert {_check(exercise)}")
    test["metadata"]["nbgrader"] = {
        "grade": True,
        "grade_id": f"test-{exercise.name}",
        "locked": True,
        "points": 1,
        "schema_version": 3,
        "solution": False,
        "task": False,
    }
    return [_asked(exercise), answer, test]


def _otter(exercise: Exercise) -> list[dict]:
    """A question as ``otter assign`` reads it: config, prompt, solution and tests, in raw cells."""
    prompt = '""" # BEGIN PROMPT\n# your answer\n"""; # END PROMPT'
    config = f"# BEGIN QUESTION\nname: {exercise.name}\npoints: 1"
    return [
        _raw(config),
        _asked(exercise),
        _raw("# BEGIN SOLUTION"),
        _code(f"# BEGIN SOLUTION NO PROMPT\n# END SOLUTION\n{prompt}"),
        _raw("# END SOLUTION"),
        _raw("# BEGIN TESTS"),
        _code(f"assert {_check(exercise)}"),
        _raw("# END TESTS"),
        _raw("# END QUESTION"),
    ]


def _asked(exercise: Exercise) -> dict:
    return _markdown(f"## {exercise.name}\n\n`{exercise.call}`\n\n{exercise.task}")


def _check(exercise: Exercise) -> str:
    return f'check("{exercise.name}", {exercise.name})'


def _markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _raw(source: str) -> dict:
    return {"cell_type": "raw", "metadata": {}, "source": source}


def _code(source: str) -> dict:
    empty = {"execution_count": None, "metadata": {}, "outputs": []}
    return {"cell_type": "code", **empty, "source": source}
