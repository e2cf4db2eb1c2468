"""One submission in processes of its own: started, watched, ended, and what it left read."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from dino_tutorial.grading.package import Package

GIB = 2**30
PACKAGE = Package()  # as it is now, before any submission has run
RESULTS_FOLDER = "DINO_TUTORIAL_CHECKS"  # read by dino_tutorial.exercises: where answers go
PATIENCE = 300.0  # seconds for running the answers again, each of which has a limit of its own
MOST_ANSWERS = 500  # that are run again; the last ones count
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
GLANCE = 0.25  # seconds between two looks at time and memory
MOST_TEXT = 2**20  # characters that are read of what a submission leaves


@dataclass
class Graded:
    """What became of one submission.

    Args:
        submission: its path in the folder.
        status: ``ok``; ``error`` if a cell failed; ``unchecked`` if it ran and called no
            ``check``; ``timeout``, ``memory``, ``crashed``, ``unreadable``.
        reason: a sentence, unless all is well.
        seconds: how long it ran.
        scores: exercise to whether it passed at least once.
        mistakes: exercise that did not pass to the name of its last mistake.
    """

    submission: str
    status: str
    reason: str
    seconds: float
    scores: dict[str, bool] = field(default_factory=dict)
    mistakes: dict[str, str] = field(default_factory=dict)

    @property
    def score(self) -> int:
        """How many exercises passed."""
        return sum(self.scores.values())


def run_submission(name: str, notebook: Path, timeout: float, memory: float) -> Graded:
    """Run one notebook under its limits; whatever it does, this returns.

    Args:
        name: what to call it in the table.
        notebook: the file; a copy of it runs, in an empty folder.
        timeout: seconds in all.
        memory: GiB of all its processes together.
    """
    load_comparison()
    with TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as room:
        folder = Path(room)
        try:
            shutil.copyfile(notebook, folder / "submission.ipynb")
        except OSError as error:
            return Graded(name, "unreadable", f"it cannot be read: {error.strerror}", 0.0)
        began = time.monotonic()
        status, reason = _run(folder, timeout, memory)
        scores, mistakes = check_again(folder, memory)
        seconds = time.monotonic() - began
    if status == "ok" and not scores:
        status, reason = "unchecked", "it ran to its end, and no `check` was called"
    return Graded(name, status, reason, seconds, scores, mistakes)


def load_comparison() -> None:
    """Import what compares answers, before a submission can have changed its files.

    Not at the top: the worker imports this module too, and these take seconds.
    """
    from dino_tutorial.exercises import checking, registry  # noqa: F401


def check_again(folder: Path, memory: float) -> tuple[dict[str, bool], dict[str, str]]:
    """Run the handed-in answers once more, with a package that no submission has touched.

    They run in a process of their own, on probes that are drawn now. What they did is compared
    here, where no code of theirs runs: neither a patched package nor a written verdict counts.

    Returns:
        Exercise → passed at least once, exercise → last mistake.
    """
    from dino_tutorial.exercises.registry import EXERCISES

    answers = folder / "answers"
    tried = {}
    for path in sorted(answers.glob("*.json"))[-MOST_ANSWERS:]:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            if (name := json.loads(_read(path))["exercise"]) in EXERCISES:
                tried[path.stem] = name
    for path in answers.glob("*"):
        if path.stem not in tried or not path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)
    if not tried:
        return {}, {}
    draw = 1 + secrets.randbelow(10**6)
    command = ["dino_tutorial.grading.recheck", folder, str(draw), str(int(memory * GIB))]
    (folder / "empty").mkdir()  # where no module of theirs takes the place of the package
    _start(folder, "empty", command, PATIENCE, memory)
    scores: dict[str, bool] = {}
    mistakes: dict[str, str] = {}
    for stem, name in tried.items():
        right = _is_right(name, folder / "observed" / f"{stem}.pt", draw)
        scores[name] = right or scores.get(name, False)
        if not right:
            mistakes[name] = _mistake(folder / "observed" / f"{stem}.json")
    return scores, {name: said for name, said in mistakes.items() if not scores[name]}


_ONE_AT_A_TIME = threading.Lock()  # the state in which probes are computed is that of a process


def _is_right(name: str, path: Path, draw: int) -> bool:
    """Whether an answer did on both draws what the solution does."""
    import torch

    from dino_tutorial.exercises.checking import expected_of, same
    from dino_tutorial.exercises.registry import EXERCISES

    try:
        kept = torch.load(path, weights_only=True)
        with _ONE_AT_A_TIME:
            return all(
                same(kept[number], expected_of(EXERCISES[name], number)) for number in (0, draw)
            )
    except Exception:  # not there, or anything at all in its place
        return False


def _mistake(path: Path) -> str:
    try:
        return str(json.loads(_read(path))["mistake"])[:80] or "not confirmed"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "not confirmed"


def _read(path: Path) -> str:
    """What is in a file that a submission could have put anything in place of."""
    if not path.is_file():  # a pipe would keep us waiting
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(MOST_TEXT)


def _run(folder: Path, timeout: float, memory: float) -> tuple[str, str]:
    """Status and reason of the notebook in ``folder``."""
    for name in ("work", "tmp", "answers"):
        (folder / name).mkdir()
    command = ["dino_tutorial.grading.worker", folder, str(int(memory * GIB))]
    stopped, exit_code = _start(folder, "work", command, timeout, memory)
    status, reason = stopped or _reply(folder, exit_code)
    return status, reason + (_where(folder) if stopped or status == "crashed" else "")


def _start(
    folder: Path, place: str, command: list, timeout: float, memory: float
) -> tuple[tuple[str, str] | None, int]:
    """Run a module under the limits: the limit that ended it, if one did, and its exit code."""
    package = folder / f"package-{place}"  # a copy for each, so that nobody changes the other's
    PACKAGE.copy_to(package)
    environment = _environment(folder, package)
    marker = f"{RESULTS_FOLDER}={environment[RESULTS_FOLDER]}"
    worker = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder / place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        stopped = _watch(worker, marker, timeout, memory)
    finally:
        _end(worker, marker)
    return stopped, worker.returncode


def _reply(folder: Path, exit_code: int) -> tuple[str, str]:
    """What the worker said, if it got that far."""
    try:
        reply = json.loads(_read(folder / "reply"))
        return str(reply["status"]), str(reply["reason"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "crashed", f"its process ended without an answer, with exit code {exit_code}"


def _where(folder: Path) -> str:
    """The code cell that ran last."""
    with contextlib.suppress(ValueError):
        return f", in code cell {int(_read(folder / 'cell'))}"
    return ", before its first cell"


def _environment(folder: Path, package: Path) -> dict[str, str]:
    """Little of our own environment, where secrets may be, and nothing shared with others."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    own = {
        RESULTS_FOLDER: folder / "answers",
        "PYTHONPATH": package,
        "TMPDIR": folder / "tmp",
        "IPYTHONDIR": folder / "ipython",
        "JUPYTER_RUNTIME_DIR": folder / "jupyter",
        "CUDA_VISIBLE_DEVICES": "",  # the same machine for all; the limits are those of the CPU
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONHASHSEED": "0",
    }
    return kept | {name: str(value) for name, value in own.items()}


def _watch(
    worker: subprocess.Popen, marker: str, timeout: float, memory: float
) -> tuple[str, str] | None:
    """Wait for the end of the worker, or for a limit that is exceeded."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(GLANCE)
            return None
        if time.monotonic() > deadline:
            return "timeout", f"it was not finished after {timeout:g} seconds"
        if sum(map(_resident_bytes, _processes(marker))) > memory * GIB:
            return "memory", f"it used more than {memory:g} GiB of memory"


def _end(worker: subprocess.Popen, marker: str) -> None:
    """End the worker, its kernel, and whatever that has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    for _ in range(20):  # one that is just forking can be missed once
        left = list(_processes(marker))
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.05)


def _processes(marker: str) -> Iterator[int]:
    """Processes with ``marker`` in the environment they were started with (Linux)."""
    wanted = marker.encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
