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


def test_a_notebook_shows_sentences_to_the_left():
    rows = [["none", "3", "every image gets the same prototype"], ["all", "12", "nothing found"]]
    rule = Table(["run", "step", "diagnosis"], rows)._repr_markdown_().splitlines()[1]
    assert rule == "| :-- | --: | :-- |"


def test_print_writes_columns():
    assert str(TABLE).splitlines() == [
        "in %       mIoU  table",
        "DINO       51.0   88.7",
        "all of it   6.3",
    ]


def test_a_row_with_a_cell_too_few_is_no_row():
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        Table(["a", "b"], [["1"]])


def test_the_best_of_a_column_is_bold_in_a_notebook_alone():
    rows = [["DINO", "9.5 %", "1,200"], ["all of it", "30 ± 2 %", "-3"], ["none", "", "−3"]]
    table = Table(["", "accuracy", "loss"], rows, {"accuracy": max, "loss": min})
    assert table._repr_markdown_().splitlines()[2:] == [
        "| DINO | 9.5 % | 1,200 |",
        "| all of it | **30 ± 2 %** | **-3** |",
        "| none |  | **−3** |",
    ]
    assert "*" not in str(table)


def test_the_best_of_a_column_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no column of the table: b"):
        Table(["a"], [["1"]], {"b": max})
