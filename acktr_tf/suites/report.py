"""Report of a benchmark: a page with tables, the runs as CSV, and learning curves."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from acktr_tf.runs import markdown
from acktr_tf.suites.curves import plot_curves
from acktr_tf.suites.jobs import CRASHED, write_file
from acktr_tf.suites.results import WINDOW, Run
from acktr_tf.suites.statistics import CONFIDENCE
from acktr_tf.suites.suite import Suite
from acktr_tf.suites.tables import (
    aggregate_table,
    runs_csv,
    scores_table,
    seeds_table,
    settings_table,
    time_table,
)

PAGE_FILE = "report.md"
RUNS_FILE = "report.csv"
CURVES_FILE = "report.png"


def write_report(directory: Path, suite: Suite, runs: Iterable[Run]) -> None:
    """Writes `report.md`, `report.csv` and `report.png`, each whole or as it was.

    Args:
      directory: Directory of the benchmark.
      suite: Suite that the runs are of.
      runs: All runs that there are.

    Raises:
      RunError: They cannot be written.
    """
    tasks, algorithms = list(suite.tasks), list(suite.algorithms)
    runs = sorted(
        runs,
        key=lambda run: (
            tasks.index(run.task),
            algorithms.index(run.algorithm),
            run.seed,
        ),
    )
    write_file(directory / CURVES_FILE, plot_curves(suite, runs))
    write_file(directory / RUNS_FILE, runs_csv(runs).encode())
    write_file(directory / PAGE_FILE, page(suite, runs).encode())


def page(suite: Suite, runs: Sequence[Run]) -> str:
    """Returns the report in Markdown."""
    states = [run.status for run in runs]
    counted = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    crashed = [
        f"- {run.task} {run.algorithm} seed {run.seed}: {run.crash}"
        for run in runs
        if run.status == CRASHED
    ]
    actions = "its most probable actions" if suite.greedy else "its actions drawn"
    sections = [
        f"# {suite.title}",
        f"Of {len(runs)} runs: {counted}. Written by `python -m acktr_tf.benchmark`, "
        "which computed every number here.",
        "## Scores",
        scores_table(suite, runs),
        f"The mean raw return of the last {WINDOW} training episodes: its mean over "
        f"the seeds of finished runs, and the {CONFIDENCE:.0%} bootstrap interval of "
        "that mean. *Evaluation* is the mean raw return of whole games with the "
        f"final policy, {actions}, over the same seeds.",
        *(["Crashed, and not in any mean:", "\n".join(crashed)] if crashed else []),
    ]
    if suite.scores:
        sections += [
            "## All tasks together",
            aggregate_table(suite, runs),
            "The interquartile mean (the mean of the middle half) over tasks and "
            f"seeds, and its {CONFIDENCE:.0%} stratified bootstrap interval. Before, "
            "each score is put on the scale of its task:",
            markdown.table(
                ["task", "counts as 0", "counts as 1"],
                [
                    [task, f"{low:g}", f"{high:g}"]
                    for task, (low, high) in suite.scores.items()
                ],
            ),
        ]
    sections += [
        "## Every seed",
        seeds_table(suite, runs),
        "The same means of each finished run, in the order of the seeds.",
        "## Learning curves",
        f"![Returns of the training episodes, by task]({CURVES_FILE})",
        "A dot is the raw return of one training episode of one seed. The line is the "
        "mean over the finished runs, the band its bootstrap interval.",
        "## Wall time",
        time_table(suite, runs),
        "Of the training of a finished run, its start and its stops and restarts "
        "included.",
        "## Settings",
        settings_table(suite),
    ]
    return "\n\n".join(sections) + "\n"
