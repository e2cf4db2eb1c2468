"""The house: which rooms may import which. Imports go down, and rooms of one floor know nothing of
each other."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dino_tutorial"

# From the top floor down. A room may import what stands on a lower floor.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("grading",),
    ("exercises",),
    ("clinic", "curation"),
    ("runs",),
    ("training",),
    ("methods",),
    ("plots",),
    ("views", "losses", "models", "datasets", "evaluation"),
    ("seeds", "normalization", "parallel", "options"),
    ("files",),
    ("errors", "__init__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The room of a module's dotted name, `__init__` for the package's own face."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dino_tutorial"):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in inner}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("dino_tutorial")}
    return found


GRAPH = {module: imports(path) - {module} for module, path in MODULES.items()}


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in MODULES}
    assert rooms == set(FLOOR)
    assert len(rooms - {"__init__", "__main__"}) <= 20


def test_the_guide_draws_these_floors():
    guide = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = guide.split("may import what stands on a lower one:")[1].split("```")[1]
    floors = [line.split() for line in drawn.strip().splitlines()]
    faces = {"__init__", "__main__"}
    assert floors == [
        list(rooms) for floor in FLOORS if (rooms := [r for r in floor if r not in faces])
    ]
    for path in re.findall(
        r"`(\w+/\w+\.\w+)`", guide.split("| to do this | open |")[1].split("\n\n")[0]
    ):
        assert "NAME" in path or (PACKAGE / path).exists(), path


@pytest.mark.parametrize(
    "module", [m for m in MODULES if room_of(m) not in ("__init__", "__main__")]
)
def test_imports_go_down(module):
    ours = room_of(module)
    for other in GRAPH[module]:
        theirs = room_of(other)
        assert theirs == ours or FLOOR[theirs] > FLOOR[ours], f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    """A face, such as `losses/__init__.py`, stands above the modules that it shows."""
    state: dict[str, str] = {}

    def visit(module: str, way: tuple[str, ...]) -> None:
        if state.get(module) == "done":
            return
        assert state.get(module) != "open", f"circle: {' → '.join((*way, module))}"
        state[module] = "open"
        for other in sorted(GRAPH.get(module, ())):
            visit(other, (*way, module))
        state[module] = "done"

    for module in MODULES:
        visit(module, ())


def test_the_loop_imports_what_it_runs():
    assert "dino_tutorial.methods" in GRAPH["dino_tutorial.training.loop"]


def test_no_name_is_a_module_and_something_else():
    """`from dino_tutorial.runs import train` gives the function, and nothing else is called so."""
    faces = {module: path for module, path in MODULES.items() if path.name == "__init__.py"}
    assert len(faces) > 10
    twice = {}
    for face in faces:
        beside = {m.removeprefix(f"{face}.") for m in MODULES if m.startswith(f"{face}.")}
        shown = getattr(import_module(face), "__all__", ())
        twice |= {f"{face}.{name}": face for name in beside & set(shown)}
    assert twice == {}
