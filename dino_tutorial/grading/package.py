"""The package as it was before submissions ran: what each of them gets a copy of."""

from pathlib import Path

import dino_tutorial
from dino_tutorial.files import write_bytes


class Package:
    """The files of the installed package, kept in memory."""

    def __init__(self) -> None:
        self.root = Path(dino_tutorial.__file__).parent
        self.files = {
            path.relative_to(self.root): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def copy_to(self, folder: Path) -> None:
        """Write them to ``folder / "dino_tutorial"``."""
        for name, content in self.files.items():
            path = folder / self.root.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def put_back(self) -> str:
        """Undo what was done to installed files; the name of the first one, if there is any."""
        first = ""
        for name, content in self.files.items():
            path = self.root / name
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)
                first = first or str(name)
        return first
