"""The reference: a page a room, nothing forgotten, and no name that leads nowhere."""

import ast
import io
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, BOOK = ROOT / "dino_tutorial", ROOT / "book"
PAGES = {path.stem: path.read_text("utf-8") for path in (BOOK / "reference").glob("*.md")}
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"]


# What serves the rooms: it may change, and no reader needs it.
INNER = {"dino_tutorial.files", "dino_tutorial.options", "dino_tutorial.runs.folder"}


def rooms() -> list[str]:
    """Modules that say what is public in them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append(module.removesuffix(".__init__"))
    return sorted(set(found) - INNER)


def test_each_room_has_its_page_in_the_contents():
    shown = [re.findall(r"^\.\. room:: (\S+)$", text, re.MULTILINE) for text in PAGES.values()]
    # The face of the package is on the page that leads to the rooms.
    assert sorted([*sum(shown, []), "dino_tutorial"]) == rooms()
    listed = re.findall(r"- file: book/reference/(\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
    assert sorted(listed) == sorted(PAGES)
    overview = (BOOK / "api.md").read_text("utf-8")
    assert re.findall(r"^\| \{doc\}`reference/(\S+)` \|", overview, re.MULTILINE) == listed


@pytest.mark.parametrize("name", PAGES)
def test_a_page_begins_with_two_sentences(name):
    title, opening = PAGES[name].split("\n\n")[:2]
    assert title.startswith("# ")
    assert len(re.findall(r"[.!?](?= [A-Z`{]|$)", opening)) == 2, opening


IGNORED = [re.sub(r"\\(.)", r"\1", target) for _, target in CONFIG["nitpick_ignore_regex"]]


def test_what_is_ignored_is_named_letter_by_letter():
    assert CONFIG["nitpicky"] is True
    for role, target in CONFIG["nitpick_ignore_regex"]:
        assert re.fullmatch(r"py:\w+", role)
        assert re.fullmatch(r"(\w|\\\.)+", target), target  # no pattern but escaped dots
    assert len(IGNORED) == len(set(IGNORED))


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_ignored_exists(name):
    module, _, attribute = name.rpartition(".")
    homes = [module] if module else ["torch", "numpy", "jaxtyping"]
    assert any(hasattr(import_module(home), attribute) for home in homes)


PAGE = """
Page
====

.. autofunction:: dino_tutorial.methods.help_of
.. py:class:: DINOSettings()
   :module: dino_tutorial.methods.dino
.. py:class:: DINO(settings: dino_tutorial.methods.dino.DINOSettings)
   :module: dino_tutorial.methods

   Its settings are :class:`DINOSettings`.
"""


def warnings_of(text: str, folder: Path) -> list[str]:
    """What a build of one page, with the book's own rules, has to say about its references."""
    (folder / "index.rst").write_text(PAGE + text, encoding="utf-8")
    (folder / "conf.py").write_text("", encoding="utf-8")
    rules = {name: value for name, value in CONFIG.items() if "nitpick" in name or "doc_" in name}
    rules["extensions"] = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "own_names"]
    build = [folder, folder, folder / "out", folder / "doctrees", "dummy"]
    said = io.StringIO()
    sys.path.insert(0, str(BOOK / "_ext"))
    try:
        with docutils_namespace():
            Sphinx(*build, confoverrides=rules, status=None, warning=said).build()
    finally:
        sys.path.remove(str(BOOK / "_ext"))
    return re.findall(r"reference target not found: ([^\s\x1b]+)", said.getvalue())


def test_a_name_that_is_nowhere_is_found(tmp_path):
    text = "\n:py:func:`dino_tutorial.methods.help_off` :py:class:`NoSettings`\n"
    dead = warnings_of(text, tmp_path)
    assert dead == ["dino_tutorial.methods.help_off", "NoSettings"]


def test_a_name_is_what_python_takes_it_for(tmp_path):
    # By the path of its file; and in an entry of DINO as dino.py has it.
    text = "\n:py:func:`dino_tutorial.methods.registry.help_of`\n"
    assert warnings_of(text, tmp_path) == []
