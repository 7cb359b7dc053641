"""What a benchmark found: its runs as numbers, tables and curves."""

import csv
import io
import math
import shlex
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acktr_tf.errors import UserError
from acktr_tf.runs.csv_files import read_columns
from acktr_tf.runs.logs import EPISODES_FILE, PROGRESS_FILE
from acktr_tf.suites.jobs import (
    CRASHED,
    FINISHED,
    RUN,
    Job,
    read_outcome,
    read_scores,
    write_file,
)
from acktr_tf.suites.suite import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

TABLES = "report.md"
LINES = "report.csv"
CURVES = "report.png"

WINDOW = 100
"""Training episodes at the end of a run whose mean return is its score."""

CONFIDENCE = 0.95
RESAMPLES = 2000
GRID_POINTS = 100
LEGEND_WIDTH = 50  # Letters, of the five inches of a panel.
LEGEND_LINE = 0.2  # Inches.

WAITING = "waiting"
"""Status of a run that has not been started."""

_Statistic = Callable[[Array], Array]
_SEED = 0
_ENDS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))  # Of the interval, in percent.
_TRIMMED = 0.25  # Of the scores at either end, which the interquartile mean leaves out.
_COLUMNS = (
    "task",
    "algorithm",
    "seed",
    "status",
    "steps",
    "last_100_mean",
    "evaluation_mean",
    "seconds",
)


