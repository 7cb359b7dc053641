import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.algorithms import Algorithm
from acktr_tf.config import Config, configure
from acktr_tf.environments.gym import GymEnvironment
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import checkpoints
from acktr_tf.training import loop as trainer
from acktr_tf.training import scoring
from acktr_tf.training.collector import Collector
from acktr_tf.training.stopping import StopRequest

COMMAND = ["python", "-m", "acktr_tf.launch"]
TIMED = {"seconds", "steps_per_second", "memory"}


def tiny(run_dir: Path, **changes) -> Config:
    settings = {
        "env": "CartPole-v1",
        "num_envs": 4,
        "unroll_length": 8,
        "total_steps": 4 * 8 * 12,
        "hidden_size": 8,
        "inverse_update_period": 2,
        "curvature_fraction": 0.5,
        "log_period": 3,
        "run_dir": str(run_dir),
        "progress_bar": False,
        "checkpoint_seconds": 1000.0,
    }
    return configure(**{**settings, **changes})


def stop_after(monkeypatch, updates: int) -> None:
    """Lets the process receive SIGTERM in its `updates`-th update."""
    train_once = trainer._Run._train_once
    count = 0

    def counted(run):
        nonlocal count
        count += 1
        if count == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        train_once(run)

    monkeypatch.setattr(trainer._Run, "_train_once", counted)


def rows(path: Path, without=frozenset()) -> list[dict[str, str]]:
    with path.open() as file:
        return [
            {k: v for k, v in row.items() if k not in without and "share" not in k}
            for row in csv.DictReader(file)
        ]


def final_state(run_dir: Path) -> dict[str, np.ndarray]:
    return checkpoints.load(checkpoints.latest(run_dir / "checkpoints")).arrays


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = final_state(one), final_state(other)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert rows(one / "episodes.csv", TIMED) == rows(other / "episodes.csv", TIMED)
    assert rows(one / "progress.csv", TIMED) == rows(other / "progress.csv", TIMED)


@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_run_leaves_every_file_of_the_run_directory(tmp_path, algorithm):
    run_dir = tmp_path / "run"
    config = tiny(run_dir, algorithm=algorithm, evaluation_period=192)

    assert trainer.train(config, COMMAND) == 0

    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "config.json",
        "episodes.csv",
        "progress.csv",
        "tensorboard",
        "checkpoints",
        "export",
    }
    written = json.loads((run_dir / "config.json").read_text())
    assert written["settings"] == config.to_dict()
    assert written["command"] == COMMAND
    assert (run_dir / "export" / "saved_model.pb").is_file()
    assert (run_dir / "export" / "best" / "saved_model.pb").is_file()
    progress = rows(run_dir / "progress.csv")
    assert [int(row["step"]) for row in progress] == [96, 192, 288, 384]
    evaluated = [row["evaluation_return"] != "" for row in progress]
    assert evaluated == [False, True, False, True]
    for row in progress:
        assert math.isfinite(float(row["exact_kl"]))
        assert (algorithm == "acktr") == (row["predicted_kl"] != "")
    episodes = rows(run_dir / "episodes.csv")
    assert episodes
    for row in episodes:  # CartPole gives a reward of 1 for each step.
        assert float(row["episode_return"]) == int(row["episode_length"])


def test_shares_of_time_are_shares(tmp_path):
    trainer.train(tiny(tmp_path / "run", critic="separate"), COMMAND)
    with (tmp_path / "run" / "progress.csv").open() as file:
        for row in csv.DictReader(file):
            shares = [float(v) for k, v in row.items() if k.startswith("share_")]
            assert sum(shares) == pytest.approx(1.0)
            assert all(share > 0 for share in shares)


CONTINUOUS = {
    "env": "Pendulum-v1",
    "normalize_observations": True,
    "normalize_rewards": True,
    "critic": "separate",
    "critic.updates": 2,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "acktr"},
        {"algorithm": "a2c"},
        CONTINUOUS,
        {**CONTINUOUS, "action_bounds": "squash", "vectorization": "async"},
    ],
)
def test_continued_run_equals_uninterrupted_one(tmp_path, monkeypatch, changes):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer.train(tiny(whole, **changes), COMMAND)

    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert trainer.train(tiny(parts, **changes), COMMAND) == 143
    assert final_state(parts).keys() == final_state(whole).keys()
    assert checkpoints.latest(parts / "checkpoints").name == f"{5 * 32:012d}"
    assert trainer.train(tiny(parts, **changes), COMMAND) == 0

    assert_same_run(whole, parts)


