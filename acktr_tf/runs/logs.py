"""Logs of a run: episodes and scalars as CSV, and the scalars for TensorBoard."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acktr_tf.config.config import Config
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs.files import AppendOnlyFile, reason
from acktr_tf.runs.tensorboard import EventWriter
from acktr_tf.states import State, checked_array, checked_number
from acktr_tf.types import Array, Episode, Scalar

EPISODES_FILE = "episodes.csv"
PROGRESS_FILE = "progress.csv"
TENSORBOARD_DIRECTORY = "tensorboard"

EPISODE_COLUMNS = ("step", "episode_return", "episode_length", "seconds")

_STEP, _COLUMNS = "step", "columns"


class LogState(NamedTuple):
    """State of a log at a checkpoint.

    Attributes:
      step: The last step logged.
      columns: Columns of `progress.csv`.
      lengths: Bytes of each CSV file, by its name.
    """

    step: int
    columns: list[str]
    lengths: dict[str, int]


def read_state(state: State) -> LogState:
    """Reads what `RunLog.state` returned.

    Raises:
      StateError: It is not the state of a log.
    """
    return LogState(
        int(checked_number(state, _STEP, "i", 0)),
        [str(name) for name in checked_array(state, _COLUMNS, "U", (None,))],
        {
            name: int(checked_number(state, name, "i", 1))
            for name in (EPISODES_FILE, PROGRESS_FILE)
        },
    )


class RunLog:
    """Writes `episodes.csv`, `progress.csv` and `tensorboard/` of a run directory.

    A line of a CSV file is handed to the operating system in one write, so that a
    killed process leaves whole lines. Whatever a killed run wrote after its last
    checkpoint is cut off when it is continued: the CSV files by their length, the
    TensorBoard events by a session mark that TensorBoard itself obeys.

    `progress.csv` keeps the columns that it was begun with. A continued run leaves
    those empty that it no longer reports; scalars that have no column go to TensorBoard
    only.

    Args:
      run_dir: The run directory. Made if it does not exist.
      config: The settings, for TensorBoard's HParams tab.
      scalars: All scalars of the run by name, in the order of the columns of a new
        `progress.csv`.
      state: What `state()` returned for the checkpoint that the run continues from, or
        None for a new run.

    Raises:
      UserError: A new run finds a log. A continued run finds that a CSV file is
        missing, shorter than at the checkpoint, or not the file that was written then,
        or the state is not one of a log. Nothing has been changed then.
      RunError: A file cannot be written.
      ValueError: Two scalars have the same tag.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        scalars: Mapping[str, Scalar],
        state: State | None,
    ) -> None:
        _check_tags(scalars)
        self._scalars = scalars
        start = LogState(0, ["step", *scalars], {EPISODES_FILE: 0, PROGRESS_FILE: 0})
        self._step, self._columns, lengths = (
            start if state is None else read_state(state)
        )
        headers = {
            EPISODES_FILE: _line(EPISODE_COLUMNS),
            PROGRESS_FILE: _line(self._columns),
        }
        directory = run_dir / TENSORBOARD_DIRECTORY
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, header in headers.items():
                if state is None:
                    _check_unused(run_dir / name, header)
                else:
                    _check_continues(run_dir / name, header, lengths[name])
        except OSError as error:
            raise UserError(
                f"Cannot keep the logs in {run_dir}: {reason(error)}. Give a "
                "`--run_dir` that is a directory and can be written."
            ) from error
        with _faults():
            self._csv = {
                name: AppendOnlyFile(run_dir / name, length)
                for name, length in lengths.items()
            }
            if state is None:
                for name, file in self._csv.items():
                    file.write(headers[name])
            first_step = self._step + 1 if state else 0
            self._events = EventWriter(directory, config, scalars, first_step)

    def episode(self, step: int, episode: Episode, seconds: float) -> None:
        """Appends a line to `episodes.csv`.

        Args:
          step: Agent steps of the run when the episode ended.
          episode: The episode, with its raw return.
          seconds: Wall time of the run then, all its continuations together.

        Raises:
          RunError: The file cannot be written.
        """
        self._step = max(self._step, step)
        cells = (
            step,
            _number(episode.episode_return),
            episode.episode_length,
            f"{seconds:.3f}",
        )
        with _faults():
            self._csv[EPISODES_FILE].write(_line(cells))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line to `progress.csv` and the same values to TensorBoard.

        Args:
          step: Agent steps of the run so far.
          values: Scalars by name. Those that are left out stay empty in the line and
            are absent from TensorBoard.

        Raises:
          ValueError: A name is not among the scalars of the run.
          RunError: A file cannot be written.
        """
        unknown = [name for name in values if name not in self._scalars]
        if unknown:
            raise ValueError(
                "A value must be of one of the scalars that the log was made with. "
                f"Received: {', '.join(unknown)}; accepted: {', '.join(self._scalars)}"
            )
        self._step = max(self._step, step)
        cells = [
            _number(values[name]) if name in values else ""
            for name in self._columns[1:]
        ]
        with _faults():
            self._csv[PROGRESS_FILE].write(_line((step, *cells)))
            self._events.write(step, values)

    def state(self) -> dict[str, Array]:
        """Returns where the log stands, once all of it is on the disk.

        Raises:
          RunError: A file cannot be written.
        """
        with _faults():
            self._events.sync()
            for file in self._csv.values():
                file.sync()
        return {
            _STEP: np.array(self._step),
            _COLUMNS: np.array(self._columns),
            **{name: np.array(file.length) for name, file in self._csv.items()},
        }

    def close(self) -> None:
        """Closes the files; safe to call twice."""
        with _faults():
            self._events.close()
            for file in self._csv.values():
                file.close()


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"Cannot write {error.filename}: {reason(error)}. The last checkpoint is "
            "whole: the same command continues from it."
        ) from error


def _check_tags(scalars: Mapping[str, Scalar]) -> None:
    names: dict[str, str] = {}
    for name, scalar in scalars.items():
        other = names.setdefault(scalar.tag, name)
        if other != name:
            raise ValueError(
                "Each scalar must have a tag of its own. Received: "
                f"{scalar.tag} of both {other} and {name}"
            )


def _check_unused(path: Path, header: bytes) -> None:
    """Refuses a file that holds more than a header: a new run never overwrites."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(header) + 1)
    # A run killed before its first line leaves at most the header.
    if not header.startswith(start):
        raise UserError(
            f"{path} holds a log already, and the run has no checkpoint to continue "
            "from. Give another `--run_dir`, or move the file away."
        )


def _check_continues(path: Path, header: bytes, length: int) -> None:
    """Refuses a file that a checkpoint taken at `length` bytes cannot go on with."""
    if not path.exists():
        raise UserError(
            f"{path} is missing; the checkpoint goes on after its byte {length}. Put "
            "the file back, or start a new run in another `--run_dir`."
        )
    size = path.stat().st_size
    if size < length:
        raise UserError(
            f"{path} has {size} bytes; at the checkpoint it had {length}. Put the "
            "whole file back, or start a new run in another `--run_dir`."
        )
    with path.open("rb") as file:
        start = file.read(len(header))
        file.seek(max(length - 1, 0))
        end = file.read(1)
    if start != header or end != b"\n":
        raise UserError(
            f"{path} is not as it was at the checkpoint: its columns, or its lines "
            f"before byte {length}, differ. Put the original back, or start a new run "
            "in another `--run_dir`."
        )


def _line(row: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _number(value: float) -> str:
    # Ten digits: more than float32 has. Counts stay whole numbers, however large.
    value = float(value)
    return f"{value:.{17 if value.is_integer() else 10}g}"
