"""Reports: numbers against slow twins, tables and curves, of runs made here."""

import csv
import itertools
import json
import math
import re
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acktr_tf.errors import UserError
from acktr_tf.suites import jobs, report
from acktr_tf.suites.jobs import Job, Outcome
from acktr_tf.suites.report import Run
from acktr_tf.suites.suite import Suite

SUITE = Suite(
    "two",
    "Two tasks",
    ["--total_steps=100"],
    {"Easy": ["--env=easy"], "Hard": ["--env=hard"]},
    {"ACKTR": ["--algorithm=acktr"], "A2C": ["--algorithm=a2c"]},
    {"Easy": (0.0, 100.0), "Hard": (-50.0, 50.0)},
)


def make_run(
    task="Easy",
    algorithm="ACKTR",
    seed=0,
    score: float | None = 10.0,
    status="finished",
    **others,
) -> Run:
    """A run of one episode, or of none."""
    returns = np.array([] if score is None else [score], float)
    values = {
        "crash": "boom" if status == "crashed" else "",
        "seconds": 7.0,
        "steps": 100,
        "episode_steps": np.full(len(returns), 90.0),
        "episode_returns": returns,
        "evaluation_mean": math.nan,
        **others,
    }
    return Run(task, algorithm, seed, status, **values)


@pytest.fixture
def job(tmp_path) -> Job:
    return Job("Easy", "ACKTR", 3, tmp_path / "Easy" / "ACKTR" / "3", ["--env=easy"])


def write_run(job, returns, outcome=None, scores=None, steps=1000):
    job.run_dir.mkdir(parents=True)
    lines = [f"{10 * i},{r},5,{i}.5\n" for i, r in enumerate(returns, start=1)]
    header = "step,episode_return,episode_length,seconds\n"
    (job.run_dir / "episodes.csv").write_text(header + "".join(lines))
    (job.run_dir / "progress.csv").write_text(f"step,loss\n64,1\n{steps},2\n")
    if outcome:
        jobs._write_outcome(job.directory, outcome)
    if scores:
        (job.directory / "scores.json").write_text(json.dumps(scores))


# Reading ----------------------------------------------------------------------------


def test_a_run_is_what_its_files_say(job):
    write_run(
        job, range(250), Outcome(["x"], 0, 12.5), {"games": 2, "mean": 33.0}, 2600
    )
    run = report.read_run(job)
    assert run[:3] == ("Easy", "ACKTR", 3)
    assert (run.status, run.crash) == ("finished", "")
    assert (run.seconds, run.steps) == (12.5, 2600)
    assert run.episode_steps.tolist() == [10.0 * i for i in range(1, 251)]
    # Games 150 to 249.
    assert run.last_100_mean == pytest.approx(199.5)
    assert run.evaluation_mean == 33.0
    assert run.counts


def test_a_run_that_has_not_begun_is_waiting(job):
    run = report.read_run(job)
    assert (run.status, run.steps, run.seconds) == ("waiting", 0, 0.0)
    assert math.isnan(run.last_100_mean)
    assert math.isnan(run.evaluation_mean)
    assert not run.counts


def test_fewer_episodes_than_a_window_are_all_counted(job):
    write_run(job, [1, 2, 6], Outcome(["x"], 0, 1.0))
    assert report.read_run(job).last_100_mean == 3.0


def test_what_a_power_cut_left_of_a_line_is_no_line(job):
    write_run(job, [1, 2])
    with (job.run_dir / "episodes.csv").open("a") as file:
        file.write("30,9")
    assert report.read_run(job).episode_returns.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("text", ["step\n1\n", "step,episode_return\n1,x\n", "\xff\n"])