def test_scales_are_those_of_what_was_seen(tmp_path, monkeypatch):
    """Observations of all rollouts, and rewards by the returns that they add up to."""
    rollouts = []
    collect = Collector.collect

    def watched(self, step):
        collected = collect(self, step)
        rollouts.append([np.array(array) for array in collected.rollout])
        return collected

    monkeypatch.setattr(Collector, "collect", watched)
    config = tiny(tmp_path / "run", **CONTINUOUS, discount=0.9)
    trainer.train(config, COMMAND)

    observations = np.concatenate([rollout[0] for rollout in rollouts])
    observations = observations.reshape(-1, 3).astype(np.float64)
    state = final_state(tmp_path / "run")
    by_name = {name.rsplit("/", 1)[-1]: array for name, array in state.items()}
    np.testing.assert_allclose(
        by_name["observation_mean"], observations.mean(axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(
        by_name["observation_deviation"], observations.std(axis=0), rtol=1e-5
    )
    rewards = np.concatenate([rollout[2] for rollout in rollouts])
    ended = np.concatenate([rollout[3] | rollout[4] for rollout in rollouts])
    returns, running = [], np.zeros(4)
    for reward, end in zip(rewards, ended, strict=True):
        running = 0.9 * running + reward
        returns.append(running)
        running = np.where(end, 0.0, running)
    np.testing.assert_allclose(by_name["value_scale"], np.std(returns), rtol=1e-5)
    last = rows(tmp_path / "run" / "progress.csv")[-1]
    assert float(last["reward_scale"]) == pytest.approx(np.std(returns), rel=1e-5)


def test_learning_is_from_scaled_rewards_and_normalized_observations(
    tmp_path, monkeypatch
):
    seen = []
    update = Algorithm.update

    def watched(self, batch, index, measure):
        deviation = float(self._policy.value_scale.value)
        inputs = self._policy.network_inputs(tf.constant(batch.observation))
        seen.append((batch.target, deviation, inputs.numpy()))
        return update(self, batch, index, measure)

    monkeypatch.setattr(Algorithm, "update", watched)
    trainer.train(tiny(tmp_path / "run", **CONTINUOUS, discount=0.0), COMMAND)
    for target, deviation, inputs in seen[2:]:
        # Pendulum's rewards go down to -16.3; without a future they are the targets.
        assert target.max() <= 0.0
        assert np.abs(target).max() < 16.3 / deviation * 1.01
        assert deviation > 1.5
        assert np.abs(inputs).max() <= 10.0
    inputs = np.concatenate([inputs for _, _, inputs in seen[4:]])
    np.testing.assert_allclose(inputs.std(axis=0), 1.0, atol=0.4)


def test_lines_after_the_last_checkpoint_are_not_repeated(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer.train(tiny(whole), COMMAND)

    class Killed(BaseException):
        pass

    def die(self, *arguments):
        raise Killed

    with monkeypatch.context() as patch:
        # Lines are written for all updates, but only the checkpoint at 0 exists.
        patch.setattr(trainer._Run, "_finish", die)
        with pytest.raises(Killed):
            trainer.train(tiny(parts), COMMAND)
    assert checkpoints.latest(parts / "checkpoints").name == f"{0:012d}"
    assert len(rows(parts / "episodes.csv")) == len(rows(whole / "episodes.csv"))
    trainer.train(tiny(parts), COMMAND)

    assert_same_run(whole, parts)


def test_progress_ends_at_all_of_the_run(tmp_path, capfd):
    config = tiny(tmp_path / "run", total_steps=70, progress_bar=True)
    trainer.train(config, COMMAND)
    # Three updates of 32 steps are the fewest that hold 70.
    assert "\n96/96 steps (100%), " in capfd.readouterr().err


def test_finished_run_stays_finished(tmp_path, capfd):
    config = tiny(tmp_path / "run", progress_bar=True)
    trainer.train(config, COMMAND)
    before = final_state(tmp_path / "run")
    assert trainer.train(config, COMMAND) == 0
    assert "complete" in capfd.readouterr().err
    after = final_state(tmp_path / "run")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_settings_that_are_refused_leave_nothing_behind(tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(UserError, match="nature_cnn takes"):
        trainer.train(tiny(run_dir, network="nature_cnn"), COMMAND)
    assert not run_dir.exists()
    assert trainer.train(tiny(run_dir), COMMAND) == 0


def test_a_game_that_does_not_end_costs_an_evaluation_and_not_the_run(
    tmp_path, monkeypatch, capfd
):
    def endless(policy, config, games):
        raise scoring.EndlessGameError("Game 3 has not ended.")

    monkeypatch.setattr(trainer, "score_policy", endless)
    config = tiny(tmp_path / "run", evaluation_period=192)
    assert trainer.train(config, COMMAND) == 0
    said = "Evaluation at step 192: given up. Game 3 has not ended."
    assert said in capfd.readouterr().err
    progress = rows(tmp_path / "run" / "progress.csv")
    assert {row["evaluation_return"] for row in progress} <= {"", "nan"}
    assert not (tmp_path / "run" / "export" / "best").exists()


@pytest.mark.parametrize("stopped", [True, False])
def test_an_evaluation_that_a_signal_ended_does_not_keep_a_run_from_saving(
    tmp_path, monkeypatch, stopped
):
    def interrupted(policy, config, games):
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RunError("Its processes have gone.")

    monkeypatch.setattr(trainer, "score_policy", interrupted)
    config = tiny(tmp_path / "run", evaluation_period=192)
    if not stopped:
        with pytest.raises(RunError, match="have gone"):
            trainer.train(config, COMMAND)
        return
    assert trainer.train(config, COMMAND) == 143
    saved = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert checkpoints.load(saved).step == 192


def test_other_settings_are_refused_by_name(tmp_path):
    trainer.train(tiny(tmp_path / "run"), COMMAND)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"momentum: started with 0\.9, now 0\.5"):
        trainer.train(tiny(tmp_path / "run", momentum=0.5), COMMAND)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_settings_that_change_nothing_learnt_may_change(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer.train(tiny(whole), COMMAND)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        trainer.train(tiny(parts), COMMAND)
    # A checkpoint after every update.
    changed = tiny(parts, checkpoint_seconds=0.0, checkpoints_kept=3)
    assert trainer.train(changed, COMMAND) == 0
    assert_same_run(whole, parts)
    assert len(list((parts / "checkpoints").iterdir())) == 3


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        trainer.train(tiny(tmp_path), COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_as_run_dir_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="must be a directory"):
        trainer.train(tiny(tmp_path / "run"), COMMAND)
    assert (tmp_path / "run").read_text() == "mine"


def test_unknown_environment_leaves_no_run_directory(tmp_path):
    with pytest.raises(UserError, match="CartPole-v1"):
        trainer.train(tiny(tmp_path / "run", env="CartPole-v11"), COMMAND)
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoint_is_refused_and_left_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        trainer.train(tiny(tmp_path / "run"), COMMAND)
    arrays = checkpoints.latest(tmp_path / "run" / "checkpoints") / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="damaged"):
        trainer.train(tiny(tmp_path / "run"), COMMAND)
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert after == before


def test_simulator_that_dies_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    trainer.train(tiny(whole), COMMAND)
    step_all = GymEnvironment._step_all
    steps = 0

    def die_at_70(self, actions):
        nonlocal steps
        steps += 1
        if steps == 70:
            raise ConnectionResetError("the simulator went away")
        return step_all(self, actions)

    config = tiny(tmp_path / "run", checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(GymEnvironment, "_step_all", die_at_70)
        with pytest.raises(RunError, match=r"step 69 .* went away"):
            trainer.train(config, COMMAND)
    assert checkpoints.latest(tmp_path / "run" / "checkpoints").name == f"{8 * 32:012d}"
    trainer.train(config, COMMAND)
    assert_same_run(whole, tmp_path / "run")


def test_gradients_that_stay_infinite_stop_the_run(tmp_path, monkeypatch, capfd):
    config = tiny(tmp_path / "run", progress_bar=True)

    def with_infinite_target(*arguments):
        batch = make_batch(*arguments)
        return batch._replace(target=batch.target * np.float32("inf"))

    make_batch = trainer.make_batch
    monkeypatch.setattr(trainer, "make_batch", with_infinite_target)
    with pytest.raises(RunError, match=r"update 10 is not finite.*checkpoint is whole"):
        trainer.train(config, COMMAND)
    assert capfd.readouterr().err.count("the step is left out") == 9
    arrays = final_state(tmp_path / "run")
    assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def test_a_single_infinite_gradient_is_left_out(tmp_path, monkeypatch, capfd):
    config = tiny(tmp_path / "run", progress_bar=True)
    make_batch, count = trainer.make_batch, 0

    def infinite_once(*arguments):
        nonlocal count
        count += 1
        batch = make_batch(*arguments)
        if count == 4:
            batch = batch._replace(advantage=batch.advantage * np.float32("nan"))
        return batch

    monkeypatch.setattr(trainer, "make_batch", infinite_once)
    assert trainer.train(config, COMMAND) == 0
    assert capfd.readouterr().err.count("the step is left out") == 1
    arrays = final_state(tmp_path / "run")
    assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def test_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", checkpoint_seconds=0.0)
    fsync, count = os.fsync, 0

    def fill_up(descriptor):
        nonlocal count
        count += 1
        if count > 40:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        with pytest.raises(RunError, match="No space left on device"):
            trainer.train(config, COMMAND)
    assert final_state(tmp_path / "run")
    assert trainer.train(config, COMMAND) == 0


def test_best_export_is_of_the_best_evaluation(tmp_path, monkeypatch):
    means = iter([3.0, 7.0, 5.0])

    class Scores:
        returns = (0.0,)

        def __init__(self, mean):
            self.mean = mean

    monkeypatch.setattr(
        trainer, "score_policy", lambda policy, config, games: Scores(next(means))
    )
    trainer.train(tiny(tmp_path / "run", evaluation_period=128), COMMAND)
    best = json.loads((tmp_path / "run/export/best/config.json").read_text())
    assert (best["step"], best["evaluation_return"]) == (256, 7.0)
    final = json.loads((tmp_path / "run/export/config.json").read_text())
    assert final["step"] == 384


def test_second_signal_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        assert stop.exit_status == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# In processes of their own ----------------------------------------------------------
def launch(run_dir: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "acktr_tf.launch", "--flagfile=cartpole.flags"),
            *(
                "--deterministic",
                "--evaluation_period=none",
                "--checkpoint_seconds=0.2",
            ),
            *("--env_threads=1", f"--run_dir={run_dir}", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until_training(process: subprocess.Popen[str], run_dir: Path) -> None:
    while process.poll() is None and not (run_dir / "episodes.csv").exists():
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    assert process.returncode == 0, output


def kill_and_continue(tmp_path: Path, kills: int, steps: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(launch(whole, f"--total_steps={steps}"))
    moments = random.Random(0)
    for _ in range(kills):
        process = launch(killed, f"--total_steps={steps}")
        until_training(process, killed)
        time.sleep(moments.uniform(0.0, 2.0))
        process.kill()
        process.communicate()
    finish(launch(killed, f"--total_steps={steps}"))
    assert_same_run(whole, killed)


@pytest.mark.parametrize(
    ("vectorization", "sent"),
    [("sync", "SIGINT"), ("async", "SIGINT"), ("async", "SIGTERM")],
)
def test_interrupt_saves_and_says_how_to_continue(tmp_path, vectorization, sent):
    run_dir = tmp_path / "run"
    process = launch(
        run_dir,
        "--total_steps=100000000",
        "--checkpoint_seconds=1000",
        "--unroll_length=200",
        f"--vectorization={vectorization}",
    )
    until_training(process, run_dir)
    # Episodes are written down after an update: the next one is then collected.
    while process.poll() is None and len(rows(run_dir / "episodes.csv")) == 0:
        time.sleep(0.05)
    # A terminal sends Ctrl-C to all processes of a command, those of environments too.
    os.killpg(process.pid, signal.Signals[sent])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.Signals[sent], output
    assert f"--run_dir={run_dir} continues" in output
    assert "Traceback" not in output
    saved = checkpoints.latest(run_dir / "checkpoints")
    assert checkpoints.load(saved).step > 8 * 200


def test_killed_run_continues_as_if_nothing_had_happened(tmp_path):
    kill_and_continue(tmp_path, kills=2, steps=30_000)


@pytest.mark.slow
def test_run_killed_at_twenty_moments_continues(tmp_path):
    kill_and_continue(tmp_path, kills=20, steps=400_000)
