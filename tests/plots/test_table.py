"""A table of results, in a notebook and on a terminal."""

import pytest

from dino_tutorial.plots import Table

TABLE = Table(["in %", "mIoU", "table"], [["DINO", "51.0", "88.7"], ["all of it", "6.3", ""]])


def test_a_notebook_shows_a_table_with_numbers_to_the_right():
    assert TABLE._repr_markdown_().splitlines() == [
        "| in % | mIoU | table |",
        "| :-- | --: | --: |",
        "| DINO | 51.0 | 88.7 |",
        "| all of it | 6.3 |  |",
    ]


def test_print_writes_columns():
    assert str(TABLE).splitlines() == [
        "in %       mIoU  table",
        "DINO       51.0   88.7",
        "all of it   6.3",
    ]


def test_a_row_with_a_cell_too_few_is_no_row():
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        Table(["a", "b"], [["1"]])
