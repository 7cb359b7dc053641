"""What the benchmarks of speed count, and that they run."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from acktr_tf.cli.flags import config_from
from acktr_tf.config import configure

REPOSITORY = Path(__file__).parents[2]


# Steps a second ---------------------------------------------------------------------
def test_speeds_are_those_of_the_windows_after_the_warm_up(benchmark_script):
    step = np.arange(100.0, 1700.0, 100.0)
    # Slow until a quarter of the steps, then 10 steps a second, then 20.
    seconds = np.concatenate([np.arange(4) * 99.0, 297 + np.arange(1, 7) * 10.0])
    seconds = np.concatenate([seconds, seconds[-1] + np.arange(1, 7) * 5.0])
    found = benchmark_script("throughput").window_speeds(step, seconds, 2)
    np.testing.assert_allclose(found, [10.0, 20.0])


def test_a_log_that_is_too_short_is_refused(benchmark_script):
    with pytest.raises(SystemExit, match="Give more --steps"):
        benchmark_script("throughput").window_speeds(
            np.arange(1.0, 5.0), np.arange(4.0), 4
        )


# Speed and memory over a run --------------------------------------------------------
def test_windows_of_a_run_have_its_speed_and_its_memory(benchmark_script, tmp_path):
    steady = benchmark_script("steady")
    settings = {"settings": {"env": "Chess-v1", "algorithm": "acktr"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    # Steps of 10 take 5 seconds, and 2 in the second half; memory grows by 1 MiB each.
    seconds = np.cumsum([0.0, *[5.0] * 4, *[2.0] * 4])
    lines = [f"{10 * i},{seconds[i]},{100 + i}" for i in range(9)]
    text = "\n".join(["step,seconds,memory", *lines, ""])
    (tmp_path / "progress.csv").write_text(text)

    document = steady.measure(tmp_path, 4)

    expected = [[20, 2, 102], [40, 2, 104], [60, 5, 106], [80, 5, 108]]
    np.testing.assert_allclose(document["windows"], expected)
    table = steady.table(document)
    assert table.startswith("Chess-v1, ACKTR,")
    assert "| 60 | 5 | 106 |" in table
    # Without the first window: 2 and 5, then 5; 104 and 106, then 108.
    assert table.endswith("speed 1.429, memory 1.029.")
    with pytest.raises(SystemExit, match="too few for 5 windows"):
        steady.measure(tmp_path, 5)


# Phases -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def measured():
    flags = ["--flagfile=cartpole.flags", "--num_envs=2", "--unroll_length=4"]
    flags += ["--inverse_update_period=2", "--factor_update_period=1"]
    return config_from(flags)


def test_the_phases_of_an_update_add_up(benchmark_script, measured):
    document = benchmark_script("phases").measure(measured, 5)
    means = {name: found["mean"] for name, found in document["phases"].items()}
    whole, update = means.pop("total"), means.pop("update")
    outside = means.pop("acting") + means.pop("environments")
    assert sum(means.values()) == pytest.approx(update)
    assert 0.8 * whole < outside + update <= 1.001 * whole
    assert document["steps_per_second"] == pytest.approx(8e3 / whole)
    assert document["memory"] > 2**20


def test_the_table_of_phases_has_every_one(benchmark_script):
    phases = benchmark_script("phases")
    document = {
        "machine": {"processor": "Abacus", "cores": 2},
        "flags": "--flagfile=any.flags",
        "batch_size": 8,
        "steps_per_second": 1234.0,
        "memory": 5 * 2**20,
        "phases": {"acting": phases.summary([0.001, 0.002, 0.006])},
    }
    table = phases.table(document)
    assert "1,234 steps/s, 5 MiB" in table
    assert "| acting | 2.00 | 1.00 | 6.00 | 3.00 | 3.00 |" in table


# Parts ------------------------------------------------------------------------------
def parts_of(benchmark_script, layer, shape):
    curvature = benchmark_script("curvature")
    problem = benchmark_script("update_cost").Problem(
        lambda: [layer, keras.layers.Flatten(), keras.layers.Dense(2)],
        np.random.default_rng(0).random((6, *shape), np.float32),
        np.zeros(6),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    lines = curvature.parts(problem, 5, 1)
    assert all(line["seconds"] > 0 for line in lines)
    return {line["part"]: line for line in lines[:4]}


def test_operations_and_bytes_of_a_dense_layer(benchmark_script):
    found = parts_of(benchmark_script, keras.layers.Dense(3), (4,))
    # Four inputs and a bias, three outputs, five examples.
    assert found["statistics"]["operations"] == 5 * 2 * (5 * 5 + 3 * 3)
    assert found["statistics"]["bytes"] == 4 * (5 * 4 + 5 * 3 + 25 + 9)
    assert found["running means"]["bytes"] == 4 * 3 * (25 + 9)
    assert found["inverses"]["operations"] == 5**3 + 3**3
    assert found["product"]["operations"] == 2 * (5 * 5 * 3 + 5 * 3 * 3)
    assert found["product"]["bytes"] == 4 * (25 + 9 + 2 * 15)


def test_a_convolution_writes_its_patches_and_reads_them(benchmark_script):
    found = parts_of(benchmark_script, keras.layers.Conv2D(3, 2, strides=2), (4, 4, 2))
    # Four positions of patches of 2 · 2 · 2 numbers and a bias.
    assert found["statistics"]["operations"] == 5 * 4 * 2 * (9 * 9 + 3 * 3)
    sizes = 5 * 4 * 4 * 2 + 5 * 4 * 3 + 2 * 5 * 4 * 8
    assert found["statistics"]["bytes"] == 4 * (sizes + 81 + 9)


def test_a_convolution_whose_patches_overlap_multiplies_strips(benchmark_script):
    found = parts_of(benchmark_script, keras.layers.Conv2D(3, 2), (4, 4, 2))
    # Strips of 2 · 2 numbers in four rows and three columns. Three products of rows for
    # the two blocks above each other, and another for what only one of them has; three
    # for the block beside.
    products = 5 * 3 * (3 + 1 + 3) * 4 * 4
    assert found["statistics"]["operations"] == 2 * (products + 5 * 9 * 3 * 3)
    sizes = 5 * 4 * 4 * 2 + 5 * 9 * 3 + 2 * 5 * 4 * 3 * 4
    assert found["statistics"]["bytes"] == 4 * (sizes + 81 + 9)


def test_the_limits_of_the_machine_are_measured(benchmark_script):
    found = benchmark_script("curvature").limits(1)
    assert found.keys() == {"operations", "bytes"}
    assert min(found.values()) > 1e6


def test_the_share_of_the_limit_is_that_of_what_limits(benchmark_script):
    line = {"layer": "fc", "part": "product", "seconds": 0.1}
    document = {
        "machine": {"processor": "Abacus", "cores": 2},
        "limits": {"operations": 1e9, "bytes": 1e9},
        "networks": {
            "mlp": {
                "examples": 5,
                "parts": [
                    {**line, "operations": 2e7, "bytes": 5e7},
                    {**line, "operations": 8e7, "bytes": 5e7},
                ],
            }
        },
    }
    rows = benchmark_script("curvature").parts_table(document).splitlines()[-2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["50%", "80%"]


# Growth -----------------------------------------------------------------------------
@pytest.mark.parametrize("value", [1, 160, 10240])
def test_batches_are_as_large_as_asked_for(benchmark_script, value):
    flags = ["--flagfile=mujoco.flags"]
    config = config_from(flags)
    grown = config_from(
        [*flags, *benchmark_script("curvature").batch_flags(config, value)]
    )
    assert grown.batch_size == value


@pytest.mark.parametrize("value", [1, 16, 256])
def test_more_environments_leave_the_batch_as_it_is(benchmark_script, value):
    flags = ["--flagfile=mujoco.flags"]
    config = config_from(flags)
    more = benchmark_script("curvature").environments_flags(config, value)
    grown = config_from([*flags, *more])
    assert grown.environment.num_envs == value
    assert grown.batch_size == config.batch_size


def test_environments_that_do_not_divide_the_batch_are_refused(benchmark_script):
    config = config_from(["--flagfile=mujoco.flags"])
    with pytest.raises(SystemExit, match="3 does not divide"):
        benchmark_script("curvature").environments_flags(config, 3)


def test_the_table_of_growth_has_the_median_of_the_rounds(benchmark_script, tmp_path):
    curvature = benchmark_script("curvature")

    def found(*speeds):
        phases = {"total": {"slowest_over_median": 1.25}}
        return [
            {"steps_per_second": s, "memory": 3 * 2**20, "phases": phases}
            for s in speeds
        ]

    document = {
        "machine": {"processor": "Abacus", "cores": 2},
        "what": "width",
        "flags": "--flagfile=any.flags",
        "points": {
            "64": {"acktr": found(1e4, 2e4, 5e4), "a2c": found(4e4, 4e4, 1e4)},
            "128": {"acktr": found(1e4, 1e4, 1e4), "a2c": found(1e4, 1e4, 1e4)},
        },
    }
    table = curvature.growth_table(document)
    assert "| 64 | 50.0 | 25.0 | 2.00 | 1.25 | 3 | 3 |" in table
    curvature.draw(tmp_path / "growth.png", document)
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_a_point_is_measured_in_a_process_of_its_own(benchmark_script):
    flags = ["--flagfile=cartpole_a2c.flags", "--num_envs=2", "--unroll_length=4"]
    document = benchmark_script("curvature").measure_point(flags, 2)
    assert document["batch_size"] == 8
    json.dumps(document)


# Start ------------------------------------------------------------------------------
def test_a_line_is_one_below_the_head(benchmark_script, tmp_path):
    startup, path = benchmark_script("startup"), tmp_path / "progress.csv"
    assert not startup.has_line(path)
    path.write_text("step,seconds\n")
    assert not startup.has_line(path)
    path.write_text("step,seconds\n1,2\n")
    assert startup.has_line(path)


def test_a_run_that_fails_to_start_is_shown(benchmark_script):
    with pytest.raises(SystemExit, match=r"no_such\.flags"):
        benchmark_script("startup").seconds_to_first_update("no_such.flags")


@pytest.mark.parametrize(
    "flagfile", ["mujoco.flags", "atari.flags", "mujoco_a2c.flags"]
)
def test_another_algorithm_gets_the_flags_of_the_same_run(benchmark_script, flagfile):
    curvature = benchmark_script("curvature")
    flags = [f"--flagfile={flagfile}", "--num_envs=3", "--run_dir=somewhere"]
    config = config_from(flags)
    assert curvature.flags_with(config, config.run.algorithm, flags) == flags
    other = {"acktr": "a2c", "a2c": "acktr"}[config.run.algorithm]
    same = config_from(curvature.flags_with(config, other, flags))
    assert same.run == config.replace(run_dir=None).run.from_paths(
        {**config.to_dict(), "run_dir": None, "algorithm": other}
    )
    for group in ("environment", "policy", "returns"):
        assert getattr(same, group) == getattr(config, group)
    assert same.algorithm == configure(algorithm=other).algorithm