def test_a_damaged_file_is_named(job, text):
    write_run(job, [1])
    (job.run_dir / "episodes.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"episodes\.csv is damaged"):
        report.read_run(job)


# Numbers ----------------------------------------------------------------------------


def every_resample(values):
    """The means of all resamples there are, each as probable as any other."""
    drawn = itertools.product(values, repeat=len(values))
    return [np.mean(resample) for resample in drawn]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_is_that_of_all_resamples(seeds):
    values = np.random.default_rng(seeds).normal(100, 10, seeds)
    low, high = report.bootstrap_interval(values)
    # The share of resamples below each end, exactly, against the 2.5% asked for. The
    # bounds allow for the draws and for the lumps of few values.
    means = np.array(every_resample(values))
    lump = seeds**-seeds
    for end, share in [(low, 0.025), (high, 0.975)]:
        assert np.mean(means < end - 1e-9) <= share + 0.01
        assert np.mean(means <= end + 1e-9) >= share - 0.01 - lump
    estimate = report.mean_over_seeds(values)
    assert estimate == (pytest.approx(values.mean()), low, high)


def test_the_interval_of_a_large_sample_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = report.bootstrap_interval(values)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_whole_curves_are_drawn():
    # The two columns are the same but for their scale: so are their intervals.
    values = np.random.default_rng(1).normal(size=6)
    low, high = report.bootstrap_interval(np.stack([values, 2 * values], axis=1))
    np.testing.assert_allclose(low[1], 2 * low[0])
    np.testing.assert_allclose(high[1], 2 * high[0])


def test_one_seed_has_no_interval():
    estimate = report.mean_over_seeds(np.array([5.0]))
    assert estimate.value == 5.0
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert math.isnan(report.interquartile_mean(np.array([[1.0, 2.0]])).low)


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
    assert report.interquartile_mean(table).value == (2 + 3 + 4 + 5) / 4


@pytest.mark.usefixtures("rliable")
def test_the_stratified_interval_is_that_of_all_resamples(scores):
    estimate = report.interquartile_mean(scores)
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
    interval = report._rliable_interval()
    assert interval is not None
    np.random.seed(123)
    before = np.random.get_state()
    theirs = report.interquartile_mean(scores)
    after = np.random.get_state()
    np.testing.assert_array_equal(before[1], after[1])
    monkeypatch.setattr(report, "_rliable_interval", lambda: None)
    assert report.interquartile_mean(scores) == pytest.approx(theirs, rel=1e-12)


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
    table = report.normalized_scores(runs, SUITE.scores)
    assert table.tolist() == [[0.5, 0.0], [1.0, 1.0]]
    # In whatever order they come.
    assert report.normalized_scores(runs[::-1], SUITE.scores).tolist() == table.tolist()
    assert report.normalized_scores(runs[:1], SUITE.scores).shape == (0, 2)


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
    np.testing.assert_allclose(report.learning_curve(run, grid), expected)


# Tables -----------------------------------------------------------------------------


def all_runs():
    runs = [
        make_run(task, algorithm, seed, score, evaluation_mean=score + 1)
        for task, base in [("Easy", 80.0), ("Hard", 0.0)]
        for algorithm, more in [("ACKTR", 10.0), ("A2C", 0.0)]
        for seed, score in enumerate([base + more - 5, base + more + 5])
    ]
    crashed = make_run("Hard", "A2C", 2, 1000.0, status="crashed", crash="env | died")
    return [*runs, crashed]


def test_the_table_of_scores():
    page = report.page(SUITE, all_runs())
    lines = page.splitlines()
    assert lines[0] == "# Two tasks"
    assert "Of 9 runs: 8 finished, 1 crashed." in page
    assert "| task | ACKTR | A2C |" in lines
    # The interval of two seeds: a quarter of the resamples are twice the same seed.
    assert (
        "| Easy | 90.00 [85.00, 95.00], 2 seeds, evaluation 91.00 "
        "| 80.00 [75.00, 85.00], 2 seeds, evaluation 81.00 |"
    ) in lines
    assert (
        "| Hard | 10.00 [5.00, 15.00], 2 seeds, evaluation 11.00 "
        "| 0.00 [-5.00, 5.00], 2 seeds, evaluation 1.00, 1 crashed |"
    ) in lines
    assert "- Hard A2C seed 2: env | died" in lines
    assert "| ACKTR | 7.0 s | 4 |" in lines
    assert "| all runs | `--total_steps=100` |" in lines
    assert "| Hard | `--env=hard` |" in lines


def test_every_seed_is_in_the_table_of_seeds():
    runs = [
        make_run(seed=0, score=10, evaluation_mean=20.0),
        make_run(seed=3, score=123.44),
        make_run(seed=4, status="crashed"),
        make_run(algorithm="A2C", score=None),
    ]
    text = report.page(SUITE, runs)
    assert "| Easy | ACKTR | 0, 3 | 10.00, 123.4 | 20.00, - |" in text
    assert "| Easy | A2C | - | - | - |" in text
    assert "| Hard | ACKTR | - | - | - |" in text


def test_the_table_of_aggregates():
    lines = report.page(SUITE, all_runs()).splitlines()
    # ACKTR: 0.85, 0.95 and 0.55, 0.65; the middle half is 0.65 and 0.85.
    (row,) = [line for line in lines if line.startswith("| ACKTR | 0.")]
    value, low, high = (float(x) for x in re.findall(r"-?\d\.\d+", row))
    assert value == 0.75
    assert 0.65 < low < 0.75 < high < 0.85
    assert row.endswith("| 2 tasks, 2 each |")
    assert "| Hard | -50 | 50 |" in lines


def test_a_report_of_runs_that_are_under_way():
    runs = [
        make_run("Easy", seed=0, evaluation_mean=5.0),
        make_run("Easy", seed=1),
        make_run("Easy", seed=2, status="started"),
        make_run("Hard", seed=0, status="stopped"),
        make_run("Hard", "A2C", status="waiting", score=None),
    ]
    lines = report.page(SUITE, runs).splitlines()
    row = "| Easy | 10.00 [10.00, 10.00], 2 seeds, evaluation 5.00 (1 missing) | - |"
    assert row in lines
    assert "| Hard | - | - |" in lines
    assert "| ACKTR | - | not all tasks have a finished run |" in lines
    assert "Of 5 runs: 2 finished, 1 started, 1 stopped, 1 waiting." in lines[2]
    assert "| A2C | - | 0 |" in lines
    one = report.page(SUITE, runs[:1])
    assert "| Easy | 10.00, 1 seed, evaluation 5.00 | - |" in one.splitlines()


def test_without_a_scale_nothing_is_brought_together():
    page = report.page(SUITE._replace(scores={}), all_runs())
    assert "nterquartile" not in page
    assert "| Easy | 90.00 [85.00, 95.00]" in page


def test_every_run_has_a_line():
    runs = [*all_runs(), make_run("Hard", "A2C", 3, None, "waiting", seconds=0.0)]
    rows = list(csv.DictReader(report.lines(runs).splitlines()))
    assert len(rows) == len(runs)
    assert rows[0] == {
        "task": "Easy",
        "algorithm": "ACKTR",
        "seed": "0",
        "status": "finished",
        "steps": "100",
        "last_100_mean": "85",
        "evaluation_mean": "86",
        "seconds": "7.000",
    }
    assert [row["status"] for row in rows[-2:]] == ["crashed", "waiting"]
    assert (rows[-1]["last_100_mean"], rows[-1]["evaluation_mean"]) == ("", "")


def test_equal_runs_give_equal_files_in_whatever_order_they_are_found(tmp_path):
    for name, runs in (("a", all_runs()), ("b", all_runs()[::-1])):
        (tmp_path / name).mkdir()
        report.write_report(tmp_path / name, SUITE, runs)
        np.random.random()
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"report.md", "report.csv", "report.png"}
    for name in names:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
    assert f"]({report.CURVES})" in (tmp_path / "a" / "report.md").read_text()


