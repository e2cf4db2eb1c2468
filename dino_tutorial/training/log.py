"""What a run writes while it trains: one row of numbers at a time, in step with the checkpoints."""

import json
import os
from pathlib import Path

from dino_tutorial.errors import UserError


class RowLog:
    """A JSON-lines file that can be cut back to where a checkpoint was taken."""

    def __init__(self, path: Path, size: int = 0, writes: bool = True):
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

    def rows(self) -> list[dict]:
        return read_rows(self.path)

    def write(self, row: dict) -> None:
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


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON-lines file; none when it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
