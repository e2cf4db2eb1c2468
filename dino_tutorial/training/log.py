"""What a run writes while it trains: one row of numbers at a time, in step with the checkpoints."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, read_bytes, unwritable

DAMAGED = "put it back from a copy, or train again under another --name"


class RowLog:
    """A JSON-lines file that can be cut back to where a checkpoint was taken."""

    def __init__(
        self,
        path: Path,
        size: int = 0,
        writes: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Open ``path`` and forget whatever lies beyond its first ``size`` bytes.

        Only one of several processes ``writes``; in the others nothing reaches the file. Where
        the file is shorter, or its end is no row, the rows that are left are kept and ``warn`` is
        told.

        Raises:
            UserError: it cannot be read or written.
        """
        self.path, self.writes = path, writes
        if not writes:
            return
        try:
            kept = _whole_rows(path, size)
            with open(path, "ab") as file:
                file.truncate(kept)
        except OSError as error:
            raise unwritable(path, error, "continue with --resume") from error
        if kept < size and warn is not None:
            warn(
                f"{path.name} ends {size - kept} bytes before the checkpoint was made: rows are "
                f"lost, and nothing else"
            )

    @property
    def size(self) -> int:
        return os.path.getsize(self.path) if self.path.exists() else 0

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path)

    def write(self, row: dict[str, Any]) -> None:
        if not self.writes:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise unwritable(self.path, error, "continue with --resume") from error

    def sync(self) -> None:
        """Have the disk hold what was written, so that no checkpoint is ahead of its rows."""
        if not self.writes or not self.path.exists():
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            raise unwritable(self.path, error, "continue with --resume") from error
        finally:
            os.close(handle)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none when it does not exist.

    Raises:
        UserError: a line is no row of numbers.
    """
    if not kind_of(path):
        return []
    lines = read_bytes(path, DAMAGED).split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            if number == len(lines):  # cut off while it was written; --resume writes it again
                break
            raise UserError(f"line {number} of {path} is no row of numbers: {DAMAGED}")
        rows.append(row)
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of numbers in a line; None if it is something else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    numbers = all(value is None or isinstance(value, int | float) for value in row.values())
    return row if numbers else None


def _whole_rows(path: Path, size: int) -> int:
    """Bytes, at most ``size``, that the whole rows at the beginning of a log take."""
    if size == 0 or not path.exists():
        return 0
    content = read_bytes(path, DAMAGED)[:size]
    kept = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n") or _row(line) is None:
            break
        kept += len(line)
    return kept


class Clock:
    """The seconds that training has taken, and those since the last logged row.

    Attributes:
        seconds: up to the last :meth:`tick`, earlier sessions included.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def start(self, step: int) -> None:
        """Begin a session at ``step``; what lies between two sessions does not count."""
        self._ticked = time.perf_counter()
        self._lap_seconds, self._lap_step = self.seconds, step

    def tick(self) -> None:
        """Count the time since the last tick, or since the start of the session."""
        now = time.perf_counter()
        self.seconds += now - self._ticked
        self._ticked = now

    def lap(self, step: int) -> tuple[int, float]:
        """Steps and seconds since the last lap ended; a new one begins at ``step``."""
        steps, seconds = step - self._lap_step, self.seconds - self._lap_seconds
        self._lap_seconds, self._lap_step = self.seconds, step
        return steps, seconds
