"""Statistics over the seeds and the tasks of a benchmark."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from acktr_tf.suites.results import Run
from acktr_tf.types import Array

CONFIDENCE = 0.95
RESAMPLES = 2000

_Statistic = Callable[[Array], Array]
_SEED = 0
_ENDS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))  # Of the interval, in percent.
_TRIMMED = 0.25  # Of the scores at either end, which the interquartile mean leaves out.


class Estimate(NamedTuple):
    """Statistic with the ends of its bootstrap interval (nan if there is none)."""

    value: float
    low: float
    high: float


def bootstrap_interval(values: Array) -> tuple[Array, Array]:
    """Returns the percentile bootstrap interval of the mean over the first axis.

    Args:
      values: `[S, ...]`, one entry per seed; whole entries are drawn.

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
    """Returns the mean of `[S]` values, one per seed, and its bootstrap interval."""
    low, high = bootstrap_interval(values)
    return Estimate(float(values.mean()), float(low), float(high))


def interquartile_mean(scores: Array) -> Estimate:
    """Returns the mean of the middle half of all scores, and its stratified interval.

    The bootstrap of Agarwal et al. 2021 (arXiv 2108.13264), by its authors' library
    `rliable` if that is installed. Without it the same draws are made here, and give
    the same numbers.

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
    """Returns the scores of one algorithm's runs on a suite's own scale.

    Each task gives as many runs as the task with the fewest, those of the lowest seeds.

    Args:
      runs: Runs of the algorithm.
      scores: Scale of the suite: task → the returns that count as 0 and as 1.

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
    """Returns a run's returns on a grid of steps.

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
    """Returns the stratified bootstrap of rliable, if that is installed."""
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
