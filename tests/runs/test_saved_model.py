import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from runs.litert import assert_converts
from runs.policies import (
    CARTPOLE,
    contents,
    environment_of,
    make_policy,
    observations,
)

from acktr_tf.config.config import configure
from acktr_tf.errors import RunError, UserError
from acktr_tf.evaluate import play
from acktr_tf.runs.loaded_policy import is_export, load_policy
from acktr_tf.runs.saved_model import export_policy, replace_export

PONG = configure(env="pong")
KEY = np.array([1, 2], np.int32)


# The SavedModel ---------------------------------------------------------------------


def test_it_loads_with_tensorflow_alone_and_gives_what_the_policy_gives(tmp_path):
    policy = make_policy(PONG)
    export_policy(policy, PONG, tmp_path / "model", {})
    frames = observations(policy, 6)
    np.save(tmp_path / "frames.npy", frames)
    script = (
        "import sys\n"
        "for name in ('acktr_tf', 'keras', 'tf_keras', 'tensorflow_probability'):\n"
        "    sys.modules[name] = None  # Whoever imports it gets an ImportError.\n"
        "import numpy as np, tensorflow as tf\n"
        "try:\n"
        "    import acktr_tf\n"
        "except ImportError:\n"
        "    model = tf.saved_model.load('model')\n"
        "frames = tf.constant(np.load('frames.npy'))\n"
        "greedy = model.signatures['serving_default'](observation=frames)\n"
        "drawn = model.signatures['sample'](observation=frames)\n"
        "np.savez('greedy.npz', **greedy)\n"
        "np.savez('drawn.npz', **drawn)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logits, value = policy(frames)
    with np.load(tmp_path / "greedy.npz") as greedy:
        served = {name: tf.constant(array) for name, array in greedy.items()}
        assert_converts(tmp_path / "model", {"observation": frames}, served)
        assert set(greedy) == {"action", "value", "logits"}
        np.testing.assert_allclose(greedy["logits"], logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(greedy["value"], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(greedy["action"], np.argmax(logits, axis=1))
        assert np.ptp(value) > 0.1
    with np.load(tmp_path / "drawn.npz") as drawn:
        assert set(drawn) == {"action", "value"}
        np.testing.assert_allclose(drawn["value"], value, rtol=1e-5, atol=1e-5)
        assert drawn["action"].shape == (6,)


@pytest.mark.parametrize("rows", [1, 7])
def test_signatures(rows, exported, policy):
    signatures = tf.saved_model.load(str(exported)).signatures
    assert set(signatures) == {"serving_default", "sample"}
    batch = tf.constant(observations(policy, rows))
    for name, extra in [("serving_default", {"logits": [rows, 2]}), ("sample", {})]:
        signature = signatures[name]
        (spec,) = signature.structured_input_signature[1].values()
        assert (spec.name, spec.dtype, spec.shape.as_list()) == (
            "observation",
            tf.float32,
            [None, 4],
        )
        outputs = signature(observation=batch)
        shapes = {key: value.shape.as_list() for key, value in outputs.items()}
        assert shapes == {"action": [rows], "value": [rows], **extra}
        assert outputs["action"].dtype.is_integer


def test_it_converts_to_litert(exported, policy):
    inputs = {"observation": tf.constant(observations(policy, 9))}
    model = tf.saved_model.load(str(exported))
    assert_converts(exported, inputs, model.signatures["serving_default"](**inputs))


def test_sample_draws_from_the_policy(exported, policy):
    sample = tf.saved_model.load(str(exported)).signatures["sample"]
    one = observations(policy, 1)
    share = float(tf.nn.softmax(policy(one).parameters)[0, 1])
    assert 0.05 < share < 0.95
    many = tf.repeat(tf.constant(one), 4000, axis=0)
    drawn = np.mean(sample(observation=many)["action"])
    assert abs(drawn - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_sample_draws_anew_in_each_call_and_each_process(policy, tmp_path):
    # Traced under a global seed, which must not become part of the graph.
    tf.random.set_seed(1)
    export_policy(policy, CARTPOLE, tmp_path / "model", {})
    many = tf.repeat(tf.constant(observations(policy, 1)), 200, axis=0)
    drawn = []
    for _ in range(2):
        # Loaded again, the kernels start as in a new process.
        sample = tf.saved_model.load(str(tmp_path / "model")).signatures["sample"]
        drawn += [sample(observation=many)["action"].numpy() for _ in range(2)]
    assert len({tuple(actions) for actions in drawn}) == 4


def test_actions_are_in_the_numbering_of_the_environment(tmp_path):
    config = configure(env="Numbered-v0", hidden_size=8)
    policy = make_policy(config)
    export_policy(policy, config, tmp_path / "model", {})
    batch = observations(policy, 50)
    indices = np.argmax(policy(batch)[0], axis=1)
    assert len(set(indices)) > 1
    loaded = load_policy(tmp_path / "model")
    served = loaded.signatures["serving_default"](observation=tf.constant(batch))
    np.testing.assert_array_equal(served["action"], indices + 5)
    drawn = loaded.signatures["sample"](observation=tf.constant(batch))["action"]
    assert set(drawn.numpy()) == {5, 6, 7}
    # To play with, observations may be of another float type.
    np.testing.assert_array_equal(
        loaded.predict(batch.astype(np.float64), KEY, deterministic=True), indices + 5
    )
    assert set(loaded.predict(batch.astype(np.float64), KEY)) == {5, 6, 7}
    environments = environment_of(config, 2)
    loaded.check_fits(environments)


class Robot(gymnasium.Env):
    """Observes a key, a switch and an arm; moves two joints by one of some steps."""

    observation_space = gymnasium.spaces.Dict(
        {
            "key": gymnasium.spaces.Discrete(3, start=1),
            "body": gymnasium.spaces.Dict(
                {
                    "arm": gymnasium.spaces.Box(-9, 9, (2, 2), np.float64),
                    "self": gymnasium.spaces.MultiBinary(2),
                }
            ),
        }
    )
    action_space = gymnasium.spaces.MultiDiscrete([3, 4], start=[-1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self._left = 4
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._left -= 1
        reward = float(action[0])
        return self.observation_space.sample(), reward, self._left == 0, False, {}


if "Robot-v0" not in gymnasium.registry:
    gymnasium.register("Robot-v0", Robot)


def test_an_observation_of_several_parts_is_as_many_inputs(tmp_path):
    config = configure(env="Robot-v0", hidden_size=8, normalize_observations=True)
    policy = make_policy(config)
    policy.normalize(np.linspace(-1, 1, 9), np.linspace(1, 2, 9))
    export_policy(policy, config, tmp_path / "model", {})
    space = gymnasium.vector.utils.batch_space(Robot.observation_space, 50)
    space.seed(0)
    raw = space.sample()
    inputs = {
        "key": tf.constant(raw["key"]),
        "body_arm": tf.constant(raw["body"]["arm"], tf.float32),
        "body_self": tf.constant(raw["body"]["self"]),
    }
    model = tf.saved_model.load(str(tmp_path / "model"))
    served = model.signatures["serving_default"](**inputs)
    encoded = policy.observations.encode(raw)
    parameters, value = policy(tf.constant(encoded))
    np.testing.assert_allclose(served["logits"], parameters, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(served["value"], value, rtol=1e-4, atol=1e-5)
    best = [np.argmax(part, axis=1) for part in np.split(parameters, [3], axis=1)]
    np.testing.assert_array_equal(served["action"], np.stack(best, axis=1) - [1, 0])
    assert_converts(tmp_path / "model", inputs, served)
    # Loaded, it plays in environments that give the parts as one vector.
    loaded = load_policy(tmp_path / "model")
    assert set(loaded.input_names) == set(inputs)
    np.testing.assert_array_equal(
        loaded.predict(encoded, KEY, deterministic=True), served["action"]
    )
    scores = play(loaded, greedy=False, games=6, num_envs=2, seed=0, max_steps=9)
    assert len(scores.returns) == 6


@pytest.mark.parametrize("bounds", ["clip", "squash"])
def test_a_policy_of_continuous_actions_has_its_scales_within(tmp_path, bounds):
    config = configure(
        env="Pendulum-v1",
        hidden_size=8,
        normalize_observations=True,
        normalize_rewards=True,
        action_bounds=bounds,
    )
    policy = make_policy(config)
    policy.network.get_layer("policy_free").bias.assign([0.3])
    head = policy.network.get_layer("policy")
    head.kernel.assign(30.0 * head.kernel)
    policy.normalize([0.1, -0.2, 0.5], [0.7, 0.8, 3.0])
    policy.value_scale.assign(40.0)
    export_policy(policy, config, tmp_path / "model", {})
    raw = observations(policy, 60) * 3.0
    inputs = np.clip((raw - [0.1, -0.2, 0.5]) / [0.7, 0.8, 3.0], -10, 10)
    parameters, value = policy.network(inputs.astype(np.float32))
    mean = parameters.numpy()[:, :1]
    assert np.abs(mean).max() > 1.0
    expected = 2.0 * (np.tanh(mean) if bounds == "squash" else np.clip(mean, -1, 1))
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](
        observation=tf.constant(raw)
    )
    np.testing.assert_allclose(served["action"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(served["value"], 40.0 * value[:, 0], rtol=1e-4)
    np.testing.assert_allclose(
        served["mean_and_log_std"], parameters, rtol=1e-4, atol=1e-5
    )
    assert_converts(tmp_path / "model", {"observation": raw}, served)
    loaded = load_policy(tmp_path / "model")
    drawn = loaded.predict(np.repeat(raw[:1], 2000, axis=0), KEY)
    assert np.abs(drawn).max() <= 2.0
    acted = policy.act(np.repeat(raw[:1], 2000, axis=0), KEY)
    np.testing.assert_allclose(drawn, acted.environment_action, rtol=1e-3, atol=1e-4)


def test_a_deterministic_process_exports(tmp_path):
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import tensorflow as tf\n"
        "from pathlib import Path\n"
        "from runs.policies import CARTPOLE, make_policy\n"
        "from acktr_tf.runs.saved_model import export_policy\n"
        "tf.config.experimental.enable_op_determinism()\n"
        "tf.random.set_seed(0)\n"
        f"export_policy(make_policy(CARTPOLE), CARTPOLE, Path({str(tmp_path)!r}), {{}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Assets written" not in done.stderr
    load_policy(tmp_path)


# Writing ----------------------------------------------------------------------------


def test_a_model_that_does_not_give_the_policys_outputs_is_not_exported(
    policy, tmp_path, monkeypatch
):
    other = make_policy(configure(env="CartPole-v1", hidden_size=8, seed=1))
    export_policy(other, CARTPOLE, tmp_path / "other", {})
    wrong = tf.saved_model.load(str(tmp_path / "other"))
    before = contents(tmp_path)
    monkeypatch.setattr(tf.saved_model, "load", lambda path: wrong)
    with pytest.raises(RunError, match="does not give what the policy itself gives"):
        export_policy(policy, CARTPOLE, tmp_path / "other", {})
    with pytest.raises(RunError):
        export_policy(policy, CARTPOLE, tmp_path / "new", {})
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["other"]


def test_a_policy_that_is_not_finite_is_not_exported(tmp_path):
    policy = make_policy(CARTPOLE)
    policy.network.get_layer("value").bias.assign([np.nan])
    with pytest.raises(RunError, match="not finite"):
        export_policy(policy, CARTPOLE, tmp_path / "model", {})
    assert os.listdir(tmp_path) == []


def write_something(text):
    def write(target):
        (target / "saved_model.pb").write_text(text)
        (target / "config.json").write_text(text)

    return write


def test_an_earlier_export_is_replaced_whole_and_its_best_stays(tmp_path):
    directory = tmp_path / "a" / "export"
    replace_export(directory / "best", write_something("best"))
    assert not is_export(directory)
    replace_export(directory, write_something("first"))
    (directory / "README.md").write_text("the card of the first")
    replace_export(directory, write_something("second"))
    assert contents(directory) == {
        "saved_model.pb": b"second",
        "config.json": b"second",
        "best/saved_model.pb": b"best",
        "best/config.json": b"best",
    }
    assert os.listdir(tmp_path / "a") == ["export"]


def test_what_a_link_leads_to_is_replaced(tmp_path):
    disk, link = tmp_path / "disk", tmp_path / "export"
    replace_export(disk, write_something("first"))
    link.symlink_to(disk)
    for text in ("second", "third"):
        replace_export(link, write_something(text))
        assert (disk / "saved_model.pb").read_text() == text
        assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["disk", "export"]


class Grid(gymnasium.Env):
    """Observes whole numbers."""

    observation_space = gymnasium.spaces.Box(0, 9, (2,), np.int32)
    action_space = gymnasium.spaces.Discrete(3)


@pytest.mark.parametrize("normalize", [True, False])
def test_integers_are_served_as_they_are_learnt_from(tmp_path, normalize):
    gymnasium.register("Grid-v0", Grid, disable_env_checker=True)
    config = configure(env="Grid-v0", hidden_size=8, normalize_observations=normalize)
    policy = make_policy(config)
    if normalize:
        policy.normalize([4.0, 5.0], [2.0, 3.0])
    export_policy(policy, config, tmp_path / "model", {})
    del gymnasium.registry["Grid-v0"]
    model = tf.saved_model.load(str(tmp_path / "model"))
    raw = np.array([[0, 9], [7, 3]], np.int32)
    served = model.signatures["serving_default"](observation=tf.constant(raw))
    parameters, _ = policy(policy.tensor(raw))
    np.testing.assert_allclose(served["logits"], parameters, rtol=1e-5, atol=1e-6)


class Watcher(Robot):
    """Observes a small picture, a grid and numbers, some of them in bytes."""

    observation_space = gymnasium.spaces.Dict(
        {
            "camera": gymnasium.spaces.Box(0, 255, (28, 28, 3), np.uint8),
            "cells": gymnasium.spaces.Box(0, 255, (4, 5, 2), np.uint8),
            "gauge": gymnasium.spaces.Box(0, 255, (3,), np.uint8),
            "glow": gymnasium.spaces.Box(0, 1, (28, 30), np.float64),
        }
    )


def test_pictures_among_other_parts_are_inputs_of_their_own_type(tmp_path):
    gymnasium.register("Watcher-v0", Watcher, disable_env_checker=True)
    config = configure(env="Watcher-v0", normalize_observations=True)
    policy = make_policy(config)
    numbers = 4 * 5 * 2 + 3
    policy.normalize(np.linspace(1, 9, numbers), np.linspace(10, 90, numbers))
    export_policy(policy, config, tmp_path / "model", {})
    space = gymnasium.vector.utils.batch_space(Watcher.observation_space, 5)
    space.seed(0)
    raw = space.sample()
    inputs = {name: tf.constant(array) for name, array in raw.items()}
    inputs["glow"] = tf.cast(inputs["glow"], tf.float32)
    assert inputs["camera"].dtype == inputs["gauge"].dtype == tf.uint8
    served = load_policy(tmp_path / "model").signatures["serving_default"](**inputs)
    parameters, value = policy(policy.observations.encode(raw))
    np.testing.assert_allclose(served["logits"], parameters, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(served["value"], value, rtol=1e-4, atol=1e-4)
    scores = play(
        load_policy(tmp_path / "model"),
        greedy=False,
        games=2,
        num_envs=2,
        seed=0,
        max_steps=9,
    )
    del gymnasium.registry["Watcher-v0"]
    assert len(scores.returns) == 2


def test_nothing_else_is_overwritten(tmp_path):
    def never(target):
        raise AssertionError

    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="file is not a directory"):
        replace_export(file, never)
    with pytest.raises(UserError, match="must be a directory that can be written"):
        replace_export(file / "below", never)
    with pytest.raises(UserError, match="holds file, which is not of an export"):
        replace_export(tmp_path, never)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").touch()
    with pytest.raises(UserError, match="something else than an export"):
        replace_export(tmp_path / "docs", never)
    export = tmp_path / "export"
    replace_export(export, write_something("first"))
    (export / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        replace_export(export, write_something("second"))
    assert (export / "saved_model.pb").read_text() == "first"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    ],
)
def test_a_full_disk_leaves_the_earlier_export(error, tmp_path):
    directory = tmp_path / "export"
    replace_export(directory, write_something("first"))

    def full(target):
        write_something("second")(target)
        raise error

    with pytest.raises(RunError, match="No space left on device"):
        replace_export(directory, full)
    assert (directory / "saved_model.pb").read_text() == "first"
    assert os.listdir(tmp_path) == ["export"]


def test_a_second_rename_that_fails_is_undone(tmp_path, monkeypatch):
    directory = tmp_path / "export"
    replace_export(directory, write_something("first"))
    rename = os.rename

    def fail_once(source, target):
        if source.name == ".saving-export":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(RunError, match="Input/output error"):
        replace_export(directory, write_something("second"))
    assert (directory / "saved_model.pb").read_text() == "first"
    assert os.listdir(tmp_path) == ["export"]


def test_killed_exports_are_cleaned_up_and_nothing_is_lost(tmp_path):
    directory = tmp_path / "export"
    replace_export(directory / "best", write_something("best"))
    replace_export(directory, write_something("first"))
    # Killed between the two renames, of the export and earlier of its best.
    (directory / ".saving-best").mkdir()
    os.rename(directory / "best", directory / ".replaced-best")
    (tmp_path / ".saving-export").mkdir()
    os.rename(directory, tmp_path / ".replaced-export")

    def fail(target):
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError):
        replace_export(directory, fail)
    assert (directory / "saved_model.pb").read_text() == "first"
    assert (directory / "best" / "saved_model.pb").read_text() == "best"
    replace_export(directory, write_something("second"))
    assert sorted(os.listdir(directory)) == ["best", "config.json", "saved_model.pb"]
    assert os.listdir(tmp_path) == ["export"]
