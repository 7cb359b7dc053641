"""What benchmarks say about the steps of a run, and that they run."""

import numpy as np
import pytest

from acktr_tf.config import configure
from acktr_tf.runs import checkpoints
from acktr_tf.runs import directory as run_directory
from acktr_tf.training import loop as trainer


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of four updates that would have gone on in the same way."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    config = configure(
        env="CartPole-v1",
        network="mlp",
        hidden_size=4,
        num_envs=2,
        unroll_length=8,
        total_steps=64,
        inverse_update_period=2,
        curvature_fraction=1.0,
        learning_rate_schedule="constant",
        target_kl_schedule="constant",
        entropy_cost_schedule="constant",
        normalize_observations=True,
        normalize_rewards=True,
        evaluation_period=None,
        progress_bar=False,
        run_dir=str(directory),
    )
    assert trainer.train(config, []) == 0
    return directory


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# A run taken up again ---------------------------------------------------------------
def test_a_run_goes_on_as_the_trainer_goes_on_with_it(
    benchmark_script, run_dir, tmp_path
):
    # The trainer's own two updates more are the oracle.
    longer = tmp_path / "longer"
    config, _ = run_directory.read_config(run_dir)
    changes = {"total_steps": 96, "run_dir": str(longer)}
    trainer.train(configure(**{**config.to_dict(), **changes}), [])
    newest = checkpoints.latest(longer / "checkpoints")
    expected = checkpoints.load(newest).arrays
    before = files(run_dir)

    run = benchmark_script("resumed").resume(run_dir)
    benchmark_script("kl_by_age").measure(run, 2)

    found = run.policy.state()
    assert found
    for name, array in found.items():
        expected_array = expected[f"learner/policy/{name}"]
        np.testing.assert_array_equal(array, expected_array, err_msg=name)
    assert files(run_dir) == before


@pytest.mark.parametrize("script", ["kl_by_age", "gradient_noise"])
def test_a_directory_without_a_run_is_refused(
    benchmark_script, tmp_path, capsys, script
):
    with pytest.raises(SystemExit):
        benchmark_script(script).main([str(tmp_path / "nothing")])
    assert "does not exist" in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_refused_before_anything_is_run(
    benchmark_script, run_dir, tmp_path, capsys
):
    for place in (tmp_path / "nowhere" / "kl.json", tmp_path):
        with pytest.raises(SystemExit):
            benchmark_script("kl_by_age").main([str(run_dir), f"--json={place}"])
        stdout, stderr = capsys.readouterr()
        assert "must be a file that can be written" in stderr
        assert not stdout
    old = tmp_path / "old.json"
    old.write_text("kept")
    for path in (old, tmp_path / "new.json"):
        assert benchmark_script("arguments").output_file(str(path)) == path
    assert old.read_text() == "kept"


# KL by age --------------------------------------------------------------------------
def test_ages_count_from_the_first_step_of_each_episode(benchmark_script):
    ended = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], bool)
    age, after = benchmark_script("kl_by_age").ages(np.array([5, 0]), ended)
    assert age.tolist() == [[5, 0], [6, 1], [0, 2], [1, 3]]
    assert after.tolist() == [2, 0]


def test_a_tally_has_means_of_states_and_the_update_that_moved_most(benchmark_script):
    tally = benchmark_script("kl_by_age").Tally()
    fell = np.array([[False, True]])
    tally.add(np.array([[0, 19]]), np.array([[0.1, 0.3]]), fell)
    tally.add(np.array([[19, 20]]), np.array([[0.8, 0.5]]), fell)

    found = tally.document()
    assert found["states"] == [3, 1, 0, 0]
    assert found["falls"] == [1, 1, 0, 0]
    np.testing.assert_allclose(found["mean_kl"], [0.4, 0.5, 0, 0])
    np.testing.assert_allclose(found["most"], [0.8, 0.5, 0, 0])


