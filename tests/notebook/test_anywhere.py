"""A notebook alone in a folder: it installs what is missing, and finds what it reads."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import dino_tutorial
from dino_tutorial.errors import UserError
from tools import notebooks

ROOT = Path(__file__).resolve().parents[2]
HEAVIEST = 12_000_000  # bytes of the wheel, five encoders in it; a small part of what torch weighs


@pytest.fixture
def pip(monkeypatch) -> list[list[str]]:
    """The commands that a cell runs where the package is missing."""
    commands: list[list[str]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    return commands


def test_a_missing_package_is_installed_and_torch_stays(pip):
    exec(notebooks.install_cell("ann/book"), {})
    ((python, *words),) = pip
    assert python == sys.executable and words[:3] == ["-m", "pip", "install"]
    assert {f"{name}=={version(name)}" for name in ("torch", "torchvision")} < set(words)
    assert words[-1] == "dino-tutorial @ git+https://github.com/ann/book"


def test_nothing_is_installed_where_the_package_is(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: pytest.fail("pip was run"))
    exec(notebooks.install_cell("ann/book"), {})
    exec(notebooks.install_cell(""), {})


def test_without_an_address_the_cell_says_what_to_do(pip):
    with pytest.raises(ModuleNotFoundError, match="install the package first"):
        exec(notebooks.install_cell(""), {})
    assert pip == []


@pytest.fixture
def chapter(tmp_path) -> Path:
    cells = [
        new_markdown_cell("# A chapter"),
        new_code_cell("x = 2", execution_count=1),
        new_code_cell(
            "x + 1",
            execution_count=2,
            metadata={"tags": [notebooks.CHECKED]},
            outputs=[new_output("execute_result", {"text/plain": "3"}, execution_count=2)],
        ),
    ]
    path = tmp_path / "chapter.ipynb"
    path.write_text(notebooks.write(notebooks.normalise(new_notebook(cells=cells))))
    return path


def test_the_cell_is_the_first_and_is_not_on_the_page(chapter):
    (problem,) = notebooks.problems(notebooks.read(chapter))
    assert "does not install" in problem
    assert notebooks.prepare(chapter)
    notebook = notebooks.read(chapter)
    assert notebooks.problems(notebook) == []
    title, install, first, second = notebook.cells
    assert "remove-cell" in install.metadata.tags
    assert (first.source, first.execution_count, second.execution_count) == ("x = 2", 2, 3)
    assert second.outputs[0].execution_count == 3


def test_the_address_stays_until_another_one_is_given(chapter):
    assert notebooks.prepare(chapter, "ann/book")
    assert not notebooks.prepare(chapter)
    assert notebooks.read(chapter).cells[1].source == notebooks.install_cell("ann/book")
    assert notebooks.problems(notebooks.read(chapter)) == []
    assert notebooks.prepare(chapter, "bob/book") and not notebooks.prepare(chapter, "bob/book")
    assert "ann" not in chapter.read_text()
    assert notebooks.prepare(chapter, "")
    assert notebooks.read(chapter).cells[1].source == notebooks.install_cell("")


@pytest.mark.parametrize(
    "source", ['load_run("../data/results/x")', "here = Path.cwd()", "open('../benchmarks/a.json')"]
)
def test_a_cell_that_needs_a_checkout_is_found(chapter, source):
    notebooks.prepare(chapter)
    notebook = notebooks.read(chapter)
    notebook.cells[2].source = source
    assert any("needs a checkout" in problem for problem in notebooks.problems(notebook))


def test_all_notebooks_name_one_address():
    cells = [
        cell.source
        for path in (ROOT / "book").glob("*.ipynb")
        for cell in nbformat.read(path, 4).cells
        if notebooks.INSTALLS in cell.metadata.get("tags", [])
    ]
    assert len(set(cells)) <= 1


def test_what_is_shipped_lies_in_the_checkout():
    assert dino_tutorial.shipped("data/photos/cat.jpg") == ROOT / "data" / "photos" / "cat.jpg"
    with pytest.raises(UserError, match="data/results/none does not come with this package"):
        dino_tutorial.shipped("data/results/none")


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory) -> Path:
    """What pip unpacks: a source archive, a wheel from it, and the wheel's files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".*", "*.ipynb", "__pycache__", "_build", "runs", "tests"),
    )
    build = "from setuptools.build_meta import build_sdist; build_sdist('.')"
    quiet = {"cwd": source, "check": True, "capture_output": True}
    subprocess.run([sys.executable, "-c", build], **quiet)
    (archive,) = source.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    wheel = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", wheel], **(quiet | {"cwd": unpacked}))
    (file,) = unpacked.glob("*.whl")
    assert file.stat().st_size < HEAVIEST
    with zipfile.ZipFile(file) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_carries_what_the_book_reads(site_packages):
    carried = site_packages / "dino_tutorial" / "carried"
    files = [*(ROOT / "data").rglob("*"), *(ROOT / "benchmarks").glob("*.json")]
    expected = {f.relative_to(ROOT) for f in [*files, ROOT / "book" / "claims.yml"] if f.is_file()}
    assert {f.relative_to(carried) for f in carried.rglob("*") if f.is_file()} == expected


ALONE = """
import json
from pathlib import Path

import numpy as np
from PIL import Image

import dino_tutorial
from dino_tutorial import load_run, shipped

checkpoint = load_run(shipped("data/checkpoints/dino-scenes-laptop-s0"))
record = load_run(shipped("data/results/dino-scenes-laptop-s0"))
benchmark = json.loads(shipped("benchmarks/curation.json").read_text())
photo = np.array(Image.open(shipped("data/photos/cat.jpg")))
print(Path(dino_tutorial.__file__).parents[1])
print(sum(p.numel() for p in checkpoint.encoder().parameters()) > 100_000)
print(record.summary["method"], len(record.metrics) > 10, photo.ndim, sorted(benchmark))
"""


@pytest.mark.slow
def test_a_notebook_runs_in_an_empty_folder_with_only_the_wheel(
    site_packages, tmp_path, monkeypatch
):
    path = tmp_path / "alone.ipynb"
    path.write_text(notebooks.write(new_notebook(cells=[new_code_cell(ALONE)])))
    notebooks.prepare(path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(site_packages))
    monkeypatch.chdir(tmp_path)
    notebooks.execute(path)
    printed = notebooks.read(path).cells[1].outputs[0].text.splitlines()
    assert printed[0] == os.fspath(site_packages)  # not the checkout
    assert printed[1] == "True" and printed[2].startswith("dino True 3 [")
    assert [file.name for file in tmp_path.iterdir()] == ["alone.ipynb"]
