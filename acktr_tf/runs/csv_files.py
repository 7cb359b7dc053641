"""Columns of the CSV files that a run writes."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acktr_tf.errors import UserError


def read_complete_lines(path: Path) -> str:
    """Returns a file's text without a last line that was not written to its end.

    A power cut or a full disk leaves one; a run that goes on cuts it off.

    Raises:
      OSError: The file cannot be read.
      UserError: It is not text.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return text[: text.rfind("\n") + 1]


def read_columns(path: Path, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Returns some columns of a CSV file as numbers, `[N, len(names)]`.

    Raises:
      OSError: The file cannot be read.
      UserError: A column is missing, or holds something that is no number.
    """
    lines = io.StringIO(read_complete_lines(path), newline="")
    try:
        rows = [[float(row[n]) for n in names] for row in csv.DictReader(lines)]
    except KeyError as error:
        raise UserError(f"{path} is damaged: it has no column {error}.") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return np.array(rows, np.float64).reshape(-1, len(names))
