"""What pyproject.toml cannot say: the wheel carries the repository's files that the book reads, so
that a notebook runs where there is no checkout. See dino_tutorial.shipped."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
READ_BY_THE_BOOK = ("data/**/*", "benchmarks/*.json", "book/claims.yml")


class BuildWithData(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout itself is read
            return
        carried = Path(self.build_lib) / "dino_tutorial" / "carried"
        shutil.rmtree(carried, ignore_errors=True)  # of an earlier build
        for pattern in READ_BY_THE_BOOK:
            files = [path for path in ROOT.glob(pattern) if path.is_file()]
            if not files:
                raise FileNotFoundError(f"no {pattern} beside setup.py: build from a checkout")
            for path in files:
                copy = carried / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


setup(cmdclass={"build_py": BuildWithData})
