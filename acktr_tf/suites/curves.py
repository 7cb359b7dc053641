"""Learning curves of a benchmark, as a picture."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from acktr_tf.suites.jobs import CRASHED
from acktr_tf.suites.results import Run, of_cell
from acktr_tf.suites.statistics import bootstrap_interval, learning_curve
from acktr_tf.suites.suite import Suite
from acktr_tf.suites.tables import counted
from acktr_tf.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID_POINTS = 100
LEGEND_WIDTH = 50  # Letters, of the five inches of a panel.
LEGEND_LINE = 0.2  # Inches.


def plot_curves(suite: Suite, runs: Sequence[Run]) -> bytes:
    """Draws one panel per task with one colour per algorithm, as PNG.

    A dot is an episode. The line is the mean of the `learning_curve`s of the runs that
    count, the band its bootstrap interval. A cross is where a run crashed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(suite.tasks))
    rows = -(-len(suite.tasks) // columns)
    labels = {
        task: [_label(name, of_cell(runs, task, name)) for name in suite.algorithms]
        for task in suite.tasks
    }
    # The same room for the curves whatever the legends below them take.
    lines = max(len("\n".join(texts).splitlines()) for texts in labels.values())
    size = (5 * columns, (3.5 + LEGEND_LINE * lines) * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(suite.title)
    for number, task in enumerate(suite.tasks, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(task)
        axes.set_xlabel("agent steps")
        axes.set_ylabel("raw return of an episode")
        axes.grid(alpha=0.3)
        longest = max([1, *(run.steps for run in runs if run.task == task)])
        grid = np.linspace(0, longest, GRID_POINTS + 1)[1:]
        for position, algorithm in enumerate(suite.algorithms):
            shown = of_cell(runs, task, algorithm)
            _draw(axes, f"C{position}", labels[task][position], shown, grid)
        # Below: within the panel it would hide the end of some curve. The pad is in
        # units of the letters, and leaves room for the axis and its name.
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            borderaxespad=4.5,
            fontsize="small",
            frameon=False,
        )
    file = io.BytesIO()
    # Without what would differ between equal reports.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _label(algorithm: str, runs: Sequence[Run]) -> str:
    """Returns the legend of an algorithm on a task, in lines no wider than a panel."""
    label = f"{algorithm}, {counted(sum(run.counts for run in runs), 'seed')}"
    crashed = [str(run.seed) for run in runs if run.status == CRASHED]
    if crashed:
        label += f" (x crashed: {', '.join(crashed)})"
    return textwrap.fill(label, LEGEND_WIDTH)


def _draw(
    axes: "Axes", color: str, label: str, runs: Sequence[Run], grid: Array
) -> None:
    dots: dict[str, Any] = {"markersize": 2, "markeredgewidth": 0, "alpha": 0.3}
    for run in runs:
        episodes = run.episode_steps, run.episode_returns
        axes.plot(*episodes, ".", color=color, **dots)
        if run.status == CRASHED and len(run.episode_steps):
            axes.plot(*(values[-1] for values in episodes), "x", color=color)
    finished = [run for run in runs if run.counts]
    mean = np.full(len(grid), math.nan)
    if finished:
        curves = np.array([learning_curve(run, grid) for run in finished])
        mean = curves.mean(axis=0)
        axes.fill_between(
            grid, *bootstrap_interval(curves), color=color, alpha=0.3, linewidth=0
        )
    axes.plot(grid, mean, color=color, label=label)