class Run(NamedTuple):
    """What the disk has of one run.

    Attributes:
      task: Name of its task.
      algorithm: Name of its algorithm.
      seed: Its seed.
      status: `finished`, `crashed`, `stopped`, `started` or `waiting`.
      crash: What the last process that crashed said at the end.
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


class Estimate(NamedTuple):
    """A statistic, and the ends of its bootstrap interval (nan if there is none)."""

    value: float
    low: float
    high: float


# Reading ----------------------------------------------------------------------------
def read_run(job: Job) -> Run:
    """Reads what there is of a run, which may be under way.

    Raises:
      UserError: A file is damaged.
    """
    outcome = read_outcome(job.directory)
    scores = read_scores(job.directory)
    run_dir = job.directory / RUN
    steps, returns = _read_columns(
        run_dir / EPISODES_FILE, ("step", "episode_return")
    ).T
    (logged,) = _read_columns(run_dir / PROGRESS_FILE, ("step",)).T
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
    """`[N, len(names)]`, columns of a CSV file; without lines if there is no file."""
    try:
        return read_columns(path, names)
    except FileNotFoundError:
        return np.empty((0, len(names)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


# Numbers ----------------------------------------------------------------------------
def bootstrap_interval(values: Array) -> tuple[Array, Array]:
    """Percentile bootstrap interval of the mean over the first axis.

    Args:
      values: `[S, ...]`, one entry a seed; whole entries are drawn.

    Returns:
      The lower and the upper end `[...]` of the 95% interval; nan with less than two
      seeds.
    """
    if len(values) < 2:
        nothing = np.full(values.shape[1:], math.nan)
        return nothing, nothing
    generator = np.random.default_rng(_SEED)
    drawn = generator.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), _ENDS, axis=0)
    return low, high


def mean_over_seeds(values: Array) -> Estimate:
    """The mean of values `[S]`, one a seed, and its bootstrap interval."""
    low, high = bootstrap_interval(values)
    return Estimate(float(values.mean()), float(low), float(high))


def interquartile_mean(scores: Array) -> Estimate:
    """The mean of the middle half of all scores, and its stratified bootstrap interval.

    Agarwal et al. 2021 (arXiv 2108.13264), by its authors' library `rliable` if that is
    installed. Without it the same draws are made here, and give the same numbers.

    Args:
      scores: `[S, tasks]`, normalized; seeds are drawn anew for each task.
    """
    from scipy.stats import trim_mean

    def statistic(scores: Array) -> Array:
        return np.array([trim_mean(scores, _TRIMMED, axis=None)])

    value = float(statistic(scores)[0])
    if len(scores) < 2:
        return Estimate(value, math.nan, math.nan)
    interval = _rliable_interval() or _stratified_interval
    return Estimate(value, *(float(end) for end in interval(scores, statistic)))


def normalized_scores(
    runs: Iterable[Run], scores: Mapping[str, tuple[float, float]]
) -> Array:
    """The scores of one algorithm's runs on a suite's own scale.

    Each task gives as many runs as the task with the fewest, those of the lowest seeds.

    Args:
      runs: Runs of the algorithm.
      scores: Of the suite: task → the returns that count as 0 and as 1.

    Returns:
      `[S, tasks]`; S is 0 if a task has no run that counts.
    """
    columns: dict[str, list[float]] = {task: [] for task in scores}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.counts:
            low, high = scores[run.task]
            columns[run.task].append((run.last_100_mean - low) / (high - low))
    return np.array(list(zip(*columns.values(), strict=False))).reshape(-1, len(scores))


def learning_curve(run: Run, grid: Array) -> Array:
    """A run's returns on a grid of steps.

    Args:
      run: The run.
      grid: `[G]`, increasing agent steps.

    Returns:
      `[G]`, at each point the mean of the episodes that ended since the point before;
      on a line between its neighbours if none did; nan before the first episode and
      after the last.
    """
    index = np.searchsorted(grid, run.episode_steps)
    count = np.bincount(index, minlength=len(grid))[: len(grid)]
    total = np.bincount(index, run.episode_returns, len(grid))[: len(grid)]
    known = count > 0
    if not known.any():
        return np.full(len(grid), math.nan)
    means = total[known] / count[known]
    return np.interp(grid, grid[known], means, left=math.nan, right=math.nan)


def _rliable_interval() -> Callable[[Array, _Statistic], Sequence[float]] | None:
    """The stratified bootstrap of rliable, if that is installed."""
    try:
        from rliable import library
    except Exception:
        # Not only ImportError: with pandas 3, what it imports fails by a TypeError.
        return None

    def interval(scores: Array, statistic: _Statistic) -> Sequence[float]:
        # It draws from NumPy's global generator, whatever it is given.
        state = np.random.get_state()
        np.random.seed(_SEED)
        try:
            _, intervals = library.get_interval_estimates(
                {"": scores},
                statistic,
                reps=RESAMPLES,
                confidence_interval_size=CONFIDENCE,
            )
        finally:
            np.random.set_state(state)
        low, high = intervals[""][:, 0]
        return low, high

    return interval


def _stratified_interval(scores: Array, statistic: _Statistic) -> Sequence[float]:
    seeds, tasks = scores.shape
    generator = np.random.RandomState(_SEED)
    drawn = [
        statistic(scores[generator.choice(seeds, scores.shape), np.arange(tasks)])
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, _ENDS)
    return low, high


# Writing ----------------------------------------------------------------------------
def write_report(directory: Path, suite: Suite, runs: Iterable[Run]) -> None:
    """Writes `report.md`, `report.csv` and `report.png`, each whole or as it was.

    Args:
      directory: Of the benchmark.
      suite: What is compared.
      runs: All that there are.

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
    write_file(directory / CURVES, picture(suite, runs))
    write_file(directory / LINES, lines(runs).encode())
    write_file(directory / TABLES, page(suite, runs).encode())


