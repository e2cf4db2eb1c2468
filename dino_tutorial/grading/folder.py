"""A folder of submitted notebooks to a table: a row a submission, a column an exercise."""

import csv
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path

from tqdm import tqdm

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, unreadable, user_path, write_text
from dino_tutorial.grading.submission import PACKAGE, Graded, run_submission

FIRST_COLUMNS = ("submission", "status", "reason", "seconds", "score", "out_of")
LAST_COLUMN = "mistakes"
LONGEST, MOST_MEMORY = 7 * 24 * 3600, 4096  # seconds, GiB


def grade_folder(
    folder: Path,
    out: Path = Path("grades.csv"),
    timeout: float = 120,
    memory: float = 4,
    jobs: int = 1,
    chapter: str | None = None,
) -> list[Graded]:
    """Run every notebook in ``folder`` and write what its answers are worth to a CSV file.

    Each answer that was handed to ``check`` is checked again by an untouched package, and that
    alone counts. The file has one row a submission: whether it ran, and why not; its score and
    the points that it is out of; 1 or 0 for each exercise, nothing for one that was not tried;
    and the names of the mistakes in what did not pass. It is complete after each submission, so
    that an interruption loses only those that are running.

    Args:
        folder: searched for ``*.ipynb``, subfolders too; nothing in it is changed.
        out: the CSV file, replaced if it is there.
        timeout: seconds that one submission may take in all.
        memory: GiB that its processes may use together (Linux).
        jobs: how many submissions run at once.
        chapter: the one whose exercises count, a point each; ``"all"`` for those of the book; by
            default all that at least one submission has tried.

    Raises:
        UserError: if an argument is of no use, or something that grading needs is missing.
    """
    _check_machine()
    folder, out = user_path(folder), user_path(out)
    # Not by `options`, which imports PyTorch: a submission's own process reads this file too.
    for name, value, kind in (("timeout", timeout, Real), ("memory", memory, Real),
                              ("jobs", jobs, Integral)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, kind):
            raise UserError(f"{name} wants a number, not {value!r:.40}")
    if not (0 < timeout < LONGEST and 1 <= memory < MOST_MEMORY):
        raise UserError(
            f"timeout is {timeout:g} s and memory is {memory:g} GiB: give each submission more "
            "than 0 s and at least 1 GiB, which PyTorch alone nearly fills, and no more than a "
            f"week and {MOST_MEMORY} GiB"
        )
    if jobs < 1:
        raise UserError(f"jobs is {jobs}: at least one submission has to run at a time")
    asked = None
    if chapter is not None:
        from dino_tutorial.exercises import list_exercises

        asked = [e.name for e in list_exercises(None if chapter == "all" else chapter)]
    notebooks = find_notebooks(folder)
    if out.resolve() in {path.resolve() for path in notebooks}:
        raise UserError(
            f"{out} is one of the notebooks: give --out another name, such as grades.csv"
        )
    names = [path.relative_to(folder).as_posix() for path in notebooks]
    write_table(out, [], asked)  # before the first one runs: can it be written at all?
    graded: dict[str, Graded] = {}
    bar = tqdm(total=len(notebooks), desc="grading", unit="notebook")
    with bar, ThreadPoolExecutor(jobs) as pool:
        running = [
            pool.submit(run_submission, name, path, timeout, memory)
            for name, path in zip(names, notebooks, strict=True)
        ]
        for done in as_completed(running):
            one = done.result()
            graded[one.submission] = one
            bar.update()
            write_table(out, [graded[name] for name in names if name in graded], asked)
    if changed := PACKAGE.changed():
        print(
            f"dino-tutorial: {changed[0]} of the installed package was changed meanwhile, which "
            f"no grade has seen; if that was not you, install the package again",
            file=sys.stderr,
        )
    return [graded[name] for name in names]


def find_notebooks(folder: Path) -> list[Path]:
    """All notebooks in a folder and its subfolders, sorted, without Jupyter's own copies."""
    if kind_of(folder) != "folder":
        raise UserError(f"{folder} is not a folder: name the one that holds the notebooks")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise unreadable(folder)
    found = sorted(
        path
        for path in folder.rglob("*.ipynb")
        if path.is_file() and ".ipynb_checkpoints" not in path.parts
    )
    if not found:
        raise UserError(f"there is no notebook (*.ipynb) in {folder}")
    return found


def write_table(out: Path, graded: list[Graded], asked: list[str] | None = None) -> None:
    """Write the table, whole or not at all; ``asked`` are the exercises that count."""
    tried = dict.fromkeys(name for row in graded for name in row.scores)
    exercises = list(tried) if asked is None else asked
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow([*FIRST_COLUMNS, *exercises, LAST_COLUMN])
    writer.writerows([_safe(value) for value in _row(one, exercises)] for one in graded)
    write_text(out, table.getvalue())


def _row(one: Graded, exercises: list[str]) -> list[str]:
    scores = [str(int(one.scores[name])) if name in one.scores else "" for name in exercises]
    score = sum(one.scores.get(name, False) for name in exercises)
    mistakes = "; ".join(f"{name}: {said}" for name, said in one.mistakes.items())
    first = one.submission, one.status, one.reason, f"{one.seconds:.1f}"
    return [*first, str(score), str(len(exercises)), *scores, mistakes]


def _safe(value: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _check_machine() -> None:
    if sys.platform == "win32":
        raise UserError("grading needs the process limits of Linux or macOS: run it in WSL")
    missing = [
        name
        for name in ("nbclient", "nbformat", "ipykernel", "cloudpickle")
        if find_spec(name) is None
    ]
    if missing:
        raise UserError(f"grading needs more packages: run pip install {' '.join(missing)}")
