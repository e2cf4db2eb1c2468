"""What tests of every room may ask for."""

import gc
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator

import jaxtyping
import pytest

gc.disable()  # while everything is imported, which stays

# Tests solve exercises by the dozen; none of that is a reader's progress.
os.environ["DINO_TUTORIAL_PROGRESS"] = "off"

DRAWN_SETS, DRAWN_PIXELS = 16, 2**20  # of scenes that are kept: how many, and the most of one

# What may be skipped where CI is set, and why. Anything else that is skipped there is a failure:
# a test that no machine runs proves nothing.
MAY_BE_SKIPPED = {
    "DINOV2_CLONE names no clone": "the reference's own code is not part of this repository",
    "neither Node nor a browser here": "scripts of the pages need one, and pip brings neither",
    "no browser here": "the figure is also checked without one",
    "transformers is not installed": "the package never imports it; names and shapes are tested",
    "this machine has CUDA": "the test is about machines that have none",
}


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes and types of arguments are not checked during this test.

    For tests that hand over wrong ones to read the package's own sentence, which is all that users
    see, and for what cannot be traced through the checks.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session", autouse=True)
def drawing() -> Iterator[Callable]:
    """Scenes are drawn once for all tests of a process, as hundreds of them train on the same.

    Drawing depends on its arguments alone, as tests/datasets/test_scenes.py finds, where nothing is
    kept. Gives the function that draws.
    """
    from dino_tutorial.datasets.scenes import RenderedScenes, sets

    render, kept = sets.render, OrderedDict()

    def render_once(factors: dict, size: int, look: str = "colour") -> RenderedScenes:
        digest = hashlib.sha1(f"{size} {look}".encode())
        for name, values in factors.items():
            digest.update(name.encode() + values.numpy().tobytes())
        key = digest.digest()
        drawn = kept.pop(key, None) or render(factors, size, look)
        if drawn.mask.numel() > DRAWN_PIXELS:
            return drawn
        kept[key] = drawn  # as the latest
        if len(kept) > DRAWN_SETS:
            kept.popitem(last=False)
        return RenderedScenes(*(values.clone() for values in drawn))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "render", render_once)
        yield render


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without their report, which takes four fifths of the time of so short ones."""
    from dino_tutorial.runs import lifecycle

    monkeypatch.setattr(lifecycle, "report_on", lambda *_: None)


def pytest_collection_finish() -> None:
    """From here on only what tests make is looked through for garbage, not what was imported.

    And less often than after 700 new objects: a figure has thousands.
    """
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = {report.nodeid: str(report.longrepr) for report in unforeseen(terminalreporter)}
    for test, reason in reasons.items():
        terminalreporter.write_line(f"skipped, which CI does not allow: {test}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == pytest.ExitCode.OK and unforeseen(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def unforeseen(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    """Skipped tests whose reason is not foreseen; none on a machine of one's own."""
    if not os.environ.get("CI"):
        return []
    skipped = reporter.stats.get("skipped", [])
    return [r for r in skipped if not any(known in str(r.longrepr) for known in MAY_BE_SKIPPED)]
