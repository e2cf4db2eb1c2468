"""A folder of submitted notebooks to a table: a row a submission, a column an exercise."""

import csv
import io
import sys
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, user_path, write_text
from dino_tutorial.grading.submission import Graded, run_submission

FIRST_COLUMNS = ("submission", "status", "reason", "seconds", "score")
LAST_COLUMN = "mistakes"
LONGEST, MOST_MEMORY = 7 * 24 * 3600, 4096  # seconds, GiB


def grade_folder(
    folder: Path, out: Path = Path("grades.csv"), timeout: float = 120, memory: float = 4
) -> list[Graded]:
    """Run every notebook in ``folder`` and write what its checks said to a CSV file.

    The file has one row a submission: whether it ran, and why not; its score, the number of
    exercises that passed in at least one ``check``; 1 or 0 for each exercise, nothing for one
    that was not tried; and the names of the mistakes in what did not pass. It is complete after
    each submission, so that an interruption loses only the one that is running.

    Args:
        folder: searched for ``*.ipynb``, subfolders too; nothing in it is changed.
        out: the CSV file, replaced if it is there.
        timeout: seconds that one submission may take in all.
        memory: GiB that its processes may use together (Linux).

    Raises:
        UserError: if an argument is of no use, or something that grading needs is missing.
    """
    _check_machine()
    folder, out = user_path(folder), user_path(out)
    if not (0 < timeout < LONGEST and 1 <= memory < MOST_MEMORY):
        raise UserError(
            f"timeout is {timeout:g} s and memory is {memory:g} GiB: give each submission more "
            "than 0 s and at least 1 GiB, which PyTorch alone nearly fills, and no more than a "
            f"week and {MOST_MEMORY} GiB"
        )
    notebooks = find_notebooks(folder)
    graded: list[Graded] = []
    write_table(out, graded)  # before the first one runs: can it be written at all?
    for path in tqdm(notebooks, desc="grading", unit="notebook"):
        name = path.relative_to(folder).as_posix()
        graded.append(run_submission(name, path, timeout, memory))
        write_table(out, graded)
    return graded


def find_notebooks(folder: Path) -> list[Path]:
    """All notebooks in a folder and its subfolders, sorted, without Jupyter's own copies."""
    if kind_of(folder) != "folder":
        raise UserError(f"{folder} is not a folder: name the one that holds the notebooks")
    found = sorted(
        path
        for path in folder.rglob("*.ipynb")
        if path.is_file() and ".ipynb_checkpoints" not in path.parts
    )
    if not found:
        raise UserError(f"there is no notebook (*.ipynb) in {folder}")
    return found


def write_table(out: Path, graded: list[Graded]) -> None:
    """Write the table, whole or not at all."""
    exercises = list(dict.fromkeys(name for row in graded for name in row.scores))
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow([*FIRST_COLUMNS, *exercises, LAST_COLUMN])
    writer.writerows([_safe(value) for value in _row(one, exercises)] for one in graded)
    write_text(out, table.getvalue())


def _row(one: Graded, exercises: list[str]) -> list[str]:
    scores = [str(int(one.scores[name])) if name in one.scores else "" for name in exercises]
    mistakes = "; ".join(f"{name}: {mistake}" for name, mistake in one.mistakes.items())
    first = one.submission, one.status, one.reason, f"{one.seconds:.1f}", str(one.score)
    return [*first, *scores, mistakes]


def _safe(value: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _check_machine() -> None:
    if sys.platform == "win32":
        raise UserError("grading needs the process limits of Linux or macOS: run it in WSL")
    missing = [name for name in ("nbclient", "nbformat", "ipykernel") if find_spec(name) is None]
    if missing:
        raise UserError(f"grading needs more packages: run pip install {' '.join(missing)}")
