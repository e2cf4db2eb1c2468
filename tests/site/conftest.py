"""The built site.

``DINO_TUTORIAL_SITE`` names one that was just built, as in `make book`. Without it, the tests
build one, which takes seconds because the notebooks are stored with their outputs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    if built := os.environ.get("DINO_TUTORIAL_SITE"):
        return ROOT / built
    folder = tmp_path_factory.mktemp("site")
    command = [Path(sys.executable).parent / "jupyter-book", "build", ROOT, "-nW", "--keep-going"]
    build = subprocess.run(
        [*command, "--path-output", folder], cwd=folder, capture_output=True, text=True
    )
    said = (build.stdout + build.stderr).splitlines()
    assert build.returncode == 0, [line for line in said if "WARN" in line or "ERR" in line]
    return folder / "_build" / "html"
