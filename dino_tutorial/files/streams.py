"""The streams and signals of a command: nobody may be reading, and somebody may want it to end."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

from dino_tutorial.files.io import describe_error

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")


class Terminated(BaseException):
    """SIGTERM, raised so that what was started is ended and what is half-written removed."""


class _Tolerant:
    """A stream for people, such as a progress bar's: what cannot be written is not missed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def streams_that_hold() -> Iterator[None]:
    """Streams that are open, take any text, and do not end a training when a terminal goes."""
    for number in range(3):  # a closed one would be given to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name may have letters that the terminal has not
            stream.reconfigure(errors="backslashreplace")
    before = sys.stderr
    if before is not None:
        sys.stderr = _Tolerant(before)
    try:
        yield
    finally:
        sys.stderr = before


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM unwind the program as Ctrl-C does, unless somebody else looks after it."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def nobody_reads() -> bool:
    """Whether standard output is what broke, when something did; yes where nobody can tell."""
    if not hasattr(select, "poll"):
        return True
    output = select.poll()
    try:
        output.register(sys.stdout, select.POLLOUT)
    except (OSError, ValueError, AttributeError):
        return True
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


def forget_stdout() -> None:
    """Have what is still to be printed go nowhere, so that the end of the program is quiet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def of_the_machine(error: BaseException) -> str | None:
    """A sentence for what no setting says beforehand: memory, a disk; None for our own mistakes."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return (
            "there is not enough memory: use fewer or smaller images (--limit, --size, "
            "data.image_size), a smaller train.batch_size or model, more train.accumulate, or a "
            "larger machine"
        )
    if isinstance(error, ConnectionError):
        return (
            f"a connection to another process or machine broke ({describe_error(error)}): see "
            f"what ended it, then give the same command again, with --resume for a training"
        )
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename!r}" if error.filename else "the output"
        return (
            f"{what} cannot be used ({describe_error(error)}): make room if a disk is full, and "
            f"see that the path is right and yours to read and write"
        )
    return None
