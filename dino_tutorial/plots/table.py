"""A table of results: a notebook shows it as one, ``print`` writes it in columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from dino_tutorial.errors import UserError
from dino_tutorial.options.arguments import shown


@dataclass(frozen=True)
class Table:
    """Rows of results under their headings; everything but the first column is set to the right.

    Attributes:
        columns: the headings; the first stands above the names of the rows.
        rows: for each row its name and one cell for every further column, as they are shown.

    Raises:
        UserError: if a row has not as many cells as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        _lists("columns", self.columns)
        _lists("rows", self.rows)
        for row in self.rows:
            _lists("rows", row)
            if len(row) != len(self.columns):
                raise UserError(
                    f"{len(row)} cells in a table of {len(self.columns)} columns: give as many"
                )

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_spaced(line, widths) for line in lines)

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        rule = [":--", *["--:"] * (len(self.columns) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.columns, rule, *self.rows))


def _lists(name: str, values: Sequence[object]) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"a table's {name} are lists of text, not {shown(values)}")


def _spaced(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        f"{cell:{'>' if place else '<'}{width}}"
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
