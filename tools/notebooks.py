"""Run, normalise and check the notebooks of the book.

    python tools/notebooks.py prepare [NOTEBOOK ...]    make them run outside of a checkout
    python tools/notebooks.py execute [NOTEBOOK ...]    run them and store their outputs
    python tools/notebooks.py check   [NOTEBOOK ...]    list what a reader should never see

Without names, every notebook in ``book/``. A notebook is stored in a normal form, so that running
it again on the same machine changes nothing in git. With ``prepare --repository OWNER/NAME`` the
notebooks install the package from there, where it is missing.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

BOOK = Path(__file__).resolve().parent.parent / "book"
# One thread and no progress bars, as in `make test`: the order of a sum decides its last digit.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONHASHSEED": "0",
    # Figures belong into the notebook, also where the environment asks for no display.
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
CELL_TIMEOUT = 300  # seconds
# Live widgets have random ids and no kernel behind them on the site.
LIVE = {"application/vnd.jupyter.widget-view+json"}
UNSEEN = {
    "a home folder": re.compile(r"/home/\w|/root/|/Users/\w|[A-Z]:\\Users\\"),
    "a temporary folder": re.compile(r"/tmp/|/var/folders/"),
    "a warning": re.compile(r"\b\w*Warning\b"),
    "a progress bar": re.compile(r"\d(it/s|s/it)|\d%\|"),
    "a measured time": re.compile(r"Wall time|CPU times|\bper loop\b"),
    "a memory address": re.compile(r"\b0x[0-9a-f]{6,}\b"),
    "a date": re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d"),
}
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
# A picture in Markdown or HTML without alt text.
WORDLESS = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt=)")
DATA = re.compile(r"base64,\s*[A-Za-z0-9+/=]+")  # letters by chance, not what a reader sees
HEAVIEST = 600_000  # bytes of one output in HTML; a phone loads the page as well
CHECKED = "nbval-check-output"
SOLUTION = re.compile(r"^`{3,}\{solution-(start|end)\}", re.MULTILINE)
INSTALLS = "install"  # tag of the first code cell, which the page does not show
MISSING = 'import importlib.util\n\nif importlib.util.find_spec("dino_tutorial") is None:\n'
WITHOUT_ADDRESS = """\
    raise ModuleNotFoundError(
        "install the package first: `make run` in its repository does"
    )"""
# The versions that are there are asked for by name, so that pip keeps them or says why it cannot.
WITH_ADDRESS = """\
    import importlib.metadata
    import subprocess
    import sys

    stays = [
        f"{part.name}=={part.version}"
        for part in importlib.metadata.distributions()
        if part.name in ("torch", "torchvision")
    ]
    repository = "REPOSITORY"
    package = f"dino-tutorial @ git+https://github.com/{repository}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *stays, package], check=True)"""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# A file of the repository that is looked for from the folder in which the notebook runs.
CLIMBS = re.compile(r"\bPath\.cwd\(\)|[\"']\.\./")


def execute(path: Path) -> bool:
    """Run one notebook in its folder and store it; returns whether the file changed."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env={**os.environ, **QUIET})
    after = write(normalise(notebook))
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs between two runs or two machines."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        # An id by position: the converters that write notebooks draw random ones.
        cell["id"] = f"cell-{number:03d}"
        for key in ("execution", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = list(_normal_outputs(cell.outputs))
    _fold_solutions(notebook)
    return notebook


def _fold_solutions(notebook: NotebookNode) -> None:
    """Solutions are folded in Jupyter too; the site folds them by their directive."""
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "code" and inside:
            cell.metadata.setdefault("jupyter", {}).update(source_hidden=True, outputs_hidden=True)
        elif cell.cell_type == "markdown":
            for found in SOLUTION.finditer(cell.source):
                inside = found[1] == "start"


def _normal_outputs(outputs: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Neighbouring pieces of one stream joined, live widgets replaced by what they fall back to."""
    stream = None
    for output in outputs:
        if output.output_type == "stream":
            if stream is not None and stream.name == output.name:
                stream.text += output.text
                continue
            stream = output
        else:
            stream = None
            output.metadata = NotebookNode()
            if LIVE & output.get("data", {}).keys():
                output.data = NotebookNode(
                    {kind: data for kind, data in output.data.items() if kind not in LIVE}
                )
                if set(output.data) <= {"text/plain"}:
                    continue
        yield output


def prepare(path: Path, repository: str | None = None) -> bool:
    """Give one notebook the cell that installs what is missing; returns whether the file changed.

    Without a repository, the one that its cell names already stays.
    """
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    old = [cell for cell in notebook.cells if INSTALLS in cell.metadata.get("tags", [])]
    if repository is None:
        repository = _repository_of(old[0]) if old else ""
    cells = [cell for cell in notebook.cells if cell not in old]
    place = next(number for number, cell in enumerate(cells) if cell.cell_type == "code")
    cells.insert(place, new_code_cell(install_cell(repository), execution_count=1))
    cells[place].metadata["tags"] = [INSTALLS, "remove-cell"]
    notebook.cells = cells
    _count(notebook)
    after = write(normalise(notebook))
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def install_cell(repository: str) -> str:
    """The source of the cell, for ``OWNER/NAME`` on GitHub or for an address not known yet: ""."""
    then = WITH_ADDRESS.replace("REPOSITORY", repository) if repository else WITHOUT_ADDRESS
    return MISSING + then


