"""One writer at a time: a folder is locked by the process that writes into it."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dino_tutorial.errors import UserError
from dino_tutorial.files.io import clear_leftovers, unwritable

try:
    import fcntl
except ImportError:  # Windows: no lock, as before
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_HELD: set[Path] = set()  # by this process, which the system would let in again


@contextlib.contextmanager
def locked(folder: Path, then: str, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out of a folder that exists.

    The system gives the lock back when this process ends in any way, ``kill -9`` included; loader
    workers that outlive it for a moment do not hold it.

    Args:
        then: what the one who is kept out can do.
        patience: seconds to wait for the other one.

    Raises:
        UserError: another process, or this one, writes into the folder.
    """
    path = Path(os.path.realpath(folder)) / NAME
    handle = _take(path, folder, then, time.monotonic() + patience)
    _HELD.add(path)
    try:
        clear_leftovers(path.parent)
        yield
    finally:
        _HELD.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _take(path: Path, folder: Path, then: str, deadline: float) -> int:
    while True:
        holder: int | None
        if path in _HELD:
            holder = os.getpid()
        else:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise unwritable(path, error) from error
            holder = _lock(handle, path)
            if holder is None:
                return handle
            os.close(handle)
        if holder and time.monotonic() >= deadline:
            raise UserError(f"process {holder} writes into {folder}: {then}")
        time.sleep(0.05)


def _lock(handle: int, path: Path) -> int | None:
    """None when the lock is ours; else who has it, 0 for somebody who has just left."""
    if fcntl is not None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = os.read(handle, 32).decode("ascii", "ignore").strip()
            return int(text) if text.isdigit() else -1
    with contextlib.suppress(OSError):
        if os.fstat(handle).st_ino == os.stat(path).st_ino:  # not one that was taken away
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            return None
    return 0
