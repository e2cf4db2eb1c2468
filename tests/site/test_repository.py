"""Buttons to the repository: none without its address, and with it only ones that arrive."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).resolve().parents[2]
TRACKED = set(
    subprocess.run(
        ["git", "ls-files", "book"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
)
NOTEBOOKS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))[:2]
EMPTY = {"cells": [], "nbformat": 4, "nbformat_minor": 5}
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
REPOSITORY = "https://github.com/ann/book"
KAGGLE = "https://kaggle.com/kernels/welcome?src="
COLAB = "https://colab.research.google.com/github/ann/book/blob/main/"
OTHERS = ("mybinder.org", "colab.", "kaggle.", "github.")


def links(folder: Path) -> dict[str, list[str]]:
    """What the pages of a small book link to on other hosts."""
    source = folder / "source"
    (source / "book").mkdir(parents=True)
    for name in NOTEBOOKS:
        title = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# {name}"}
        notebook = EMPTY | {"cells": [title], "metadata": KERNEL}
        (source / "book" / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    pages = "\n".join(f"book/{name}" for name in [*NOTEBOOKS, "intro"])
    (source / "index.md").write_text(f"# Book\n\n```{{toctree}}\n{pages}\n```\n", encoding="utf-8")
    (source / "book" / "intro.md").write_text("# Intro\n", encoding="utf-8")
    (source / "conf.py").write_text("", encoding="utf-8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    own = {
        "extensions": ["myst_nb", "repository"],
        "html_theme": "sphinx_book_theme",
        "html_theme_options": {"repository_url": config["repository"]["url"]},
        "nb_execution_mode": "off",
    }
    build = [source, source, folder / "out", folder / "doctrees", "html"]
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    try:
        with docutils_namespace():
            Sphinx(*build, confoverrides=own, status=None, warning=io.StringIO()).build()
    finally:
        sys.path.remove(str(ROOT / "book" / "_ext"))
    found = {}
    for name in [*NOTEBOOKS, "intro"]:
        page = BeautifulSoup((folder / "out" / "book" / f"{name}.html").read_text(), "html.parser")
        hrefs = [link["href"] for link in page.select("a[href]")]
        found[name] = [href for href in hrefs if any(other in href for other in OTHERS)]
    return found


def test_without_an_address_no_button_leads_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("DINO_TUTORIAL_REPOSITORY", raising=False)
    assert links(tmp_path) == {name: [] for name in [*NOTEBOOKS, "intro"]}


def test_with_an_address_all_of_them_lead_to_tracked_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_TUTORIAL_REPOSITORY", "ann/book")
    found = links(tmp_path)
    for name in NOTEBOOKS:
        assert f"book/{name}.ipynb" in TRACKED
        assert f"{REPOSITORY}/edit/main/book/{name}.ipynb" in found[name]
        assert f"{COLAB}book/{name}.ipynb" in found[name]
        assert f"{KAGGLE}{REPOSITORY}/blob/main/book/{name}.ipynb" in found[name]
        (binder,) = (link for link in found[name] if "mybinder.org/v2/gh/ann/book/main" in link)
        assert binder.endswith(f"urlpath=lab/tree/book/{name}.ipynb")
        assert any(link.startswith(f"{REPOSITORY}/issues/new") for link in found[name])
    assert not [link for link in found["intro"] if "colab" in link or "kaggle" in link]
    assert any(link == f"{REPOSITORY}/edit/main/book/intro.md" for link in found["intro"])


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "book").glob("*.ipynb")))
def test_every_notebook_that_a_button_opens_is_tracked(name):
    assert f"book/{name}" in TRACKED
