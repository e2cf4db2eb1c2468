"""Docker, devcontainer and Binder do not run in tests; what their files name has to be there."""

import json
import os
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def lowest(package: str) -> str:
    (found,) = (d for d in PROJECT["dependencies"] if re.match(rf"{package}>=", d))
    return found.split(">=")[1].split(" ")[0]


def test_the_image_has_a_python_and_files_that_are_there():
    python = re.search(r"^FROM python:3\.(\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert int(python[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        assert sources and all((ROOT / source).exists() for source in sources), line
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert re.search(r"^setuptools==", lock, re.MULTILINE)  # --no-build-isolation needs it
    assert re.search(r"^ipykernel==", lock, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv*", "_build"} <= set(ignored)


def test_the_devcontainer_uses_the_same_image():
    folder = ROOT / ".devcontainer"
    container = json.loads((folder / "devcontainer.json").read_text("utf-8"))
    build = container["build"]
    assert (folder / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    assert f"useradd --create-home {container['remoteUser']}" in DOCKERFILE


def test_binder_has_what_the_package_needs():
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text("utf-8"))
    wanted = environment["dependencies"]
    assert f"pytorch-cpu>={lowest('torch')}" in wanted
    assert f"torchvision>={lowest('torchvision')}" in wanted
    assert "pip" in wanted
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    assert "pip install --no-cache-dir .\n" in (ROOT / ".binder" / "postBuild").read_text("utf-8")
