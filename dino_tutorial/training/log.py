"""What a run writes while it trains: one row of numbers at a time, in step with the checkpoints."""

import json
import os
import time
from pathlib import Path
from typing import Any

from dino_tutorial.errors import UserError


class RowLog:
    """A JSON-lines file that can be cut back to where a checkpoint was taken."""

    def __init__(self, path: Path, size: int = 0, writes: bool = True) -> None:
        """Open ``path`` and forget whatever lies beyond its first ``size`` bytes.

        Only one of several processes ``writes``; in the others nothing reaches the file.
        """
        self.path, self.writes = path, writes
        if writes:
            with open(path, "ab") as file:
                file.truncate(size)

    @property
    def size(self) -> int:
        return os.path.getsize(self.path)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path)

    def write(self, row: dict[str, Any]) -> None:
        if not self.writes:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path} could not be written ({error.strerror}): make room or the folder "
                f"writable, then continue with --resume"
            ) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none when it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
