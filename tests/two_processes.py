"""Run something in two processes over gloo, as torchrun would start them.

They are forked off a server that has imported the package, so that a pair starts without a launcher
and two fresh interpreters. What torchrun itself does, starting a dead process again, is tested in
tests/runs/test_restarts.py.
"""

import faulthandler
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import torch

from dino_tutorial.cli import main
from dino_tutorial.runs import lifecycle

CONTEXT = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
CONTEXT.set_forkserver_preload(["dino_tutorial.runs", "torch._dynamo", "pytest"])


def in_two_processes(*words: str) -> str:
    """``dino-tutorial WORDS`` in a pair; returns what was written, and fails with it.

    A training ends without its report.
    """
    return call_in_two_processes(_command, *words)


def call_in_two_processes(function: Callable[..., None], *arguments: object) -> str:
    """``function(*arguments)`` in a pair; returns what both wrote, and fails with it.

    ``function`` belongs to a module's top level, so that the processes find it by its name.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "written"
        pair = [
            CONTEXT.Process(target=_one, args=(rank, port, str(written), function, arguments))
            for rank in range(2)
        ]
        for process in pair:
            process.start()
        ends_together(pair)
        text = written.read_text()
    codes = [process.exitcode for process in pair]
    assert codes == [0, 0], f"exit codes {codes}\n{text}"
    return text


def ends_together(pair: list) -> None:
    """Wait for both; when one fails, end the other, which would wait for it half an hour."""
    running = list(pair)
    while running:
        wait([process.sentinel for process in running])
        for process in [process for process in running if process.exitcode is not None]:
            running.remove(process)
            if process.exitcode != 0:
                for other in running:
                    other.kill()


def _one(
    rank: int, port: int, written: str, function: Callable[..., None], arguments: tuple
) -> None:
    file = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    faulthandler.enable(file)  # says where, if a process dies of a signal
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    function(*arguments)


def _command(*words: str) -> None:
    lifecycle.report_on = lambda *_: None  # takes longer than so short a training
    sys.exit(main(list(words)))