# Curves -----------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: by title of the panel, [kind, x, y, options]."""
    calls: dict[str, list] = {}
    plot, fill = Axes.plot, Axes.fill_between

    def remember_plot(axes, x, y, kind="-", **options):
        calls.setdefault(axes.get_title(), []).append([kind, x, y, options])
        return plot(axes, x, y, kind, **options)

    def remember_fill(axes, x, low, high, **options):
        calls.setdefault(axes.get_title(), []).append(["band", low, high, options])
        return fill(axes, x, low, high, **options)

    monkeypatch.setattr(Axes, "plot", remember_plot)
    monkeypatch.setattr(Axes, "fill_between", remember_fill)
    return calls


def test_the_picture_shows_every_episode_the_mean_and_the_crashes(drawn, tmp_path):
    steps = np.arange(1.0, 101.0)

    def run(algorithm, seed, returns, status="finished"):
        return make_run(
            algorithm=algorithm,
            seed=seed,
            status=status,
            score=None,
            episode_steps=steps[: len(returns)],
            episode_returns=np.array(returns, float),
        )

    runs = [
        run("ACKTR", 0, np.zeros(100)),
        run("ACKTR", 1, np.full(100, 10.0)),
        run("ACKTR", 4, np.full(50, 99.0), "crashed"),
        run("A2C", 0, steps),
    ]
    (tmp_path / "p.png").write_bytes(report.picture(SUITE, runs))
    image = matplotlib.image.imread(tmp_path / "p.png")
    assert np.ptp(image[..., :3]) > 0.5
    assert list(drawn) == ["Easy", "Hard"]
    shown = drawn["Easy"]
    dots = [entry for entry in shown if entry[0] == "."]
    for run, (_, x, y, _) in zip(runs, dots, strict=True):
        np.testing.assert_array_equal(x, run.episode_steps)
        np.testing.assert_array_equal(y, run.episode_returns)
    assert [entry[3]["color"] for entry in dots] == ["C0", "C0", "C0", "C1"]
    ((_, x, y, options),) = [entry for entry in shown if entry[0] == "x"]
    assert (float(x), float(y), options["color"]) == (50.0, 99.0, "C0")
    lines = [entry for entry in shown if entry[0] == "-"]
    assert [entry[3]["label"] for entry in lines] == [
        "ACKTR, 2 seeds (x crashed: 4)",
        "A2C, 1 seed",
    ]
    # The run that crashed is not in the mean.
    np.testing.assert_allclose(lines[0][2], 5.0)
    np.testing.assert_allclose(lines[1][2], steps)
    np.testing.assert_allclose(lines[1][1], steps)
    bands = [entry for entry in shown if entry[0] == "band"]
    np.testing.assert_allclose(bands[0][1], 0.0)
    np.testing.assert_allclose(bands[0][2], 10.0)
    assert np.isnan(bands[1][1]).all()


