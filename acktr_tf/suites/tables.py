"""Tables of a benchmark's results."""

import csv
import io
import math
import shlex
from collections.abc import Sequence

import numpy as np

from acktr_tf.runs import markdown
from acktr_tf.suites.jobs import CRASHED, FINISHED
from acktr_tf.suites.results import Run, of_cell
from acktr_tf.suites.statistics import (
    Estimate,
    interquartile_mean,
    mean_over_seeds,
    normalized_scores,
)
from acktr_tf.suites.suite import Suite

COLUMNS = (
    "task",
    "algorithm",
    "seed",
    "status",
    "steps",
    "last_100_mean",
    "evaluation_mean",
    "seconds",
)
"""Columns of the runs as CSV."""


def runs_csv(runs: Sequence[Run]) -> str:
    """Returns the runs as CSV, one per line; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in runs:
        means = (run.last_100_mean, run.evaluation_mean)
        writer.writerow(
            [
                *(run.task, run.algorithm, run.seed, run.status, run.steps),
                *("" if math.isnan(mean) else f"{mean:.10g}" for mean in means),
                f"{run.seconds:.3f}",
            ]
        )
    return text.getvalue()


def scores_table(suite: Suite, runs: Sequence[Run]) -> str:
    """Returns the mean over seeds and its interval, per task and algorithm."""
    rows = []
    for task in suite.tasks:
        cells = []
        for algorithm in suite.algorithms:
            group = of_cell(runs, task, algorithm)
            parts = []
            finished = [run for run in group if run.counts]
            if finished:
                scores = np.array([run.last_100_mean for run in finished])
                parts.append(_with_interval(mean_over_seeds(scores)))
                parts.append(counted(len(finished), "seed"))
            evaluations = [run.evaluation_mean for run in finished]
            known = [mean for mean in evaluations if not math.isnan(mean)]
            if known:
                missing = len(evaluations) - len(known)
                note = f" ({missing} missing)" if missing else ""
                parts.append(f"evaluation {_number(float(np.mean(known)))}{note}")
            if crashes := sum(run.status == CRASHED for run in group):
                parts.append(f"{crashes} crashed")
            cells.append(", ".join(parts) or "-")
        rows.append([task, *cells])
    return markdown.table(["task", *suite.algorithms], rows)


def seeds_table(suite: Suite, runs: Sequence[Run]) -> str:
    """Returns the scores of every seed, per task and algorithm."""
    rows = []
    for task in suite.tasks:
        for algorithm in suite.algorithms:
            group = [run for run in of_cell(runs, task, algorithm) if run.counts]
            seeds = ", ".join(str(run.seed) for run in group) or "-"
            columns = (
                [run.last_100_mean for run in group],
                [run.evaluation_mean for run in group],
            )
            cells = [
                ", ".join("-" if math.isnan(m) else _number(m) for m in means) or "-"
                for means in columns
            ]
            rows.append([task, algorithm, seeds, *cells])
    return markdown.table(
        ["task", "algorithm", "seeds", "training", "evaluation"], rows
    )


def aggregate_table(suite: Suite, runs: Sequence[Run]) -> str:
    """Returns the interquartile mean over tasks and seeds, per algorithm."""
    rows = []
    for algorithm in suite.algorithms:
        own = [run for run in runs if run.algorithm == algorithm]
        scores = normalized_scores(own, suite.scores)
        if not len(scores):
            rows.append([algorithm, "-", "not all tasks have a finished run"])
            continue
        runs_used = f"{counted(scores.shape[1], 'task')}, {len(scores)} each"
        rows.append(
            [algorithm, _with_interval(interquartile_mean(scores), 3), runs_used]
        )
    return markdown.table(["algorithm", "interquartile mean", "runs"], rows)


def time_table(suite: Suite, runs: Sequence[Run]) -> str:
    """Returns the mean wall time of finished runs, per algorithm."""
    rows = []
    for algorithm in suite.algorithms:
        seconds = [
            run.seconds
            for run in runs
            if run.algorithm == algorithm and run.status == FINISHED
        ]
        mean = f"{np.mean(seconds):.1f} s" if seconds else "-"
        rows.append([algorithm, mean, str(len(seconds))])
    return markdown.table(["algorithm", "mean", "finished runs"], rows)


def settings_table(suite: Suite) -> str:
    """Returns the flags of the suite, of its algorithms and of its tasks."""
    rows = [("all runs", suite.flags), *suite.algorithms.items(), *suite.tasks.items()]
    return markdown.table(
        ["for", "flags of `acktr_tf.launch`"],
        [[name, f"`{shlex.join(flags)}`" if flags else ""] for name, flags in rows],
    )


def _with_interval(estimate: Estimate, digits: int | None = None) -> str:
    value, low, high = (_number(number, digits) for number in estimate)
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def _number(number: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 1 if abs(number) >= 100 else 2
    return f"{number:.{digits}f}"


def counted(number: int, noun: str) -> str:
    """Returns `3 seeds`, or `1 seed`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
