"""Results of the runs of a benchmark, as the disk has them."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acktr_tf.errors import UserError
from acktr_tf.runs.csv_files import read_columns
from acktr_tf.runs.files import reason
from acktr_tf.runs.logs import EPISODES_FILE, PROGRESS_FILE
from acktr_tf.suites.jobs import FINISHED, Job, read_outcome, read_scores
from acktr_tf.types import Array

WINDOW = 100
"""Training episodes at the end of a run whose mean return is its score."""

WAITING = "waiting"
"""Status of a run that has not been started."""


class Run(NamedTuple):
    """Result of one run, which may be under way.

    Attributes:
      task: Name of its task.
      algorithm: Name of its algorithm.
      seed: Its seed.
      status: `finished`, `crashed`, `stopped`, `started` or `waiting`.
      crash: Last line of the log of the last process that crashed.
      seconds: Wall time of the training so far.
      steps: Agent steps trained and logged.
      episode_steps: `[E]`, agent steps of the run when each episode ended.
      episode_returns: `[E]`, its raw return.
      evaluation_mean: Mean raw return of the final policy; nan if it is not evaluated.
    """

    task: str
    algorithm: str
    seed: int
    status: str
    crash: str
    seconds: float
    steps: int
    episode_steps: Array
    episode_returns: Array
    evaluation_mean: float

    @property
    def last_100_mean(self) -> float:
        """Mean raw return of the last 100 training episodes; nan if there are none."""
        last = self.episode_returns[-WINDOW:]
        return float(last.mean()) if len(last) else math.nan

    @property
    def counts(self) -> bool:
        """Whether the run enters the means: it is finished and has a score."""
        return self.status == FINISHED and len(self.episode_returns) > 0


def read_run(job: Job) -> Run:
    """Reads the result of a run.

    Raises:
      UserError: A file is damaged.
    """
    outcome = read_outcome(job.directory)
    scores = read_scores(job.directory)
    steps, returns = _read_columns(
        job.run_dir / EPISODES_FILE, ("step", "episode_return")
    ).T
    (logged,) = _read_columns(job.run_dir / PROGRESS_FILE, ("step",)).T
    return Run(
        job.task,
        job.algorithm,
        job.seed,
        outcome.status if outcome else WAITING,
        outcome.crash if outcome else "",
        outcome.seconds if outcome else 0.0,
        int(max([0.0, *logged[-1:], *steps[-1:]])),
        steps,
        returns,
        float(scores["mean"]) if scores else math.nan,
    )


def _read_columns(path: Path, names: Sequence[str]) -> Array:
    """Reads columns of a CSV file, `[N, len(names)]`; N is 0 if there is no file."""
    try:
        return read_columns(path, names)
    except FileNotFoundError:
        return np.empty((0, len(names)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def of_cell(runs: Iterable[Run], task: str, algorithm: str) -> list[Run]:
    """Returns the runs of one task and one algorithm, in their order."""
    return [run for run in runs if (run.task, run.algorithm) == (task, algorithm)]
