"""Exports of policies with action masks and composed actions: inputs, draws, games."""

import json

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.spaces import Discrete, MultiDiscrete
from masked import LENGTH, Locks, choices_of, random_masks
from runs.policies import environment_of, make_policy

from acktr_tf.config.config import configure
from acktr_tf.evaluate import play
from acktr_tf.runs.loaded_policy import load_policy
from acktr_tf.runs.saved_model import export_policy

KEY = np.array([1, 2], np.int32)
PAIR = spaces.Tuple([Discrete(3), MultiDiscrete([2, 4], start=[5, -1])])
CONFIG = configure(
    env="LocksPair-v0",
    action_mask="doors",
    hidden_size=8,
    normalize_observations=True,
)
CHOICES = choices_of(PAIR)
SIZES = [n for n, _ in CHOICES]
STARTS = np.array([start for _, start in CHOICES])

if "LocksPair-v0" not in gymnasium.registry:
    options = {"action_space": PAIR, "where": "info", "nested": True}
    gymnasium.register("LocksPair-v0", Locks, kwargs=options)


@pytest.fixture(scope="module")
def policy():
    policy = make_policy(CONFIG)
    policy.normalize([2.0, 0.5], [1.5, 3.0])
    return policy


@pytest.fixture(scope="module")
def loaded(policy, tmp_path_factory):
    directory = tmp_path_factory.mktemp("masked") / "model"
    export_policy(policy, CONFIG, directory, {})
    return load_policy(directory)


def batch(rows, seed=0):
    """Clocks `[rows, 2]` and masks `[rows, 9]` int8."""
    random = np.random.default_rng(seed)
    masks = np.concatenate([random_masks(rows, n, random) for n in SIZES], axis=1)
    return random.normal(size=(rows, 2)).astype(np.float32), masks


def allowed(actions, masks):
    """Where actions `[N, 3]` of the environment are allowed in every choice."""
    columns = actions - STARTS + np.cumsum([0, *SIZES[:-1]])
    return np.take_along_axis(masks, columns, axis=1).all(axis=1)


def test_the_mask_is_an_input_of_its_own(loaded, policy):
    serve = loaded.signatures["serving_default"]
    inputs = serve.structured_input_signature[1]
    assert {name: (spec.dtype, spec.shape[1:]) for name, spec in inputs.items()} == {
        "observation": (tf.float32, [2]),
        "doors": (tf.int8, [9]),
    }
    clock, masks = batch(300)
    served = serve(observation=tf.constant(clock), doors=tf.constant(masks))
    encoded = np.concatenate([clock, masks], axis=1).astype(np.float32)
    # One array, a column per choice in the order of the tuple, from its start.
    assert served["action"].dtype == tf.int64
    np.testing.assert_array_equal(served["action"], policy.mode(encoded))
    assert allowed(served["action"].numpy(), masks).all()
    np.testing.assert_allclose(
        served["logits"], policy(tf.constant(encoded)).parameters, rtol=1e-5
    )
    everything = serve(
        observation=tf.constant(clock), doors=tf.ones_like(tf.constant(masks))
    )
    assert not allowed(everything["action"].numpy(), masks).all()
    np.testing.assert_allclose(served["value"], everything["value"], rtol=1e-6)


def test_the_document_describes_what_the_environment_has(loaded):
    document = json.loads(json.dumps(loaded.document))
    assert document["action"]["type"] == "Tuple"
    kinds = {key: part["type"] for key, part in document["observation"]["spaces"]}
    assert kinds == {"observation": "Box", "doors": "ActionMask"}
    assert loaded.input_names == ["observation", "doors"]
    environments = environment_of(CONFIG, 2)
    loaded.check_fits(environments)


def test_a_loaded_policy_acts_as_the_policy(loaded, policy):
    clock, masks = batch(200)
    encoded = np.concatenate([clock, masks], axis=1).astype(np.float32)
    for deterministic in (True, False):
        np.testing.assert_array_equal(
            loaded.predict(encoded, KEY, deterministic=deterministic),
            policy.predict(encoded, KEY, deterministic=deterministic),
        )


@pytest.mark.parametrize("n", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_no_forbidden_action_is_ever_drawn(loaded, n):
    rows = 10_000
    sample = loaded.signatures["sample"]
    for i in range(n // rows):
        clock, masks = batch(rows, seed=i)
        encoded = np.concatenate([clock, masks], axis=1).astype(np.float32)
        drawn = loaded.predict(encoded, np.array([i, 3], np.int32))
        assert allowed(drawn, masks).all()
        served = sample(observation=tf.constant(clock), doors=tf.constant(masks))
        assert allowed(served["action"].numpy(), masks).all()


@pytest.mark.parametrize(
    ("games", "greedy"),
    [(40, True), (40, False), pytest.param(20_000, False, marks=pytest.mark.slow)],
)
def test_games_are_played_by_what_is_allowed(loaded, games, greedy):
    """The environment raises where an action is forbidden."""
    scores = play(
        loaded,
        greedy=greedy,
        games=games,
        num_envs=min(games, 256),
        seed=3,
        max_steps=100,
    )
    assert scores.steps == games * LENGTH
    # Of two doors that are not locked, one is the last.
    assert 0.3 * LENGTH < scores.mean < LENGTH