def test_a_picture_of_no_run_can_be_drawn(drawn):
    assert report.picture(SUITE, []).startswith(b"\x89PNG")
    assert [entry[3]["label"] for entry in drawn["Hard"]] == [
        "ACKTR, 0 seeds",
        "A2C, 0 seeds",
    ]


@pytest.mark.parametrize("tasks", [1, 5])
def test_a_legend_hides_nothing(tasks, monkeypatch):
    """Not with many algorithms of long names, either, all of whose runs crashed."""
    figures = []
    save = Figure.savefig

    def remember(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    algorithms = [f"Adaptive Gauss-Newton, radius {n}" for n in range(5)]
    names = [f"Task{n}" for n in range(tasks)]
    suite = SUITE._replace(
        tasks={name: [] for name in names},
        algorithms={name: [] for name in algorithms},
        scores={},
    )
    runs = [
        make_run(task, algorithm, seed, status="crashed", episode_steps=np.array([1e6]))
        for task in names
        for algorithm in algorithms
        for seed in range(12)
    ]
    report.picture(suite, runs)
    (figure,) = figures
    boxes = []
    for axes in figure.axes:
        parts = [axes.patch, axes.title, axes.xaxis.label, axes.yaxis.label]
        power = axes.xaxis.get_offset_text()
        assert power.get_text() == "1e6"
        parts.append(power)
        boxes += [part.get_window_extent() for part in parts]
        boxes.append(axes.get_legend().get_window_extent())
        assert axes.get_window_extent().height > 200  # Pixels: room for the curves.
    for box, other in itertools.combinations(boxes, 2):
        assert not box.overlaps(other)
    assert all(
        figure.bbox.containsx(b.x0) and figure.bbox.containsx(b.x1) for b in boxes
    )


def test_the_report_needs_no_tensorflow():
    source = Path(report.__file__).read_text()
    assert "tensorflow" not in source


@pytest.mark.parametrize(
    ("greedy", "words"), [(True, "its most probable actions"), (False, "drawn")]
)
def test_the_page_says_how_policies_were_evaluated(greedy, words):
    page = report.page(SUITE._replace(greedy=greedy), [make_run()])
    (line,) = [line for line in page.splitlines() if "*Evaluation*" in line]
    assert words in line
