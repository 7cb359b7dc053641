"""The picture of the learning curves: what is drawn, and where."""

import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from suites.results import SUITE, make_run

from acktr_tf.suites.curves import plot_curves


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
    (tmp_path / "p.png").write_bytes(plot_curves(SUITE, runs))
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
    assert plot_curves(SUITE, []).startswith(b"\x89PNG")
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
    plot_curves(suite, runs)
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
