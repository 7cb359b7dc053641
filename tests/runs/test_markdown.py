import pytest

from acktr_tf.runs.markdown import table


def test_a_table():
    text = table(["a", "", "b|c"], [["1", "2", ""], ["x | y", "z", "é"]])
    assert text.splitlines() == [
        r"| a |  | b\|c |",
        "| --- | --- | --- |",
        "| 1 | 2 |  |",
        r"| x \| y | z | é |",
    ]
    assert table(["a"], []).splitlines() == ["| a |", "| --- |"]


@pytest.mark.parametrize("row", [["1"], ["1", "2", "3"]])
def test_every_row_has_a_cell_per_column(row):
    with pytest.raises(ValueError, match=f"2 cells. Received: {len(row)}"):
        table(["a", "b"], [row])
