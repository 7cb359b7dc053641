import importlib
import json
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def part(monkeypatch):
    """Imports a file of benchmarks/supervised by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return lambda name: importlib.import_module(f"supervised.{name}")


def distinct(pictures):
    return {picture.tobytes() for picture in pictures}


# Data -------------------------------------------------------------------------------
def test_curves_are_deterministic_and_the_held_out_ones_are_others(part):
    data = part("data")
    one, two = data.curves(30, 10), data.curves(30, 10)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(data.curves(30, 10, seed=1).pictures, one.pictures)
    assert one.pictures.shape == (30, 28, 28)
    assert one.held_out_pictures.shape == (10, 28, 28)
    assert one.pictures.dtype == np.uint8
    assert not distinct(one.pictures) & distinct(one.held_out_pictures)


def test_a_curve_is_bright_along_its_points_and_dark_elsewhere(part):
    # From (5, 10) to (20, 10): pixels whose centres are at a height of 10.5.
    points = np.stack([np.linspace(5, 20, 100), np.full(100, 10.5)], axis=1)
    picture = part("data")._draw(points[None])[0]
    assert (picture[10, 6:19] > 240).all()
    one_off = round(255 * np.exp(-0.5 / 0.75**2))
    assert np.abs(picture[11, 6:19].astype(int) - one_off).max() <= 2
    assert not picture[15:].any()
    assert not picture[:, 25:].any()


def test_frames_are_deterministic_and_all_of_a_game_differ(part):
    data = part("data")
    games = ("pong", "breakout")
    one, two = (data.frames(6, 3, games=games) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one.pictures.shape == (12, 28, 28)
    assert one.pictures.dtype == np.uint8
    assert one.labels.tolist() == 6 * [0] + 6 * [1]
    assert one.held_out_labels.tolist() == 3 * [0] + 3 * [1]
    everything = [*one.pictures, *one.held_out_pictures]
    assert len(distinct(everything)) == 18


def test_patches_are_pieces_of_the_frames(part, monkeypatch):
    data = part("data")
    frames = data.frames(3, 2, games=("pong", "breakout"))
    monkeypatch.setattr(data, "frames", lambda *_: frames)
    one, two = data.patches(), data.patches()
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one.pictures.shape == (6, 12, 12)
    assert one.held_out_pictures.shape == (4, 12, 12)
    assert np.array_equal(one.labels, frames.labels)
    for piece, picture in zip(one.pictures, frames.pictures, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(picture, (12, 12))
        assert (windows == piece).all(axis=(2, 3)).any()


def test_digits_are_all_of_them_once(part):
    digits = part("data").digits()
    assert digits.pictures.shape == (1437, 8, 8)
    assert digits.held_out_pictures.shape == (360, 8, 8)
    assert digits.pictures.max() == 255
    assert set(digits.labels) == set(digits.held_out_labels) == set(range(10))
    again = part("data").digits()
    assert np.array_equal(again.pictures, digits.pictures)
    assert not distinct(digits.pictures) & distinct(digits.held_out_pictures)


def test_data_are_made_once(part, monkeypatch, tmp_path):
    data = part("data")
    calls = []

    def make():
        calls.append(1)
        return data.curves(4, 2)

    monkeypatch.setitem(data.MAKERS, "curves", make)
    loaded = [data.load("curves", tmp_path) for _ in range(2)]
    assert len(calls) == 1
    assert np.array_equal(loaded[0].pictures, loaded[1].pictures)


def test_the_least_loss_is_that_of_outputs_that_are_the_targets(part):
    import keras

    problem = part("problems").PROBLEMS["curves"]
    examples, _ = problem.examples(part("data").curves(20, 2))
    inside = np.clip(examples.targets, 1e-6, 1 - 1e-6).astype(np.float64)
    logits = np.log(inside / (1.0 - inside))
    found = float(problem.loss(examples.targets, keras.ops.cast(logits, "float32")))
    assert problem.least_loss(examples) == pytest.approx(found, abs=1e-4)


def test_networks_have_the_sizes_that_are_stated(part):
    problems = part("problems")
    shapes = {"curves": 784, "frames": 784, "digits": (8, 8, 1)}
    shapes["games"] = shapes["resnet"] = (12, 12, 1)
    for name, problem in problems.PROBLEMS.items():
        examples = problems.Examples(np.zeros((1, *np.atleast_1d(shapes[name]))), None)
        model = problem.model(examples)
        assert model.layers[-1].name == problems.OUTPUTS
        if problem.reconstructs:
            sizes = [784, *(layer.units for layer in model.layers[1:])]
            assert sizes == sizes[::-1]
            stated = "-".join(map(str, sizes[: len(sizes) // 2 + 1]))
            assert stated in problem.what


# Runs -------------------------------------------------------------------------------
def test_losses_are_measured_at_forty_points_and_more_at_the_start(part):
    train = part("train")
    points = train.measured_at(4000)
    assert points[:8] == [0, 1, 2, 5, 10, 20, 50, 100]
    assert points[7:] == list(range(100, 4001, 100))
    assert train.measured_at(3) == [0, 1, 2, 3]


def test_batches_are_of_permutations_and_of_the_seed(part):
    batches = part("train").batches
    order = batches(10, 4, 5, seed=0)
    assert order.shape == (5, 4)
    for epoch in (order[:2], order[2:4]):
        assert len(set(epoch.ravel())) == 8
    assert np.array_equal(order, batches(10, 4, 5, seed=0))
    assert not np.array_equal(order, batches(10, 4, 5, seed=1))


@pytest.mark.parametrize("optimizer", ["SGD", "K-FAC"])
def test_a_run_is_measured_and_deterministic(part, optimizer):
    train, optimizers = part("train"), part("optimizers")
    problem = part("problems").PROBLEMS["digits"]._replace(batch=16)
    digits = part("data").digits()
    few = type(digits)(*(array[:48] for array in digits))
    search = optimizers.search(problem, optimizer)
    settings = search.settings(search.points[0])
    run = train.Run("digits", optimizer, settings, 0, 4)
    one, two = (train.train(run, problem, few) for _ in range(2))
    assert one["at"] == (0, 1, 2, 3, 4)
    assert one["seconds"][:2] == (0.0, 0.0)
    assert one["seconds"][-1] > 0.0
    assert one["training"] == two["training"]
    assert one["held_out"] == two["held_out"]
    assert one["training"][-1] != one["training"][0]
    json.dumps(one)


def test_a_run_that_diverges_ends_there(part):
    train = part("train")
    problem = part("problems").PROBLEMS["digits"]._replace(batch=16)
    digits = part("data").digits()
    few = type(digits)(*(array[:48] for array in digits))
    run = train.Run("digits", "SGD", {"learning_rate": 1e30, "momentum": 0.9}, 0, 6)
    record = train.train(run, problem, few)
    assert record["training"][-1] is None
    assert record["at"][-1] < 6


@pytest.fixture
def made(part, monkeypatch):
    """What run.py would train, each of which leaves a record with made-up losses."""
    run = part("run")
    calls = []

    def make(self, job, path):
        calls.append(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Least at a learning rate of 0.1; or a radius of 0.05 and a damping of 3e-5.
        best = {"kl_radius": 0.05, "damping": 3e-5}
        if job.optimizer != "K-FAC":
            best = {"learning_rate": 0.1}
        loss = 0.1 + sum(abs(np.log10(job.settings[n] / best[n])) for n in best)
        record = {
            **job._asdict(),
            "machine": {"processor": "P", "cores": 1},
            "at": [0, 1, job.updates],
            "seconds": [0.0, 0.0, 1.0],
            "training": [2.0, 1.0, loss],
            "held_out": [2.0, 1.0, loss],
        }
        path.write_text(json.dumps(record))

    monkeypatch.setattr(run.Plan, "_make", make)
    return calls


def test_what_is_there_is_not_made_again(part, made, tmp_path):
    flags = ["--problems=digits", "--optimizers=SGD", "--stage=tune,run"]
    flags += [f"--directory={tmp_path}", f"--data={tmp_path}", "--updates=20"]
    part("run").main([*flags, "--seeds=0"])
    # 0.003 to 0.3: 0.1 is not at the edge.
    assert [job.settings["learning_rate"] for job in made] == [
        *(0.003, 0.01, 0.03, 0.1, 0.3),
        0.1,
    ]
    assert [job.seed for job in made] == [100] * 5 + [0]
    assert [job.updates for job in made] == [10] * 5 + [20]
    part("run").main([*flags, "--seeds=0,1"])
    assert len(made) == 7
    assert made[-1].seed == 1
    # Another number of updates would not be comparable.
    with pytest.raises(SystemExit, match="is of other settings"):
        part("run").main([*flags, "--updates=30"])


def test_trials_go_on_beyond_an_edge_and_none_is_run_without(part, made, tmp_path):
    flags = ["--problems=digits", "--optimizers=Muon"]
    flags += [f"--directory={tmp_path}", f"--data={tmp_path}"]
    with pytest.raises(SystemExit, match="not tuned"):
        part("run").main([*flags, "--stage=run"])
    part("run").main([*flags, "--stage=tune"])
    # 0.001 to 0.1, which is the best, and then 0.3, which is not.
    rates = [job.settings["learning_rate"] for job in made]
    assert rates[4:] == [0.1, 0.3]


@pytest.mark.parametrize(
    ("problem", "flags", "expected"),
    [
        ("curves", [], {"Adam": 6000, "K-FAC": 1200}),
        ("digits", ["--updates=20"], {"Adam": 20, "K-FAC": 10}),
        ("digits", ["--kfac_share=0.3"], {"Adam": 1000, "K-FAC": 300}),
    ],
)
def test_kfac_gets_the_updates_its_bar_allows(part, problem, flags, expected, tmp_path):
    run = part("run")
    plan = run.Plan(run.parser().parse_args([*flags, f"--directory={tmp_path}"]))
    assert {name: plan.updates(problem, name) for name in expected} == expected


@pytest.mark.parametrize(
    "flag",
    [
        "--updates=0",
        "--kfac_share=0",
        "--trial_share=-1",
        "--trial_share=nan",
        "--jobs=0",
    ],
)
def test_numbers_that_would_mean_nothing_are_refused(part, flag, capsys):
    with pytest.raises(SystemExit):
        part("run").parser().parse_args([flag])
    name, _, received = flag.partition("=")
    message = f"argument {name}: must be above 0. Received: {received}"
    assert message in capsys.readouterr().err


def test_a_tiny_run_is_made_by_a_process_and_resumes(part, monkeypatch, tmp_path):
    run, problems = part("run"), part("problems")
    data = part("data")
    monkeypatch.setitem(data.MAKERS, "digits", lambda: data.curves(300, 10))
    data.load("digits", tmp_path)
    flags = run.parser().parse_args(
        ["--updates=2", f"--directory={tmp_path}", f"--data={tmp_path}"]
    )
    plan = run.Plan(flags)
    job = run.Run("digits", "SGD", {"learning_rate": 0.1}, 0, 2)
    record = plan.record(job, "seed_0", make=True)
    path = tmp_path / "digits" / "SGD" / "seed_0.json"
    assert record["at"] == [0, 1, 2]
    assert record["batch"] == problems.PROBLEMS["digits"].batch
    written = path.stat().st_mtime_ns
    assert plan.record(job, "seed_0", make=True) == record
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == ["seed_0.json"]


# Tuning -----------------------------------------------------------------------------
def test_places_of_the_grid_are_half_decades(part):
    value = part("optimizers").value
    assert [value(place) for place in (-3, -2, -1, 0, 1, 2)] == [
        *(0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    ]


def test_there_is_a_point_beyond_an_edge_only(part):
    optimizers = part("optimizers")
    line = optimizers.line("learning_rate", 0)
    assert optimizers.beyond(line, {"learning_rate": 1}) is None
    assert optimizers.beyond(line, {"learning_rate": -2}) == {"learning_rate": -3}
    assert optimizers.beyond(line, {"learning_rate": 2}) == {"learning_rate": 3}
    centre = {"kl_radius": -4, "damping": -6}
    cross = optimizers.cross(centre, {"kl_radius": 1, "damping": 2})
    assert len(cross) == 5
    assert optimizers.beyond(cross, centre) is None
    assert optimizers.beyond(cross, {**centre, "damping": -8}) == {
        **centre,
        "damping": -10,
    }


def test_the_best_of_both_settings_of_a_cross_is_tried_once(part):
    optimizers = part("optimizers")
    centre = {"kl_radius": -4, "damping": -6}
    tried = optimizers.cross(centre, {"kl_radius": 1, "damping": 2})
    corner = {"kl_radius": -3, "damping": -8}
    # The smaller damping is better than the centre, and the larger radius is best.
    losses = [3.0, None, 1.0, 2.0, 4.0]
    assert optimizers.corner(tried, losses, centre) == corner
    assert optimizers.corner([*tried, corner], [*losses, 0.5], centre) is None
    # A better radius still, next to that: another corner.
    wider = {**centre, "kl_radius": -2}
    tried, losses = [*tried, corner, wider], [*losses, 9.0, 0.5]
    assert optimizers.corner(tried, losses, centre) == {**corner, "kl_radius": -2}
    # If one of them is the centre's, both together are there.
    assert optimizers.corner(tried[:5], [3.0, 4.0, 2.0, 5.0, 5.0], centre) is None
    line = optimizers.line("learning_rate", 0)
    assert optimizers.corner(line, [3.0, 1.0, 2.0, 5.0, 5.0], line[0]) is None


def test_kfacs_corner_comes_before_what_is_beyond_an_edge(part, made, tmp_path):
    flags = ["--problems=digits", "--optimizers=K-FAC", "--stage=tune"]
    part("run").main([*flags, f"--directory={tmp_path}", f"--data={tmp_path}"])
    found = [(job.settings["kl_radius"], job.settings["damping"]) for job in made]
    # The fixture's loss is least at a radius of 0.05 and a damping of 3e-5.
    assert found[5:] == [(0.03, 0.0003), (0.3, 0.0003), (0.03, 0.00003)]


def test_every_optimizer_has_as_many_trials(part):
    optimizers = part("optimizers")
    for problem in part("problems").PROBLEMS.values():
        for name in optimizers.OPTIMIZERS:
            search = optimizers.search(problem, name)
            settings = [search.settings(point) for point in search.points]
            assert len({tuple(each[n] for n in search.tuned) for each in settings}) == 5
            assert all("learning_rate" in each for each in settings)


def test_optimizers_are_made_with_rates_that_fall_to_zero(part):
    optimizers = part("optimizers")
    for name in ("SGD", "Adam", "K-FAC"):
        for problem in part("problems").PROBLEMS.values():
            search = optimizers.search(problem, name)
            settings = search.settings(search.points[0])
            rate = optimizers.make(name, settings, 100, seed=3)._learning_rate
            assert float(rate(0)) == pytest.approx(settings["learning_rate"])
            assert float(rate(50)) == pytest.approx(settings["learning_rate"] / 2)
            assert float(rate(100)) == 0.0


def test_a_trial_that_diverged_is_the_worst(part):
    assert part("optimizers").best_of([None, 2.0, 1.0, None]) == 2


# Results ----------------------------------------------------------------------------
def record(training, seconds_an_update=1.0, held_out=0.5, settings=None):
    at = [0, 10, 20, 30, 40][: len(training)]
    return {
        "settings": settings or {"learning_rate": 0.1},
        "updates": 40,
        "at": at,
        "seconds": [seconds_an_update * n for n in at],
        "training": training,
        "held_out": [held_out] * len(at),
    }


RUNS = {
    "SGD": [record([9, 8, 7, 6, 5]), record([9, 8, 7, None])],
    # They end at 1 and 3: the target is 2, which the second does not reach.
    "Adam": [record([9, 4, 2, 1.5, 1]), record([9, 8, 7, 4, 3])],
    # At 10 updates and 20 s, and at 20 and 40 s, where it does not stay.
    "K-FAC": [record([9, 2, 1, 1, 1], 2.0), record([9, 5, 1, 4, 4], 2.0)],
}


def test_first_reached_is_the_first_measurement_at_or_below(part):
    results = part("results")
    assert results.first_reached(RUNS["Adam"][0], 2.0) == (20, 20.0)
    assert results.first_reached(RUNS["Adam"][1], 2.0) is None
    assert results.first_reached(RUNS["SGD"][1], 7.5) == (20, 20.0)


def test_efforts_are_over_adams_own(part):
    efforts = part("results").efforts(RUNS)
    # Adam's are 20 and, of the seed that ends above the mean, its 40: mean 30.
    assert efforts["Adam"].updates_ratio == 1.0
    assert efforts["K-FAC"].updates_ratio == pytest.approx(15 / 30)
    assert efforts["K-FAC"].seconds_ratio == pytest.approx(30 / 30)
    assert efforts["SGD"] == ([None, None], None, None)
    # One seed of several does not do.
    one = {**RUNS, "SGD": [record([1, 1]), record([9, 9])]}
    assert part("results").efforts(one)["SGD"].updates_ratio is None


def test_nothing_is_compared_with_an_adam_that_is_not_there(part):
    with pytest.raises(ValueError, match="Adam must have runs"):
        part("results").target({"SGD": RUNS["SGD"]})


def test_tables_say_what_the_curves_say(part):
    document = {
        "machine": {"processor": "P", "cores": 2},
        "least": {"training": 0.0, "held_out": 0.0},
        "chosen": {
            **{name: {"learning_rate": 0.1, "momentum": 0.9} for name in RUNS},
            "K-FAC": {"damping": 1e-5, "kl_radius": 0.1, "inverse": "eigen"},
        },
        "trials": {
            "SGD": [
                record([3], settings={"learning_rate": 0.1, "momentum": 0.9}),
                record([None], settings={"learning_rate": 1.0, "momentum": 0.9}),
            ]
        },
        "runs": RUNS,
    }
    text = part("results").tables("curves", document)
    assert "Adam's final training loss: 2. P, 2 cores." in text
    assert "Not tuned of K-FAC: `kl_radius=0.1` `inverse=eigen`." in text
    row = "| K-FAC | `damping=1e-05` | 40 | 2051.3 | 10 · 20 | 0.50 | 20.0 · 40.0 |"
    assert f"{row} 1.00 |" in text
    assert "| – · – | not reached | – · – | not reached |" in text
    assert "| SGD | 5 · diverged | 0.5 · 0.5 |" in text
    assert "| SGD | `learning_rate=0.1` | 40 | 3 | yes |" in text
    assert "| SGD | `learning_rate=1` | 40 | diverged |  |" in text
    assert (
        "at most 0.2 of Adam's updates: 0.50, missed; "
        "at most 0.5 of Adam's time: 1.00, missed."
    ) in text
    # Elsewhere half of the updates do, and time has no bar.
    text = part("results").tables("digits", document)
    assert "The bar for K-FAC: at most 0.5 of Adam's updates: 0.50, met." in text


def test_a_report_has_files_pictures_and_tables(part, made, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    page = "<!-- digits: begin -->\n<!-- digits: end -->\n"
    (docs / "supervised.md").write_text(page)
    flags = [f"--directory={tmp_path}", f"--data={tmp_path}", f"--docs={docs}"]
    flags += ["--seeds=0,1", "--problems=digits,resnet"]
    some = ["--problems=digits", "--optimizers=SGD,Adam"]
    part("run").main([*flags, *some, "--stage=tune,run"])
    part("run").main([*flags, "--stage=report"])
    document = json.loads((docs / "data" / "supervised" / "digits.json").read_text())
    assert list(document["runs"]) == ["SGD", "Adam"]
    assert len(document["runs"]["SGD"]) == 2
    assert document["runs"]["SGD"][0]["at"] == [0, 1, 1000]
    assert (docs / "images" / "supervised_digits.png").is_file()
    table = part("results").tables("digits", document)
    assert table in (docs / "supervised.md").read_text()
    assert not (docs / "data" / "supervised" / "resnet.json").exists()


def test_the_page_has_the_tables_of_the_files(part, docs_script):
    make_supervised = docs_script("make_supervised")
    docs = REPOSITORY / "docs"
    page = make_supervised.page_of(docs).read_text("utf-8")
    for name, table in make_supervised.tables(docs).items():
        assert make_supervised.with_table(page, name, table) == page
        assert (docs / "images" / f"supervised_{name}.png").is_file()


def test_the_page_states_the_problems_as_they_are(part):
    page = (REPOSITORY / "docs" / "supervised.md").read_text("utf-8")
    for name, problem in part("problems").PROBLEMS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        assert row.endswith(f"| {problem.batch} | {problem.updates:,} |")
