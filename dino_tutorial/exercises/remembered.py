"""What was solved, kept in a file from one session to the next."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dino_tutorial.exercises.registry import CHAPTERS, EXERCISES

PROGRESS_FILE = "DINO_TUTORIAL_PROGRESS"  # environment variable: another file, or `off`


class Progress:
    """The exercises that are solved, by chapter; prints as a list.

    Args:
        solved: their names.
    """

    def __init__(self, solved: set[str]):
        self.solved = solved & EXERCISES.keys()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return "\n\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"solved: {len(self.solved)} of {len(EXERCISES)} exercises"
        for chapter in CHAPTERS:
            names = [e.name for e in EXERCISES.values() if e.chapter == chapter]
            if not self.solved.isdisjoint(names):
                done = sum(name in self.solved for name in names)
                marks = "  ".join(f"{'✓' if name in self.solved else '·'} {name}" for name in names)
                yield f"{chapter}, {done} of {len(names)}:  {marks}"


def progress() -> Progress:
    """What this reader has solved so far, in this session and in earlier ones.

    It is kept in ``~/.local/share/dino_tutorial/progress.json``, or in the file that the
    environment variable ``DINO_TUTORIAL_PROGRESS`` names; ``off`` keeps nothing. To begin anew,
    delete the file.
    """
    return Progress(_read())


def remember(exercise: str) -> None:
    """Note that an exercise is solved. Where nothing can be written, nothing is remembered."""
    path, solved = _path(), _read()
    if path is None or exercise in solved:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(sorted(solved | {exercise})), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()


def _read() -> set[str]:
    path = _path()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else []
    except (OSError, ValueError):
        return set()
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def _path() -> Path | None:
    named = os.environ.get(PROGRESS_FILE)
    if named == "off":
        return None
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(named).expanduser() if named else Path(data) / "dino_tutorial" / "progress.json"
