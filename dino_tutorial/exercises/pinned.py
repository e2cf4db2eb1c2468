"""The state in which answers are probed: the same for everybody, and for a bounded time."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TIME_LIMIT = 30.0  # seconds for one answer on all its probes; the slowest right one takes two


class OutOfTime(BaseException):
    """The answer does not come to an end; no ``Exception``, which the answer might catch."""


@contextmanager
def pinned() -> Iterator[None]:
    """Single precision on the CPU, with gradients, and the same random numbers for all.

    The caller's defaults, modes and random numbers are as before when it ends.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    anomaly = torch.is_anomaly_enabled()
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            torch.random.fork_rng(devices=[]),
        ):
            torch.set_default_dtype(torch.float32)
            torch.autograd.set_detect_anomaly(False)
            torch.default_generator.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.autograd.set_detect_anomaly(anomaly)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` in what runs here once the seconds are over, again and again.

    By a signal in the main thread, which interrupts waiting too; elsewhere, and on Windows,
    between two instructions of Python.
    """
    main = threading.current_thread() is threading.main_thread()
    yield from _by_signal(seconds) if main and hasattr(signal, "setitimer") else _by_thread(seconds)


def _by_signal(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm, such as that of an outer limit
            signal.setitimer(signal.ITIMER_REAL, left, every)


def _by_thread(seconds: float) -> Iterator[None]:
    target, done = threading.get_ident(), threading.Event()

    def stop() -> None:
        wait = seconds
        while not done.wait(wait):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(target), ctypes.py_object(OutOfTime)
            )
            wait = 0.5

    watch = threading.Thread(target=stop, daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()
