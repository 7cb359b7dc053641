"""Runs from their first file to their last: written, refused, stopped, continued.

A training compiles and exports, which takes seconds. Tests that look at a run, damage
it or go on with it share one per configuration, and change copies of it.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.algorithms import a2c, acktr
from acktr_tf.config import Config, configure
from acktr_tf.environments.gym import GymEnvironment
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import checkpoints
from acktr_tf.training import loop, scoring
from acktr_tf.training.collector import Collected, Collector
from acktr_tf.training.stopping import StopRequest

COMMAND = ["python", "-m", "acktr_tf.launch"]
TIMED = {"seconds", "steps_per_second", "memory"}
CONTINUOUS = {
    "env": "Pendulum-v1",
    "normalize_observations": True,
    "normalize_rewards": True,
    "critic": "separate",
    "critic.updates": 2,
    "discount": 0.9,
}
CONFIGURATIONS = {
    "acktr": {"algorithm": "acktr", "evaluation_period": 192},
    "a2c": {"algorithm": "a2c", "evaluation_period": 192},
    "continuous": {**CONTINUOUS, "action_bounds": "squash", "vectorization": "async"},
    "clipped": CONTINUOUS,
}
# What compiles fastest, for tests of what no algorithm takes part in.
QUICK = {"algorithm": "a2c"}


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
        "evaluation_games": 2,
        "run_dir": str(run_dir),
        "progress_bar": False,
        "checkpoint_seconds": 1000.0,
    }
    if changes.get("algorithm") == "a2c":
        del settings["inverse_update_period"], settings["curvature_fraction"]
    return configure(**{**settings, **changes})


@contextlib.contextmanager
def stopped_in(update: int) -> Iterator[None]:
    """Lets the process receive SIGTERM in its `update`-th update."""
    count = 0

    def stop(collected: Collected) -> Collected:
        nonlocal count
        count += 1
        if count == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return collected

    with collecting(stop):
        yield


@contextlib.contextmanager
def collecting(change: Callable[[Collected], Collected]) -> Iterator[None]:
    """Lets rollouts pass through a function before anything is learnt from them."""
    collect = Collector.collect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Collector, "collect", lambda self, step: change(collect(self, step))
        )
        yield


def rows(path: Path, without=frozenset()) -> list[dict[str, str]]:
    with path.open() as file:
        return [
            {k: v for k, v in row.items() if k not in without and "share" not in k}
            for row in csv.DictReader(file)
        ]


def final_state(run_dir: Path) -> dict[str, np.ndarray]:
    """All of the newest checkpoint but for wall times and the bytes that they take."""
    arrays = checkpoints.load(checkpoints.latest(run_dir / "checkpoints")).arrays
    timed = ("progress/seconds", "log/")
    return {name: arrays[name] for name in arrays if not name.startswith(timed)}


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = final_state(one), final_state(other)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert rows(one / "episodes.csv", TIMED) == rows(other / "episodes.csv", TIMED)
    assert rows(one / "progress.csv", TIMED) == rows(other / "progress.csv", TIMED)


def files(directory: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


# Shared runs ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(tmp_path_factory, request) -> Callable[[str], Path]:
    """A finished run by the name of its configuration; tests must not change it."""
    root, statuses = tmp_path_factory.mktemp("finished"), {}

    def find(name: str) -> Path:
        if name == "continuous":
            return request.getfixturevalue("watched").run_dir
        if name not in statuses:
            config = tiny(root / name, **CONFIGURATIONS[name])
            statuses[name] = loop.train(config, COMMAND)
        assert statuses[name] == 0
        return root / name

    return find


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Callable[[str], Path]:
    """The same, stopped by SIGTERM in its fifth update."""
    root, statuses = tmp_path_factory.mktemp("stopped"), {}

    def find(name: str) -> Path:
        if name not in statuses:
            with stopped_in(5):
                config = tiny(root / name, **CONFIGURATIONS[name])
                statuses[name] = loop.train(config, COMMAND)
        assert statuses[name] == 143
        return root / name

    return find


class Seen(NamedTuple):
    """What a learner was given in an update."""

    reward: np.ndarray  # [T, B], as collected.
    ended: np.ndarray  # [T, B]
    observation: np.ndarray  # [T, B, ...]
    learnt_reward: np.ndarray  # [T, B], as learnt from.
    value_scale: float
    network_inputs: np.ndarray  # [T·B, ...]


class Watched(NamedTuple):
    """A run, and what was collected and learnt from in each update."""

    run_dir: Path
    updates: list[Seen]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Watched:
    """A finished run of continuous actions, with all rollouts."""
    run_dir = tmp_path_factory.mktemp("watched") / "run"
    rollouts, seen = [], []
    update = acktr.ACKTR.update

    def watch(self, rollout, index, *, measure):
        raw = rollouts[-1]
        inputs = self.policy.network_inputs(
            self.policy.tensor(raw.observation.reshape(-1, 3))
        )
        seen.append(
            Seen(
                raw.reward,
                raw.terminated | raw.truncated,
                raw.observation,
                np.array(rollout.reward),
                float(self.policy.value_scale.value),
                inputs.numpy(),
            )
        )
        return update(self, rollout, index, measure=measure)

    def keep(collected: Collected) -> Collected:
        rollouts.append(type(collected.rollout)(*map(np.array, collected.rollout)))
        return collected

    with pytest.MonkeyPatch.context() as patch, collecting(keep):
        patch.setattr(acktr.ACKTR, "update", watch)
        loop.train(tiny(run_dir, **CONFIGURATIONS["continuous"]), COMMAND)
    assert len(seen) == 12
    return Watched(run_dir, seen)


# What a run leaves ------------------------------------------------------------------
@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_run_leaves_every_file_of_the_run_directory(finished, algorithm):
    run_dir = finished(algorithm)
    config = tiny(run_dir, **CONFIGURATIONS[algorithm])
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
        assert (algorithm == "acktr") == bool(row.get("predicted_kl"))
    episodes = rows(run_dir / "episodes.csv")
    assert episodes
    for row in episodes:  # CartPole gives a reward of 1 for each step.
        assert float(row["episode_return"]) == int(row["episode_length"])


def test_shares_of_time_are_shares(watched):
    with (watched.run_dir / "progress.csv").open() as file:
        for row in csv.DictReader(file):
            shares = [float(v) for k, v in row.items() if k.startswith("share_")]
            assert sum(shares) == pytest.approx(1.0)
            assert all(share > 0 for share in shares)


def test_progress_ends_at_all_of_the_run(tmp_path, capfd):
    config = tiny(tmp_path / "run", total_steps=70, progress_bar=True, **QUICK)
    loop.train(config, COMMAND)
    # Three updates of 32 steps are the fewest that hold 70.
    assert "\n96/96 steps (100%), " in capfd.readouterr().err


def test_best_export_is_of_the_best_evaluation(tmp_path, monkeypatch):
    means = iter([3.0, 7.0, 5.0])

    class Scores:
        returns = (0.0,)

        def __init__(self, mean):
            self.mean = mean

    monkeypatch.setattr(loop, "score_policy", lambda *arguments: Scores(next(means)))
    loop.train(tiny(tmp_path / "run", evaluation_period=128, **QUICK), COMMAND)
    best = json.loads((tmp_path / "run/export/best/config.json").read_text())
    assert (best["step"], best["evaluation_return"]) == (256, 7.0)
    final = json.loads((tmp_path / "run/export/config.json").read_text())
    assert final["step"] == 384


# Normalization ----------------------------------------------------------------------
def deviations_of_returns(updates: list[Seen]) -> list[float]:
    """After each update: the deviation of the discounted returns of all steps."""
    returns, deviations, running = [], [], np.zeros(4)
    for update in updates:
        for reward, ended in zip(update.reward, update.ended, strict=True):
            running = CONTINUOUS["discount"] * running + reward
            returns.append(running)
            running = np.where(ended, 0.0, running)
        deviations.append(float(np.std(returns)))
    return deviations


def test_scales_are_those_of_what_was_seen(watched):
    """Observations of all rollouts, and rewards by the returns that they add up to."""
    observations = np.concatenate([update.observation for update in watched.updates])
    observations = observations.reshape(-1, 3).astype(np.float64)
    state = final_state(watched.run_dir)
    by_name = {name.rsplit("/", 1)[-1]: array for name, array in state.items()}
    np.testing.assert_allclose(
        by_name["observation_mean"], observations.mean(axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(
        by_name["observation_deviation"], observations.std(axis=0), rtol=1e-5
    )
    deviation = deviations_of_returns(watched.updates)[-1]
    np.testing.assert_allclose(by_name["value_scale"], deviation, rtol=1e-5)
    last = rows(watched.run_dir / "progress.csv")[-1]
    assert float(last["reward_scale"]) == pytest.approx(deviation, rel=1e-5)


def test_learning_is_from_scaled_rewards_and_normalized_observations(watched):
    deviations = deviations_of_returns(watched.updates)
    assert deviations[2] > 1.5
    for update, deviation in zip(watched.updates, deviations, strict=True):
        # A scale has seen the rewards that it divides; values are in the same one.
        np.testing.assert_allclose(
            update.learnt_reward, update.reward / deviation, rtol=1e-4
        )
        assert update.value_scale == pytest.approx(deviation, rel=1e-4)
        assert np.abs(update.network_inputs).max() <= 10.0
    inputs = np.concatenate([update.network_inputs for update in watched.updates[4:]])
    np.testing.assert_allclose(inputs.std(axis=0), 1.0, atol=0.4)


# Continuing -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "a2c",
        "continuous",
        # Other actions, in this process, with all else as above.
        pytest.param("clipped", marks=pytest.mark.slow),
    ],
)
def test_continued_run_equals_uninterrupted_one(finished, stopped, tmp_path, name):
    whole, parts = finished(name), tmp_path / "parts"
    shutil.copytree(stopped(name), parts)
    assert final_state(parts).keys() == final_state(whole).keys()
    assert checkpoints.latest(parts / "checkpoints").name == f"{5 * 32:012d}"

    assert loop.train(tiny(parts, **CONFIGURATIONS[name]), COMMAND) == 0

    assert_same_run(whole, parts)


def test_settings_that_change_nothing_learnt_may_change(finished, stopped, tmp_path):
    whole, parts = finished("acktr"), tmp_path / "parts"
    shutil.copytree(stopped("acktr"), parts)
    assert final_state(parts).keys() == final_state(whole).keys()
    # A checkpoint after every update.
    changed = {"checkpoint_seconds": 0.0, "checkpoints_kept": 3}
    config = tiny(parts, **CONFIGURATIONS["acktr"], **changed)
    assert loop.train(config, COMMAND) == 0
    assert_same_run(whole, parts)
    assert len(list((parts / "checkpoints").iterdir())) == 3


def test_lines_after_the_last_checkpoint_are_not_repeated(finished, tmp_path):
    whole, parts = finished("a2c"), tmp_path / "parts"
    shutil.copytree(whole, parts)
    # As if it had been killed before the last checkpoint: lines are written for all
    # updates, but only the checkpoint at 0 exists.
    shutil.rmtree(checkpoints.latest(parts / "checkpoints"))
    shutil.rmtree(parts / "export")
    assert checkpoints.latest(parts / "checkpoints").name == f"{0:012d}"
    assert len(rows(parts / "episodes.csv")) > 0
    loop.train(tiny(parts, **CONFIGURATIONS["a2c"]), COMMAND)

    assert_same_run(whole, parts)


def test_finished_run_stays_finished(finished, tmp_path, capfd):
    run_dir = shutil.copytree(finished("acktr"), tmp_path / "run")
    before = final_state(run_dir)
    config = tiny(run_dir, **CONFIGURATIONS["acktr"], progress_bar=True)
    assert loop.train(config, COMMAND) == 0
    assert "complete" in capfd.readouterr().err
    after = final_state(run_dir)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "settings",
    [
        {**QUICK, "learning_rate_schedule": "constant"},
        pytest.param(
            {"learning_rate_schedule": "constant", "target_kl": None},
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.parametrize("ended", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_made_longer_equals_one_that_was_begun_so(tmp_path, settings, ended):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # Rows of `progress.csv` are of every third update: of the last one as of any.
    begun = tiny(parts, **settings, total_steps=4 * 8 * 6)
    with contextlib.nullcontext() if ended else stopped_in(4):
        assert loop.train(begun, COMMAND) == (0 if ended else 143)
    assert (parts / "export").exists() == ended
    longer = begun.replace(total_steps=4 * 8 * 9)
    assert loop.train(longer, COMMAND) == 0
    assert loop.train(longer.replace(run_dir=str(whole)), COMMAND) == 0
    assert_same_run(whole, parts)
    exported = json.loads((parts / "export" / "config.json").read_text())
    assert exported["step"] == exported["settings"]["total_steps"] == 4 * 8 * 9


# Refusals ---------------------------------------------------------------------------
def test_settings_that_are_refused_leave_nothing_behind(tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(UserError, match="nature_cnn takes"):
        loop.train(tiny(run_dir, network="nature_cnn"), COMMAND)
    assert os.listdir(tmp_path) == []


def test_other_settings_are_refused_by_name(finished, tmp_path):
    run_dir = shutil.copytree(finished("acktr"), tmp_path / "run")
    before = files(run_dir)
    config = tiny(run_dir, **CONFIGURATIONS["acktr"], momentum=0.5)
    with pytest.raises(UserError, match=r"momentum: started with 0\.9, now 0\.5"):
        loop.train(config, COMMAND)
    assert files(run_dir) == before


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        loop.train(tiny(tmp_path), COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_as_run_dir_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="must be a directory"):
        loop.train(tiny(tmp_path / "run"), COMMAND)
    assert (tmp_path / "run").read_text() == "mine"


def test_unknown_environment_leaves_no_run_directory(tmp_path):
    with pytest.raises(UserError, match="CartPole-v1"):
        loop.train(tiny(tmp_path / "run", env="CartPole-v11"), COMMAND)
    assert not (tmp_path / "run").exists()


def cut(checkpoint: Path) -> None:
    arrays = checkpoint / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-100])


def test_damaged_checkpoints_are_refused_and_left_alone(stopped, tmp_path):
    run_dir = shutil.copytree(stopped("a2c"), tmp_path / "run")
    for checkpoint in (run_dir / "checkpoints").iterdir():
        cut(checkpoint)
    before = files(run_dir)
    with pytest.raises(UserError, match=r"160 is damaged: .* So are the 1 before it"):
        loop.train(tiny(run_dir, **CONFIGURATIONS["a2c"]), COMMAND)
    assert files(run_dir) == before


@pytest.mark.parametrize("bytes_are_whole", [False, True])
def test_a_damaged_checkpoint_is_named_and_the_one_before_continued(
    finished, stopped, tmp_path, capfd, bytes_are_whole
):
    run_dir = shutil.copytree(stopped("a2c"), tmp_path / "run")
    damaged = checkpoints.latest(run_dir / "checkpoints")
    if bytes_are_whole:
        # The learner has loaded its part when that of the environments is refused.
        saved = checkpoints.load(damaged)
        del saved.arrays["environments/returns"]
        checkpoints.save(damaged.parent, saved, 9)
    else:
        cut(damaged)
    config = tiny(run_dir, **CONFIGURATIONS["a2c"])
    assert loop.train(config, COMMAND) == 0
    (said,) = [
        line for line in capfd.readouterr().err.splitlines() if "is damaged" in line
    ]
    assert said.startswith(f"The checkpoint {damaged} is damaged: ")
    assert ("environments/returns is missing" in said) == bytes_are_whole
    assert_same_run(finished("a2c"), run_dir)
    assert (run_dir / "checkpoints" / f"damaged-{damaged.name}").is_dir()


# Faults -----------------------------------------------------------------------------
def test_a_game_that_does_not_end_costs_an_evaluation_and_not_the_run(
    tmp_path, monkeypatch, capfd
):
    def endless(*arguments):
        raise scoring.EndlessGameError("Game 3 has not ended.")

    monkeypatch.setattr(loop, "score_policy", endless)
    config = tiny(tmp_path / "run", evaluation_period=192, **QUICK)
    assert loop.train(config, COMMAND) == 0
    said = "Evaluation at step 192: given up. Game 3 has not ended."
    assert said in capfd.readouterr().err
    progress = rows(tmp_path / "run" / "progress.csv")
    assert [row["evaluation_return"] for row in progress] == ["", "nan", "", "nan"]
    assert not (tmp_path / "run" / "export" / "best").exists()


@pytest.mark.parametrize("stopped", [True, False])
def test_an_evaluation_that_a_signal_ended_does_not_keep_a_run_from_saving(
    tmp_path, monkeypatch, stopped
):
    def interrupted(*arguments):
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RunError("Its processes have gone.")

    monkeypatch.setattr(loop, "score_policy", interrupted)
    config = tiny(tmp_path / "run", evaluation_period=192, **QUICK)
    if not stopped:
        with pytest.raises(RunError, match="have gone"):
            loop.train(config, COMMAND)
        return
    assert loop.train(config, COMMAND) == 143
    saved = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert checkpoints.load(saved).step == 192


def test_simulator_that_dies_leaves_the_last_checkpoint_whole(
    finished, tmp_path, monkeypatch
):
    step_all = GymEnvironment._step_all
    training, steps = None, 0

    def die_at_70(self, actions):
        nonlocal training, steps
        training = training or self  # The other one is that of an evaluation.
        steps += self is training
        if steps == 70:
            raise ConnectionResetError("the simulator went away")
        return step_all(self, actions)

    run_dir = tmp_path / "run"
    config = tiny(run_dir, **CONFIGURATIONS["a2c"], checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(GymEnvironment, "_step_all", die_at_70)
        with pytest.raises(RunError, match=r"step 69 .* went away"):
            loop.train(config, COMMAND)
    assert checkpoints.latest(run_dir / "checkpoints").name == f"{8 * 32:012d}"
    loop.train(config, COMMAND)
    assert_same_run(finished("a2c"), run_dir)


@pytest.mark.parametrize("reward", [1e308, -3e38])
def test_a_reward_beyond_float32_leaves_a_run_that_continues(
    finished, tmp_path, monkeypatch, reward
):
    step_all, steps = GymEnvironment._step_all, 0

    def exaggerate_at_70(self, actions):
        nonlocal steps
        steps += self.num_envs == 4  # The other ones are those of an evaluation.
        observation, rewards, *ends = step_all(self, actions)
        return observation, np.where(steps == 70, reward, rewards), *ends

    run_dir = tmp_path / "run"
    settings = {**CONFIGURATIONS["a2c"], "normalize_rewards": True}
    config = tiny(run_dir, **settings, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(GymEnvironment, "_step_all", exaggerate_at_70)
        with pytest.raises(RunError, match=rf"{reward:g}".replace("+", r"\+")) as error:
            loop.train(config, COMMAND)
    assert "as reward at step 69" in str(error.value)
    assert loop.train(config, COMMAND) == 0
    state = final_state(run_dir)
    assert all(np.isfinite(a).all() for a in state.values() if a.dtype.kind == "f")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_standard_error_that_is_full_ends_the_run_with_a_checkpoint(
    finished, tmp_path, monkeypatch
):
    run_dir = tmp_path / "run"
    config = tiny(run_dir, **CONFIGURATIONS["a2c"])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Full())
        with pytest.raises(RunError) as error:
            loop.train(config, COMMAND)
    assert str(error.value) == (
        "Standard error cannot be written: No space left on device. The run is saved "
        f"at step 32: the same command with --run_dir={run_dir} continues."
    )
    assert checkpoints.latest(run_dir / "checkpoints").name == f"{32:012d}"
    assert loop.train(config, COMMAND) == 0
    assert_same_run(finished("a2c"), run_dir)


def test_a_signal_is_remembered_where_nothing_can_be_said(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.close()
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.exit_status == 143


def test_gradients_that_stay_infinite_stop_the_run(tmp_path, monkeypatch, capfd):
    make_batch = acktr.make_batch

    def with_infinite_target(*arguments):
        batch = make_batch(*arguments)
        return batch._replace(target=batch.target * np.float32("inf"))

    monkeypatch.setattr(acktr, "make_batch", with_infinite_target)
    config = tiny(tmp_path / "run", progress_bar=True)
    with pytest.raises(RunError, match=r"update 10 is not finite.*checkpoint is whole"):
        loop.train(config, COMMAND)
    assert capfd.readouterr().err.count("the step is left out") == 9
    arrays = final_state(tmp_path / "run")
    assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def test_a_single_infinite_gradient_is_left_out(tmp_path, monkeypatch, capfd):
    make_batch, count = a2c.make_batch, 0

    def infinite_once(*arguments):
        nonlocal count
        count += 1
        batch = make_batch(*arguments)
        if count == 4:
            batch = batch._replace(advantage=batch.advantage * np.float32("nan"))
        return batch

    monkeypatch.setattr(a2c, "make_batch", infinite_once)
    config = tiny(tmp_path / "run", progress_bar=True, **QUICK)
    assert loop.train(config, COMMAND) == 0
    assert capfd.readouterr().err.count("the step is left out") == 1
    arrays = final_state(tmp_path / "run")
    assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def test_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", checkpoint_seconds=0.0, **QUICK)
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
            loop.train(config, COMMAND)
    assert final_state(tmp_path / "run")
    assert loop.train(config, COMMAND) == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            MemoryError("Unable to allocate 8. GiB"),
            "ran out: Unable to allocate 8. GiB",
        ),
        (MemoryError(), "ran out: MemoryError. "),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "OOM when allocating tensor with shape[9,9] on /job:x\nNode"
            ),
            "OOM when allocating tensor with shape[9,9]. ",
        ),
    ],
    ids=["python", "python, without words", "tensorflow"],
)
def test_memory_that_runs_out_leaves_the_last_checkpoint_whole(
    tmp_path, monkeypatch, error, said
):
    update = a2c.A2C.update

    def run_out(self, rollout, index, *, measure):
        if index == 5:
            raise error
        return update(self, rollout, index, measure=measure)

    run_dir = tmp_path / "run"
    config = tiny(run_dir, checkpoint_seconds=0.0, **QUICK)
    monkeypatch.setattr(a2c.A2C, "update", run_out)
    with pytest.raises(RunError) as raised:
        loop.train(config, COMMAND)
    message = str(raised.value)
    assert said in message
    assert "\n" not in message
    assert checkpoints.load(checkpoints.latest(run_dir / "checkpoints")).step == 5 * 32


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
ACKTR_FLAGS = ("--flagfile=cartpole.flags",)
SAVED_OFTEN = ("--checkpoint_seconds=0.2",)
# Starts sooner than ACKTR.
A2C_FLAGS = ("--env=CartPole-v1", "--algorithm=a2c", "--hidden_size=8", "--num_envs=8")


# Trains several runs, one after another: to load TensorFlow takes seconds.
TRAIN = """
import sys
from acktr_tf import launch
for run_dir in sys.argv[1].split():
    assert launch.main([*sys.argv[2:], "--run_dir=" + run_dir]) == 0
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, *arguments, "--deterministic"),
            *("--evaluation_period=none", "--env_threads=1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def launch(run_dir: Path, *flags: str) -> subprocess.Popen[str]:
    return start("-m", "acktr_tf.launch", *flags, f"--run_dir={run_dir}")


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    assert process.returncode == 0, output


def saved_step(run_dir: Path) -> int:
    """Step of the newest checkpoint; 0 if there is none yet."""
    names = [path.name for path in (run_dir / "checkpoints").glob("[0-9]*")]
    return max(map(int, names), default=0)


def kill_and_continue(tmp_path: Path, kills: int, *flags: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    moments = random.Random(0)
    for _ in range(kills):
        before = saved_step(killed)
        process = launch(killed, *flags)
        until(lambda before=before: saved_step(killed) > before, process)
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # It had not ended by itself.
    finish(start("-c", TRAIN, f"{killed} {whole}", *flags))
    assert_same_run(whole, killed)


@pytest.mark.parametrize(
    ("vectorization", "sent"),
    [
        ("async", "SIGINT"),
        # Less can go wrong: no processes of environments, or no terminal.
        pytest.param("sync", "SIGINT", marks=pytest.mark.slow),
        pytest.param("async", "SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_interrupt_saves_and_says_how_to_continue(tmp_path, vectorization, sent):
    run_dir = tmp_path / "run"
    process = launch(
        run_dir,
        *A2C_FLAGS,
        "--total_steps=100000000",
        "--checkpoint_seconds=1000",
        "--unroll_length=200",
        f"--vectorization={vectorization}",
    )
    # Episodes are written down after an update: the next one is then collected.
    episodes = run_dir / "episodes.csv"
    until(lambda: episodes.exists() and len(rows(episodes)) > 0, process)
    # A terminal sends Ctrl-C to all processes of a command, those of environments too.
    os.killpg(process.pid, signal.Signals[sent])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.Signals[sent], output
    assert f"--run_dir={run_dir} continues" in output
    assert "Traceback" not in output
    assert saved_step(run_dir) >= 8 * 200  # The first checkpoint is of step 0.


def test_killed_run_continues_as_if_nothing_had_happened(tmp_path):
    flags = ("--unroll_length=32", "--total_steps=16000", *SAVED_OFTEN)
    kill_and_continue(tmp_path, 1, *A2C_FLAGS, *flags)


@pytest.mark.slow
def test_run_killed_at_twenty_moments_continues(tmp_path):
    flags = ("--total_steps=400000", *SAVED_OFTEN)
    kill_and_continue(tmp_path, 20, *ACKTR_FLAGS, *flags)
