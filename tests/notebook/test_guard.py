"""The notebooks are tested for real: nothing in them lets nbval pass without comparing."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import notebooks

pytestmark = pytest.mark.slow  # whole trainings, other processes

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
PIXEL = "iVBORw0KGgo="


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_fit_to_publish(path):
    assert notebooks.problems(notebooks.read(path)) == []


def test_chapters_in_the_table_of_contents_exist_and_are_all_there():
    listed = set((ROOT / "_toc.yml").read_text().split())
    assert {f"book/{path.stem}" for path in NOTEBOOKS} <= listed


def picture(**metadata):
    shown = new_output("display_data", data={"image/png": PIXEL, "text/plain": "<Figure>"})
    return new_code_cell("plot()", execution_count=1, outputs=[shown], metadata=metadata)


def printing(text, name="stdout", count=1, tags=(notebooks.CHECKED,)):
    shown = new_output("stream", name=name, text=text)
    return new_code_cell(
        "print(…)", execution_count=count, outputs=[shown], metadata={"tags": list(tags)}
    )


def markup(html):
    shown = new_output("display_data", data={"text/html": html, "text/plain": "<Figure>"})
    return new_code_cell("plot()", execution_count=1, outputs=[shown])


def stored(*cells):
    return notebooks.normalise(new_notebook(cells=list(cells)))


def installing():
    return new_code_cell(notebooks.install_cell(""), execution_count=1)


def test_a_good_notebook_has_no_problems():
    figure = picture(mystnb={"image": {"alt": "a falling curve"}}, tags=[])
    figure.execution_count = 3
    cat = new_markdown_cell("![a cat](cat.png)")
    good = stored(cat, installing(), printing("0.93\n", count=2), figure)
    assert notebooks.problems(good) == []


def test_letters_of_a_picture_in_html_are_not_read_as_words():
    html = '<img alt="a cat" src="data:image/png;base64,AB/tmp/0xabcdef/3it/s">'
    assert [p for p in notebooks.problems(stored(markup(html))) if p.startswith("it prints")] == []
    seen = notebooks.problems(stored(markup(html + "<p>/tmp/run</p>")))
    assert any("a temporary folder" in problem for problem in seen)


@pytest.mark.parametrize(
    "cell, complaint",
    [
        (printing("1\n", count=None), "not run from top to bottom"),
        (printing("1\n", count=7), "not run from top to bottom"),
        (printing("1\n", tags=()), "no cell has the tag"),
        (
            new_code_cell("x = 1", execution_count=1, metadata={"tags": ["nbval-check-output"]}),
            "has no text output",
        ),
        (picture(tags=["nbval-check-output"]), "has no text output"),
        (picture(), "without alt text"),
        (
            new_code_cell(
                "plot()",
                execution_count=1,
                outputs=[],
                metadata={"mystnb": {"image": {"alt": "a curve"}}},
            ),
            "but no figure",
        ),
        (markup('<img src="data:image/png;base64,iVBORw0KGgo=">'), "without alt text"),
        (markup("." * 600_001), "600 kB"),
        (new_markdown_cell("![](cat.png)"), "without alt text"),
        (new_markdown_cell('<img src="cat.png">'), "without alt text"),
        (printing("/home/ann/run\n"), "a home folder"),
        (printing("/Users/ann/run\n"), "a home folder"),
        (printing("x.py:3: UserWarning: old\n"), "a warning"),
        (printing("7/9 [00:01<00:00, 6.1it/s]\n"), "a progress bar"),
        (printing("Wall time: 3 s\n"), "a measured time"),
        (printing("<object at 0x7f00ab12cd30>\n"), "a memory address"),
        (printing("note\n", name="stderr"), "prints to stderr"),
        (
            new_code_cell(
                "1 / 0",
                execution_count=1,
                outputs=[new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])],
            ),
            "ends in ZeroDivisionError",
        ),
    ],
)
def test_each_fault_is_found(cell, complaint):
    assert any(complaint in problem for problem in notebooks.problems(stored(cell)))


def test_a_notebook_outside_its_normal_form_is_found():
    notebook = stored(printing("1\n"))
    notebook.metadata["kernelspec"]["display_name"] = "ann's laptop"
    assert any("normal form" in problem for problem in notebooks.problems(notebook))


def test_executing_twice_changes_nothing_the_second_time(tmp_path):
    path = tmp_path / "chapter.ipynb"
    # Two prints with a flush between them reach the notebook as one stream or as two, by chance.
    source = "import sys\nprint('a'); sys.stdout.flush(); print('b')\n{'b': 1, 'a': 2}"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    assert notebooks.execute(path)
    assert not notebooks.execute(path)
    assert notebooks.read(path).cells[0].outputs[0].text == "a\nb\n"


@pytest.mark.parametrize("printed, passes", [("4\n", True), ("5\n", False)])
def test_nbval_compares_what_a_checked_cell_prints(tmp_path, printed, passes):
    """The options in pyproject.toml, on a notebook whose stored output is right or wrong."""
    cell = printing(printed)
    cell.source = "print(2 + 2)"
    (tmp_path / "chapter.ipynb").write_text(notebooks.write(stored(cell)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options = ["--override-ini=addopts=--nbval-lax --nbval-current-env", "--rootdir", str(ROOT)]
    result = subprocess.run(
        [*command, *options, "-c", str(ROOT / "pyproject.toml"), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.returncode == 0) == passes, result.stdout
    assert ("1 passed" if passes else "1 failed") in result.stdout
