"""Kernels for nbval that start at once: forked off a server that has imported what chapters import.

Each chapter has a kernel of its own, and PyTorch, Matplotlib and the kernel take it seconds to
import. The package is not among what is imported here: each kernel reads it anew, as a reader's
does.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any
from unittest import mock

# The last of them is imported by an optimizer's first step.
COMMON = ("ipykernel.kernelapp", "matplotlib.pyplot", "scipy.ndimage", "scipy.optimize", "torch",
          "torch._dynamo")  # fmt: skip


def forked(start: Callable) -> Callable:
    """A function that starts a kernel by jupyter_client, made to fork it."""

    def start_by_fork(**options: Any) -> Any:
        with mock.patch("jupyter_client.provisioning.local_provisioner.launch_kernel", Kernel):
            return start(**options)

    return start_by_fork


class Kernel:
    """As much of a `subprocess.Popen` as jupyter_client asks of a kernel's process."""

    stdin = stdout = stderr = None
    returncode: int | None = None

    def __init__(self, command: list[str], *, cwd: str, env: dict[str, str], **_: Any) -> None:
        words = command[command.index("-m") + 1 :]
        server().send(json.dumps({"words": words, "folder": cwd, "environment": env}).encode())
        self.pid = int(server().recv(20))
        self._end = os.pidfd_open(self.pid)  # can be read once the process has ended

    def poll(self) -> int | None:
        return self.wait(0)

    def wait(self, seconds: float | None = None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], seconds)[0]:
            os.close(self._end)
            self.returncode = 0  # known to the server alone, and asked by nobody
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def server() -> socket.socket:
    """The way to this process's server, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-P", __file__, str(theirs.fileno())]  # tests are not on its path
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=[theirs.fileno()])
    theirs.close()
    return ours


def serve(requests: socket.socket) -> None:
    # As a kernel does; Matplotlib looks at it while it is imported.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in COMMON:
        import_module(name)
    gc.freeze()  # what is imported need not be looked through, nor its pages be copied
    gc.set_threshold(50_000)  # as in conftest.py
    while request := requests.recv(2**20):
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # the kernel before this one
        if os.fork() == 0:
            os.setsid()  # a group of its own, for signals
            requests.send(str(os.getpid()).encode())
            requests.close()
            become_kernel(**json.loads(request))
            return


def become_kernel(words: list[str], folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    os.chdir(folder)
    sys.argv = words
    import_module("ipykernel.kernelapp").launch_new_instance()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
