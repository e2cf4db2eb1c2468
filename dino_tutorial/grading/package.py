"""The package as it was before submissions ran: what each of them gets a copy of."""

import os
from pathlib import Path

import dino_tutorial


class Package:
    """The files of the installed package, kept in memory; the installation is never written to.

    Their bytecode is among them, so that no copy has to be compiled.
    """

    def __init__(self, root: Path | None = None) -> None:
        """``root`` is the package's folder; None is where this very package lies."""
        self.root = Path(dino_tutorial.__file__).parent if root is None else root
        self.files = {
            path.relative_to(self.root): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.root.rglob("*")
            if path.is_file()
        }

    def copy_to(self, folder: Path) -> None:
        """Write them to ``folder / "dino_tutorial"``."""
        for name, (content, time) in self.files.items():
            path = folder / self.root.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, ns=(time, time))  # by which Python tells whether bytecode is of a file

    def changed(self) -> list[str]:
        """Names of those whose contents are no longer as they were, without bytecode."""
        return sorted(
            str(name)
            for name, (content, _) in self.files.items()
            if name.suffix != ".pyc" and _read(self.root / name) != content
        )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