def lines(runs: Sequence[Run]) -> str:
    """The runs as CSV, one a line; what there is not yet is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
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


def page(suite: Suite, runs: Sequence[Run]) -> str:
    """The report in Markdown."""
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
        _scores_table(suite, runs),
        f"The mean raw return of the last {WINDOW} training episodes: its mean over "
        f"the seeds of finished runs, and the {CONFIDENCE:.0%} bootstrap interval of "
        "that mean. *Evaluation* is the mean raw return of whole games with the "
        f"final policy, {actions}, over the same seeds.",
        *(["Crashed, and not in any mean:", "\n".join(crashed)] if crashed else []),
    ]
    if suite.scores:
        sections += [
            "## All tasks together",
            _aggregate_table(suite, runs),
            "The interquartile mean (the mean of the middle half) over tasks and "
            f"seeds, and its {CONFIDENCE:.0%} stratified bootstrap interval. Before, "
            "each score is put on the scale of its task:",
            _rows(
                ["task", "counts as 0", "counts as 1"],
                [
                    [task, f"{low:g}", f"{high:g}"]
                    for task, (low, high) in suite.scores.items()
                ],
            ),
        ]
    sections += [
        "## Every seed",
        _seeds_table(suite, runs),
        "The same means of each finished run, in the order of the seeds.",
        "## Learning curves",
        f"![Returns of the training episodes, by task]({CURVES})",
        "A dot is the raw return of one training episode of one seed. The line is the "
        "mean over the finished runs, the band its bootstrap interval.",
        "## Wall time",
        _time_table(suite, runs),
        "Of the training of a finished run, its start and its stops and restarts "
        "included.",
        "## Settings",
        _settings(suite),
    ]
    return "\n\n".join(sections) + "\n"


def _scores_table(suite: Suite, runs: Sequence[Run]) -> str:
    rows = []
    for task in suite.tasks:
        cells = []
        for algorithm in suite.algorithms:
            group = _of(runs, task, algorithm)
            parts = []
            finished = [run for run in group if run.counts]
            if finished:
                scores = np.array([run.last_100_mean for run in finished])
                parts.append(_interval(mean_over_seeds(scores)))
                parts.append(_counted(len(finished), "seed"))
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
    return _rows(["task", *suite.algorithms], rows)


def _seeds_table(suite: Suite, runs: Sequence[Run]) -> str:
    rows = []
    for task in suite.tasks:
        for algorithm in suite.algorithms:
            group = [run for run in _of(runs, task, algorithm) if run.counts]
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
    return _rows(["task", "algorithm", "seeds", "training", "evaluation"], rows)


def _aggregate_table(suite: Suite, runs: Sequence[Run]) -> str:
    rows = []
    for algorithm in suite.algorithms:
        own = [run for run in runs if run.algorithm == algorithm]
        scores = normalized_scores(own, suite.scores)
        if not len(scores):
            rows.append([algorithm, "-", "not all tasks have a finished run"])
            continue
        runs_used = f"{_counted(scores.shape[1], 'task')}, {len(scores)} each"
        rows.append([algorithm, _interval(interquartile_mean(scores), 3), runs_used])
    return _rows(["algorithm", "interquartile mean", "runs"], rows)


def _time_table(suite: Suite, runs: Sequence[Run]) -> str:
    rows = []
    for algorithm in suite.algorithms:
        seconds = [
            run.seconds
            for run in runs
            if run.algorithm == algorithm and run.status == FINISHED
        ]
        mean = f"{np.mean(seconds):.1f} s" if seconds else "-"
        rows.append([algorithm, mean, str(len(seconds))])
    return _rows(["algorithm", "mean", "finished runs"], rows)


def _settings(suite: Suite) -> str:
    rows = [("all runs", suite.flags), *suite.algorithms.items(), *suite.tasks.items()]
    return _rows(
        ["for", "flags of `acktr_tf.launch`"],
        [[name, f"`{shlex.join(flags)}`" if flags else ""] for name, flags in rows],
    )


def _of(runs: Sequence[Run], task: str, algorithm: str) -> list[Run]:
    return [run for run in runs if (run.task, run.algorithm) == (task, algorithm)]


def _interval(estimate: Estimate, digits: int | None = None) -> str:
    value, low, high = (_number(number, digits) for number in estimate)
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def _number(number: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 1 if abs(number) >= 100 else 2
    return f"{number:.{digits}f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    table: list[Sequence[str]] = [header, ["---"] * len(header), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def picture(suite: Suite, runs: Sequence[Run]) -> bytes:
    """One panel a task, one colour an algorithm, as PNG.

    A dot is an episode. The line is the mean of the `learning_curve`s of the runs that
    count, the band its bootstrap interval. A cross is where a run crashed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(suite.tasks))
    rows = -(-len(suite.tasks) // columns)
    labels = {
        task: [_label(name, _of(runs, task, name)) for name in suite.algorithms]
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
            shown = _of(runs, task, algorithm)
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
    """What a legend says of an algorithm on a task, in lines no wider than a panel."""
    label = f"{algorithm}, {_counted(sum(run.counts for run in runs), 'seed')}"
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
