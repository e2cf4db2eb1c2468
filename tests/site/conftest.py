"""The built site.

``DINO_TUTORIAL_SITE`` names one that was just built, as in `make book`. Without it, the tests
build one, which takes a minute; the test processes of one run share it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    if built := os.environ.get("DINO_TUTORIAL_SITE"):
        return ROOT / built
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in that of the run
        shared = shared.parent
    folder = shared / "site"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            build(folder)
            (folder / "complete").touch()
    return folder / "_build" / "html"


def build(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    command = [Path(sys.executable).parent / "jupyter-book", "build", ROOT, "-nW", "--keep-going"]
    done = subprocess.run(
        [*command, "--path-output", folder], cwd=folder, capture_output=True, text=True
    )
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0, [line for line in said if "WARN" in line or "ERR" in line]
