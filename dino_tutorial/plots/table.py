"""A table of results: a notebook shows it as one, ``print`` writes it in columns."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dino_tutorial.errors import UserError
from dino_tutorial.options.arguments import shown

SENTENCE = 30  # characters; what is longer is read, and not compared with what stands above it
NUMBER = re.compile(r"[-+−]?\d[\d,]*\.?\d*")


@dataclass(frozen=True)
class Table:
    """Rows of results under their headings.

    Everything but the first column is set to the right, and in a notebook a column that holds
    sentences to the left.

    Attributes:
        columns: the headings; the first stands above the names of the rows.
        rows: for each row its name and one cell for every further column, as they are shown.
        best: for a column ``max`` or ``min``, what is best in it: a notebook sets that cell in
            bold, and all that are equal to it. A cell counts as the number that it begins with.

    Raises:
        UserError: if a row has not as many cells as there are columns, or a column of ``best`` is
            none of the table's.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Mapping[str, Callable[[list[float]], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _lists("columns", self.columns)
        _lists("rows", self.rows)
        for row in self.rows:
            _lists("rows", row)
            if len(row) != len(self.columns):
                raise UserError(
                    f"{len(row)} cells in a table of {len(self.columns)} columns: give as many"
                )
        if unknown := set(self.best) - set(self.columns):
            raise UserError(
                f"no column of the table: {', '.join(sorted(unknown))}; give one of its headings"
            )

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_spaced(line, widths) for line in lines)

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        others = range(1, len(self.columns))
        rule = [":--", *("--:" if self._is_short(column) else ":--" for column in others)]
        rows = [list(row) for row in self.rows]
        for name, choose in self.best.items():
            place = list(self.columns).index(name)
            numbers = [_number(row[place]) for row in rows]
            first = choose([number for number in numbers if number is not None])
            for row, number in zip(rows, numbers, strict=True):
                if number == first:
                    row[place] = f"**{row[place]}**"
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.columns, rule, *rows))

    def _is_short(self, column: int) -> bool:
        return all(len(row[column]) <= SENTENCE for row in self.rows)


def _number(cell: str) -> float | None:
    found = NUMBER.match(cell)
    return float(found[0].replace(",", "").replace("−", "-")) if found else None


def _lists(name: str, values: Sequence[object]) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"a table's {name} are lists of text, not {shown(values)}")


def _spaced(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        f"{cell:{'>' if place else '<'}{width}}"
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
