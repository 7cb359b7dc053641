"""Statistics against slow twins."""

import itertools
import math
import sys

import numpy as np
import pytest
from suites.results import SUITE, make_run

from acktr_tf.suites import statistics


def every_resample(values):
    """The means of all resamples there are, each as probable as any other."""
    drawn = itertools.product(values, repeat=len(values))
    return [np.mean(resample) for resample in drawn]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_is_that_of_all_resamples(seeds):
    values = np.random.default_rng(seeds).normal(100, 10, seeds)
    low, high = statistics.bootstrap_interval(values)
    # The share of resamples below each end, exactly, against the 2.5% asked for. The
    # bounds allow for the draws and for the lumps of few values.
    means = np.array(every_resample(values))
    lump = seeds**-seeds
    for end, share in [(low, 0.025), (high, 0.975)]:
        assert np.mean(means < end - 1e-9) <= share + 0.01
        assert np.mean(means <= end + 1e-9) >= share - 0.01 - lump
    estimate = statistics.mean_over_seeds(values)
    assert estimate == (pytest.approx(values.mean()), low, high)


def test_the_interval_of_a_large_sample_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = statistics.bootstrap_interval(values)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_whole_curves_are_drawn():
    # The two columns are the same but for their scale: so are their intervals.
    values = np.random.default_rng(1).normal(size=6)
    low, high = statistics.bootstrap_interval(np.stack([values, 2 * values], axis=1))
    np.testing.assert_allclose(low[1], 2 * low[0])
    np.testing.assert_allclose(high[1], 2 * high[0])


def test_one_seed_has_no_interval():
    estimate = statistics.mean_over_seeds(np.array([5.0]))
    assert estimate.value == 5.0
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert math.isnan(statistics.interquartile_mean(np.array([[1.0, 2.0]])).low)


@pytest.fixture
def scores():
    return np.random.default_rng(3).normal(0.5, 0.4, (3, 2)) * [1.0, 3.0]


@pytest.fixture(params=["rliable", "absent", "broken"])
def rliable(request, monkeypatch):
    """With the library, without it, and with one that fails when it is imported."""
    if request.param == "rliable":
        pytest.importorskip("rliable")
        return
    for name in [name for name in sys.modules if name.startswith("rliable")]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "absent":
        monkeypatch.setitem(sys.modules, "rliable", None)
    else:

        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name == "rliable":
                    raise TypeError("deprecate_kwarg() missing an argument")

        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])


@pytest.mark.usefixtures("rliable")
def test_the_interquartile_mean_is_that_of_the_middle_half():
    # Eight scores: the two lowest and the two highest are left out.
    table = np.array([[9.0, 1.0], [2.0, -100.0], [3.0, 4.0], [5.0, 100.0]])
    assert statistics.interquartile_mean(table).value == (2 + 3 + 4 + 5) / 4


@pytest.mark.usefixtures("rliable")
def test_the_stratified_interval_is_that_of_all_resamples(scores):
    estimate = statistics.interquartile_mean(scores)
    # Seeds are drawn for each task on its own: 3^3 times 3^3 tables.
    columns = [list(itertools.product(column, repeat=3)) for column in scores.T]
    middles = []
    for drawn in itertools.product(*columns):
        table = sorted(itertools.chain(*drawn))
        middles.append(
            np.mean(table[1:5])
        )  # A quarter of 6, rounded down, is left out.
    middles = np.array(middles)
    for end, share in [(estimate.low, 0.025), (estimate.high, 0.975)]:
        assert np.mean(middles < end - 1e-9) <= share + 0.01
        assert np.mean(middles <= end + 1e-9) >= share - 0.01


def test_rliable_and_what_stands_in_for_it_give_the_same_numbers(monkeypatch):
    pytest.importorskip("rliable")
    scores = np.random.default_rng(3).normal(size=(5, 8))
    interval = statistics._rliable_interval()
    assert interval is not None
    np.random.seed(123)
    before = np.random.get_state()
    theirs = statistics.interquartile_mean(scores)
    after = np.random.get_state()
    np.testing.assert_array_equal(before[1], after[1])
    monkeypatch.setattr(statistics, "_rliable_interval", lambda: None)
    assert statistics.interquartile_mean(scores) == pytest.approx(theirs, rel=1e-12)


def test_scores_are_put_on_the_scale_of_their_task():
    runs = [
        make_run("Easy", seed=0, score=50.0),
        make_run("Hard", seed=0, score=-50.0),
        make_run("Hard", seed=2, score=50.0),
        make_run("Easy", seed=1, score=100.0),
        # Not finished, or without a score; and one seed more than the other task has.
        make_run("Easy", seed=3, status="crashed"),
        make_run("Hard", seed=3, score=None),
        make_run("Easy", seed=4, score=0.0),
    ]
    table = statistics.normalized_scores(runs, SUITE.scores)
    assert table.tolist() == [[0.5, 0.0], [1.0, 1.0]]
    # In whatever order they come.
    assert (
        statistics.normalized_scores(runs[::-1], SUITE.scores).tolist()
        == table.tolist()
    )
    assert statistics.normalized_scores(runs[:1], SUITE.scores).shape == (0, 2)


def slow_curve(run, grid):
    values, start = [], 0.0
    for point in grid:
        ended = [
            value
            for step, value in zip(run.episode_steps, run.episode_returns, strict=True)
            if (start < step <= point) or (step == 0 and start == 0)
        ]
        values.append(sum(ended) / len(ended) if ended else None)
        start = point
    filled = [i for i, value in enumerate(values) if value is not None]
    for i in range(len(grid)):
        before = max((j for j in filled if j <= i), default=None)
        after = min((j for j in filled if j >= i), default=None)
        if values[i] is None and None not in (before, after):
            share = (grid[i] - grid[before]) / (grid[after] - grid[before])
            values[i] = values[before] + share * (values[after] - values[before])
    return [math.nan if value is None else value for value in values]


@pytest.mark.parametrize("episodes", [0, 1, 4, 50])
def test_a_curve_is_that_of_its_slow_twin(episodes):
    generator = np.random.default_rng(episodes)
    steps = np.sort(generator.integers(0, 100, episodes)).astype(float)
    if episodes:
        steps[0] = 10.0  # On a point of the grid.
    steps.sort()
    run = make_run(
        episode_steps=steps, episode_returns=generator.normal(size=episodes), score=None
    )
    grid = np.linspace(0, 100, 11)[1:]
    expected = slow_curve(run, grid)
    np.testing.assert_allclose(statistics.learning_curve(run, grid), expected)
