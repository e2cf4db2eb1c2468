"""Commands in processes of their own that are killed, starved or stopped: forked, so that each of
them starts at once."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dino_tutorial import configure


class Ended(NamedTuple):
    """How a child ended: its exit code (minus the signal's number if one killed it), its words."""

    code: int
    said: str


class Child:
    """A function in a forked process; what it prints on either stream is kept."""

    def __init__(self, function: Callable[[], int | None], leads: bool = False) -> None:
        """``leads`` makes it the leader of a process group of its own."""
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            # Python keeps bytecode that a full disk has cut short, and cannot import it again.
            sys.dont_write_bytecode = True
            try:
                os.close(reading)
                os.dup2(writing, 1)
                os.dup2(writing, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
                if leads:
                    os.setsid()
                # A program that is started in the background has these ignored, and so do we.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
                code = function() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError):
                        stream.flush()
                os._exit(code)
        os.close(writing)
        self._pipe = reading

    def has_ended(self) -> bool:
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def end(self) -> Ended:
        with os.fdopen(self._pipe, "rb") as pipe:
            said = pipe.read().decode("utf-8", "replace")
        _, status = os.waitpid(self.pid, 0)
        return Ended(os.waitstatus_to_exitcode(status), said)


def run(function: Callable[[], int | None]) -> Ended:
    return Child(function).end()


def smoke(folder: Path, method: str = "dino", **changes):
    """Four steps of the smallest preset, a checkpoint after each."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    base = {"folder": str(folder), "device": "cpu", "train.epochs": 0.5,
            "train.checkpoint_every": 1, "train.log_every": 1}  # fmt: skip
    return configure(method, preset="smoke", changes=base | dotted)


def killed() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.01)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
