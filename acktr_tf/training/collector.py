"""Collects rollouts: T steps of B environments under the policy."""

import time
from typing import NamedTuple

import numpy as np

from acktr_tf.algorithms import Learner
from acktr_tf.environments import VectorEnvironment
from acktr_tf.random_keys import KeyStream
from acktr_tf.types import Array, Episode, Rollout


class Collected(NamedTuple):
    """Rollout and what happened on the way.

    Attributes:
      rollout: The steps. Its arrays are reused by the next call of `collect`.
      episodes: Step of the run at which each game ended, and the game.
      seconds: Wall time of the phases `acting` and `environments`.
    """

    rollout: Rollout
    episodes: list[tuple[int, Episode]]
    seconds: dict[str, float]


class Collector:
    """Collects rollouts, each from where the last one ended.

    Args:
      learner: Chooses the actions.
      environments: The environments, `B` of them.
      unroll_length: `T`.
      seed: The run's seed.
      observation: `[B, ...]`, what to act on first.
    """

    def __init__(
        self,
        learner: Learner,
        environments: VectorEnvironment,
        unroll_length: int,
        seed: int,
        observation: Array,
    ) -> None:
        self._learner = learner
        policy = learner.policy
        self._environments = environments
        self._observation = observation
        self._keys = KeyStream(seed, "acting")
        time_and_batch = (unroll_length, environments.num_envs)
        self._observations = np.empty(
            (*time_and_batch, *observation.shape[1:]),
            policy.observation_spec.dtype.as_numpy_dtype,
        )
        action = policy.action_distribution.spec
        self._actions = np.empty(
            (*time_and_batch, *action.shape), action.dtype.as_numpy_dtype
        )
        self._rewards = np.empty(time_and_batch, np.float32)
        self._terminated = np.empty(time_and_batch, np.bool_)
        self._truncated = np.empty(time_and_batch, np.bool_)
        self._values = np.empty(time_and_batch, np.float32)
        self._final_values = np.empty(time_and_batch, np.float32)

    def collect(self, step: int) -> Collected:
        """Acts for `T` steps.

        Args:
          step: Agent steps of the run so far; it decides the random draws.

        Raises:
          RunError: The simulator failed.
        """
        unroll_length, num_envs = self._rewards.shape
        episodes = []
        environment_seconds = 0.0
        start = time.perf_counter()
        for t in range(unroll_length):
            self._observations[t] = self._observation
            acted = self._learner.act(
                self._observations[t],
                self._keys.key(step // num_envs + t),
            )
            self._actions[t] = acted.action.numpy()
            self._values[t] = acted.value.numpy()
            environment_action = acted.environment_action.numpy()
            before = time.perf_counter()
            result = self._environments.step(environment_action)
            environment_seconds += time.perf_counter() - before
            self._observation = result.observation
            self._rewards[t] = result.reward
            self._terminated[t] = result.terminated
            self._truncated[t] = result.truncated
            self._final_values[t] = self._value_where_truncated(
                result.final_observation, result.truncated
            )
            ended_at = step + (t + 1) * num_envs
            episodes += [(ended_at, episode) for episode in result.episodes]
        last_value = self._learner.policy.value(self._observation).numpy()
        rollout = Rollout(
            self._observations,
            self._actions,
            self._rewards,
            self._terminated,
            self._truncated,
            self._values,
            self._final_values,
            last_value,
        )
        seconds = time.perf_counter() - start
        return Collected(
            rollout,
            episodes,
            {
                "acting": seconds - environment_seconds,
                "environments": environment_seconds,
            },
        )

    def _value_where_truncated(
        self, final_observation: Array | None, truncated: Array
    ) -> Array:
        """Returns V of final observations where truncated, 0 elsewhere, `[B]`."""
        if final_observation is None:
            return np.zeros(len(truncated), np.float32)
        value = self._learner.policy.value(final_observation).numpy()
        return np.where(truncated, value, np.float32(0.0))
