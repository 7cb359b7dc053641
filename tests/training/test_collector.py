"""Rollouts of environments that follow a script and check what they are given."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.spaces import Box, Discrete

from acktr_tf.algorithms import make_learner
from acktr_tf.config import configure
from acktr_tf.environments import VectorEnvironment
from acktr_tf.errors import RunError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training.collector import Collector
from acktr_tf.types import Array

NUM_ENVS = 3
NUM_ACTIONS = 4
STEPS = 5
SEED = 8

# Of each environment: after how many steps its episodes end, and how.
SCRIPT = [(3, "terminated"), (4, "truncated"), (2, "both")]


class Scripted(VectorEnvironment):
    """Observes [environment, episode, steps in it]; the reward is ten times the last.

    Refuses actions that are not `[B]` of the space.
    """

    def __init__(self, dtype: type = np.float64) -> None:
        super().__init__(
            "Scripted-v0",
            NUM_ENVS,
            Box(-np.inf, np.inf, (3,), dtype),
            Discrete(NUM_ACTIONS),
            lambda environment, episode: 1000 * environment + episode,
        )
        self._dtype = dtype
        self._episode = np.zeros(NUM_ENVS, np.int64)
        self._count = np.zeros(NUM_ENVS, np.int64)
        self.received: list[Array] = []

    def _observations(self) -> Array:
        return np.stack(
            [np.arange(NUM_ENVS), self._episode, self._count], axis=1
        ).astype(self._dtype)

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        assert mask.shape == (NUM_ENVS,)
        assert seeds.shape == (mask.sum(),)
        assert (seeds // 1000 == np.flatnonzero(mask)).all()
        self._episode[mask] = seeds % 1000
        self._count[mask] = 0
        return self._observations()

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        assert actions.shape == (NUM_ENVS,)
        assert all(self.action_space.contains(action) for action in actions)
        self.received.append(actions.copy())
        self._count += 1
        over = self._count == [length for length, _ in SCRIPT]
        hows = np.array([how for _, how in SCRIPT])
        terminated = over & np.isin(hows, ["terminated", "both"])
        truncated = over & np.isin(hows, ["truncated", "both"])
        return self._observations(), 10.0 * self._count, terminated, truncated

    def render(self) -> list[Array]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def make(
    environments: VectorEnvironment, seed: int = SEED
) -> tuple[ActorCritic, Collector]:
    config = configure(algorithm="a2c", hidden_size=8, seed=SEED)
    policy = ActorCritic(
        config.policy, environments.observation_space, environments.action_space, SEED
    )
    learner = make_learner(config, policy)
    collector = Collector(learner, environments, STEPS, seed, environments.reset())
    return policy, collector


def expected(first: int) -> dict[str, Any]:
    """Steps `first` to `first + STEPS` of the script, worked out step by step."""
    arrays: dict[str, Any] = {
        name: np.zeros((STEPS, NUM_ENVS), np.bool_)
        for name in ["terminated", "truncated"]
    }
    arrays["observation"] = np.zeros((STEPS, NUM_ENVS, 3))
    arrays["reward"] = np.zeros((STEPS, NUM_ENVS))
    arrays["final"] = np.zeros((STEPS, NUM_ENVS, 3))
    arrays["episodes"] = []
    for t in range(STEPS):
        for b, (length, how) in enumerate(SCRIPT):
            episode, count = divmod(first + t, length)
            arrays["observation"][t, b] = b, episode, count
            arrays["reward"][t, b] = 10 * (count + 1)
            arrays["final"][t, b] = b, episode, count + 1
            if count + 1 == length:
                # Both at once is an end: the state reached has no future.
                arrays["truncated" if how == "truncated" else "terminated"][t, b] = True
                score = 10 * length * (length + 1) / 2
                ended_at = (first + t + 1) * NUM_ENVS
                arrays["episodes"].append((ended_at, (score, length)))
    return arrays


def test_what_is_collected_is_what_happened() -> None:
    environments = Scripted()
    policy, collector = make(environments)
    for update in range(3):
        first = update * STEPS
        collected = collector.collect(step=first * NUM_ENVS)
        rollout, script = collected.rollout, expected(first)
        assert np.array_equal(rollout.observation, script["observation"])
        assert np.array_equal(rollout.reward, script["reward"])
        assert np.array_equal(rollout.terminated, script["terminated"])
        assert np.array_equal(rollout.truncated, script["truncated"])
        assert np.array_equal(rollout.action, environments.received[first:])
        assert collected.episodes == script["episodes"]

        def value(observation: Array) -> Array:
            flat = observation.reshape(-1, 3).astype(np.float32)
            return policy.value(flat).numpy().reshape(observation.shape[:-1])

        np.testing.assert_allclose(
            rollout.value, value(script["observation"]), rtol=1e-5
        )
        np.testing.assert_allclose(
            rollout.final_value,
            np.where(script["truncated"], value(script["final"]), 0.0),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            rollout.last_value,
            value(expected(first + STEPS)["observation"][0]),
            rtol=1e-5,
        )
        assert len(np.unique(rollout.value)) > 10
    # Environment 1 reaches its limit at steps 3, 7 and 11 of the 15.
    assert script["truncated"].sum() == 1


def test_shapes_and_types() -> None:
    _, collector = make(Scripted())
    rollout = collector.collect(0).rollout
    assert {
        name: (array.shape, array.dtype.name)
        for name, array in rollout._asdict().items()
    } == {
        "observation": ((STEPS, NUM_ENVS, 3), "float32"),
        "action": ((STEPS, NUM_ENVS), "int32"),
        "reward": ((STEPS, NUM_ENVS), "float32"),
        "terminated": ((STEPS, NUM_ENVS), "bool"),
        "truncated": ((STEPS, NUM_ENVS), "bool"),
        "value": ((STEPS, NUM_ENVS), "float32"),
        "final_value": ((STEPS, NUM_ENVS), "float32"),
        "last_value": ((NUM_ENVS,), "float32"),
    }


def test_actions_are_decided_by_seed_and_step() -> None:
    actions = {}
    for name, seed, step in [
        ("first", 1, 0),
        ("again", 1, 0),
        ("other step", 1, STEPS * NUM_ENVS),
        ("other seed", 2, 0),
    ]:
        _, collector = make(Scripted(), seed)
        actions[name] = collector.collect(step).rollout.action.copy()
    assert np.array_equal(actions["first"], actions["again"])
    assert not np.array_equal(actions["first"], actions["other step"])
    assert not np.array_equal(actions["first"], actions["other seed"])


def test_no_two_steps_of_a_run_draw_alike() -> None:
    """A key is used once: at steps that follow each other, within a rollout or not."""
    environments = Scripted()
    policy, collector = make(environments)
    policy.network.get_layer("policy").kernel.assign(np.zeros((8, NUM_ACTIONS)))
    for update in range(40):
        collector.collect(update * STEPS * NUM_ENVS)
    rows = np.stack(environments.received)
    # The chance of two alike, of 4³, is 1/64: 200 steps have about 3 in a row.
    assert (rows[1:] == rows[:-1]).all(axis=1).sum() < 12
    assert (rows[STEPS:] == rows[:-STEPS]).all(axis=1).sum() < 12


def test_time_is_split_between_acting_and_environments() -> None:
    _, collector = make(Scripted())
    collected = collector.collect(0)
    assert collected.seconds.keys() == {"acting", "environments"}
    assert min(collected.seconds.values()) > 0


def test_a_fault_of_the_simulator_comes_through() -> None:
    environments = Scripted()
    _, collector = make(environments)
    collector.collect(0)

    def die(actions: Array) -> Any:
        raise OSError("gone")

    environments._step_all = die  # type: ignore[method-assign]
    with pytest.raises(RunError, match="Scripted-v0 failed at step 5"):
        collector.collect(STEPS * NUM_ENVS)
