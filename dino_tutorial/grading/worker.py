"""The process that runs one submission: limits first, then the notebook in a kernel of its own.

    python -m dino_tutorial.grading.worker FOLDER BYTES

``FOLDER`` holds ``submission.ipynb``. It gets ``cell``, the number of the code cell that runs, and
at the end ``reply``, JSON with a status and a reason.
"""

import json
import resource
import sys
from pathlib import Path

MOST_ON_DISK = 2**30  # bytes of any one file that a submission writes
OUT_OF_MEMORY = ("MemoryError", "can't allocate memory", "cannot allocate memory")


def main() -> None:
    folder, memory = Path(sys.argv[1]), int(sys.argv[2])
    limit(memory)
    status, reason = run(folder / "submission.ipynb")
    (folder / "reply").write_text(json.dumps({"status": status, "reason": reason}))


def limit(memory: int) -> None:
    """Bound this process and all that it starts.

    Memory that is *used*: of the address space, PyTorch takes gigabytes for its libraries alone.
    """
    _lower(resource.RLIMIT_DATA, memory)
    _lower(resource.RLIMIT_FSIZE, MOST_ON_DISK)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def run(path: Path) -> tuple[str, str]:
    """Run a notebook to its end, past cells that fail; its status and the reason for it."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError
    from nbformat import NotebookNode

    try:
        notebook = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell in cells:  # what it printed elsewhere does not count
            cell.outputs, cell.execution_count = [], None
    except Exception as error:
        return "unreadable", f"it is not a notebook: {_first_line(str(error))}"

    def note(cell: NotebookNode, cell_index: int) -> None:
        number = next(i for i, other in enumerate(cells, start=1) if other is cell)
        (path.parent / "cell").write_text(str(number))

    client = NotebookClient(
        notebook,
        kernel_manager_class=_kernel_manager(),
        timeout=None,  # the parent keeps the time
        startup_timeout=600,
        allow_errors=True,
        on_cell_execute=note,
        resources={"metadata": {"path": str(Path.cwd())}},
    )
    try:
        client.execute()
    except DeadKernelError:
        return "crashed", "its kernel died"
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {_first_line(str(error))}"
    return _errors(cells)


def _kernel_manager() -> type:
    """Kernels of this very interpreter, whatever kernels the machine has installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    class OwnKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=command, display_name="Python 3", language="python")

    return OwnKernel


def _errors(cells: list) -> tuple[str, str]:
    """The status that the outputs tell, and the first error."""
    found = [
        (number, f"{output.ename}: {_first_line(output.evalue)}")
        for number, cell in enumerate(cells, start=1)
        for output in cell.outputs
        if output.output_type == "error"
    ]
    for number, said in found:
        if any(words.lower() in said.lower() for words in OUT_OF_MEMORY):
            return "memory", f"code cell {number} runs out of memory"
    if not found:
        return "ok", ""
    number, said = found[0]
    more = f" (and {len(found) - 1} more cells fail)" if len(found) > 1 else ""
    return "error", f"code cell {number} fails with {said}{more}"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


if __name__ == "__main__":
    main()