def _repository_of(cell: NotebookNode) -> str:
    found = re.search(rf'repository = "({REPOSITORY.pattern})"', cell.source)
    return found[1] if found else ""


def _count(notebook: NotebookNode) -> None:
    """Count the cells anew, as far as the notebook was run: 1, 2, 3 …"""
    run = [c for c in notebook.cells if c.cell_type == "code" and c.execution_count is not None]
    for number, cell in enumerate(run, 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


def write(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"


def problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with a stored notebook, one sentence each; empty when it is fit to publish.

    nbval compares nothing in a cell that has no execution count or no tag, so that a notebook
    without them would pass whatever it prints. Hence the first three of these checks.
    """
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append("it was not run from top to bottom: its execution counts are not 1, 2, 3 …")
    checked = [cell for cell in code if CHECKED in cell.metadata.get("tags", [])]
    if not checked:
        found.append(f"no cell has the tag {CHECKED}, so that nothing it prints is tested")
    for cell in checked:
        if not any(_compared(output) for output in cell.outputs):
            found.append(f"a cell tagged {CHECKED} has no text output: {_first_line(cell)}")
    for cell in code:
        found += [f"{problem}: {_first_line(cell)}" for problem in _cell_problems(cell)]
        if CLIMBS.search(cell.source):
            found.append(f"it needs a checkout, use dino_tutorial.shipped: {_first_line(cell)}")
    if not code or code[0].source != install_cell(_repository_of(code[0])):
        found.append("its first code cell does not install: run tools/notebooks.py prepare")
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and WORDLESS.search(cell.source):
            found.append(f"a picture without alt text: {_first_line(cell)}")
    if write(normalise(nbformat.from_dict(notebook))) != write(notebook):
        found.append("it is not in its normal form: run tools/notebooks.py execute")
    return found


def _cell_problems(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"it ends in {output.ename}"
        if output.output_type == "stream" and output.name == "stderr":
            yield "it prints to stderr"
        for name, pattern in UNSEEN.items():
            if match := pattern.search(_text(output)):
                yield f"it prints {name} ({match.group()})"
        html = output.get("data", {}).get("text/html", "")
        if WORDLESS.search(html):
            yield "its HTML has a picture without alt text"
        if len(html) > HEAVIEST:
            yield f"its HTML has {len(html) // 1000} kB, more than {HEAVIEST // 1000}"
    pictures = sum(kind in PICTURES for o in cell.outputs for kind in o.get("data", {}))
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    if pictures and not alt.strip():
        yield "a figure without alt text (cell metadata mystnb.image.alt)"
    widgets = any("text/html" in o.get("data", {}) for o in cell.outputs)
    if alt.strip() and not pictures and not widgets:
        yield "an alt text, but no figure"
    if pictures > 1:
        yield "more than one figure, so that one alt text cannot describe them"


def _text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    text = "\n".join(data[kind] for kind in ("text/plain", "text/html") if kind in data)
    return DATA.sub("", text)


def _compared(output: NotebookNode) -> bool:
    """Whether nbval compares this output: printed text or a value, not a picture's repr."""
    if output.output_type == "stream":
        return bool(output.text.strip())
    kinds = output.get("data", {}).keys()
    return "text/plain" in kinds and not kinds & {*PICTURES, "text/html"}


def _first_line(cell: NotebookNode) -> str:
    return cell.source.strip().splitlines()[0][:60]


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["prepare", "execute", "check"])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="notebooks to run at a time")
    parser.add_argument("--repository", help="prepare: OWNER/NAME on GitHub")
    arguments = parser.parse_intermixed_args()
    paths = [path.resolve() for path in arguments.notebooks] or sorted(BOOK.glob("*.ipynb"))

    failed = False
    if arguments.command == "prepare":
        if arguments.repository and not REPOSITORY.fullmatch(arguments.repository):
            parser.error(f"--repository is OWNER/NAME on GitHub, not {arguments.repository}")
        for path in paths:
            if prepare(path, arguments.repository):
                print(f"{path.name}: changed")
        return failed

    if arguments.command == "check":
        for path in paths:
            for problem in problems(read(path)):
                failed = True
                print(f"{path.name}: {problem}")
        return failed

    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = {path: pool.submit(execute, path) for path in paths}
    for path, run in runs.items():
        try:
            print(f"{path.name}: {'changed' if run.result() else 'unchanged'}")
        except CellExecutionError as error:
            failed = True
            print(f"{path.name}: failed\n{error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
