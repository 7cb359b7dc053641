"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; a `|` in a cell is escaped.

    Args:
      header: Names of the columns.
      rows: Cells of each row, as many as there are columns.

    Raises:
      ValueError: A row has more or fewer cells than there are columns.
    """
    lines = [header, ["---"] * len(header), *rows]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(
                f"A row must have {len(header)} cells. Received: {len(line)}: {line}"
            )
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