def test_the_table_has_a_row_for_each_run(benchmark_script):
    one = {
        "env": "Chess-v1",
        "seed": 3,
        "kl_limit": 0.05,
        "states": [1, 1, 0, 2],
        "falls": [1, 2, 0, 4],
        "mean_kl": [0.5, 0.3, 0.0, 0.1],
        "most": [0.75, 0.5, 0.0, 0.25],
    }
    other = {**one, "seed": 4, "states": [1, 3, 0, 0]}
    lines = benchmark_script("kl_by_age").table([one, other]).splitlines()
    assert lines[0].startswith("| run | steps 0 to 19 | steps 20 to 99 |")
    assert lines[2:] == [
        "| states | 25.0% | 50.0% | 0.0% | 25.0% | | |",
        "| Chess-v1, seed 3, limit 0.05 | 0.5000 (0.750) | 0.3000 (0.500) "
        "| 0.0000 (0.000) | 0.1000 (0.250) | 0.2500 | 7 (3) |",
        "| Chess-v1, seed 4, limit 0.05 | 0.5000 (0.750) | 0.3000 (0.500) "
        "| 0.0000 (0.000) | 0.1000 (0.250) | 0.3500 | 7 (3) |",
    ]


def test_the_kl_of_all_states_is_the_one_that_the_trainer_logs(
    benchmark_script, run_dir
):
    run = benchmark_script("resumed").resume(run_dir)
    logged = []
    update = run.learner.update

    def noted(rollout, index, *, measure):
        found = update(rollout, index, measure=True)
        logged.append(found.metrics["exact_kl"])
        return found

    run.learner.update = noted
    found = benchmark_script("kl_by_age").measure(run, 3)

    assert len(logged) == 3
    mean = np.average(found["mean_kl"], weights=found["states"])
    # KLs of 1e-5 are sums of differences of 1e-3: float32 leaves four digits.
    assert mean == pytest.approx(np.mean(logged), rel=1e-3)


# Gradient noise ---------------------------------------------------------------------
def test_products_are_those_of_the_dense_inverse(benchmark_script):
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (2, 4)]
    samples = [[rng.normal(size=shape) for shape in shapes] for _ in range(3)]
    inverses = [
        tuple(
            side @ side.T for side in (rng.normal(size=(n, n)), rng.normal(size=(m, m)))
        )
        for n, m in shapes
    ]
    dense = [np.kron(a, g) for a, g in inverses]

    found = benchmark_script("gradient_noise").products(samples, inverses)

    expected = [
        [
            sum(
                x.ravel() @ f @ y.ravel()
                for x, f, y in zip(one, dense, other, strict=True)
            )
            for other in samples
        ]
        for one in samples
    ]
    np.testing.assert_allclose(found, expected)


def test_signal_is_what_independent_batches_share(benchmark_script):
    # Of a mean of (3, 0, ...) and noise of variance 1: 9, and 9 + dimension.
    rows = np.random.default_rng(0).normal(size=(2_000, 4))
    rows[:, 0] += 3.0
    found = benchmark_script("gradient_noise").signal_and_total(rows @ rows.T)
    # Standard errors are 2 · 3 / √2000 = 0.13, and 0.15 for the total.
    assert found == pytest.approx((9.0, 13.0), abs=0.6)


def test_the_table_of_noise_has_every_damping_and_decay(
    benchmark_script, run_dir, capsys
):
    noise = benchmark_script("gradient_noise")
    noise.main([str(run_dir), "--batches=2"])
    rows = capsys.readouterr().out.splitlines()[4:]
    assert len(rows) == 2 * len(noise.DAMPINGS) * len(noise.LAMBDAS)
    assert "nan" not in "".join(rows)


# Predicted and exact KL -------------------------------------------------------------
def test_predicted_and_exact_kl_agree_where_the_curvature_is_exact(
    benchmark_script,
):
    kl_ratio = benchmark_script("kl_ratio")
    *_, limit = kl_ratio.steps_table(kl_ratio.linear_heads(0))
    # Of the noise of 2¹⁴ · 64 sampled targets.
    assert float(limit.split("|")[-2]) == pytest.approx(1.0, abs=0.01)


def test_the_ratio_is_measured_on_a_game(benchmark_script, tmp_path, capsys):
    file = tmp_path / "table.md"
    benchmark_script("kl_ratio").main(["--updates=1", f"--output={file}"])
    written = file.read_text()
    assert "| all together | 100.0% |" in written
    assert written == capsys.readouterr().out
