"""T steps of B environments under the policy."""

import time
from typing import NamedTuple

import numpy as np

from acktr_tf.environments import VectorEnvironment
from acktr_tf.environments.vector import Array
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.random_keys import KeyStream
from acktr_tf.types import Episode, Rollout


class Collected(NamedTuple):
    """A rollout and what happened on the way.

    Attributes:
      rollout: The steps. Its arrays are reused by the next call of `collect`.
      episodes: Step of the run at which each game ended, and the game.
      acting_seconds: Time spent in the policy.
      environment_seconds: Time spent in the environments.
    """

    rollout: Rollout
    episodes: list[tuple[int, Episode]]
    acting_seconds: float
    environment_seconds: float


class Collector:
    """Collects rollouts, going on where the last one ended.

    Args:
      policy: The policy to act with.
      environments: The environments, `B` of them.
      unroll_length: `T`.
      seed: The run's seed.
      observation: `[B, ...]`, what to act on first.
    """

    def __init__(
        self,
        policy: ActorCritic,
        environments: VectorEnvironment,
        unroll_length: int,
        seed: int,
        observation: Array,
    ) -> None:
        self._policy = policy
        self._environments = environments
        self._observation = observation
        self._keys = KeyStream(seed, "acting")
        time_and_batch = (unroll_length, environments.num_envs)
        self._observations = np.empty(
            (*time_and_batch, *observation.shape[1:]),
            policy.observation_spec.dtype.as_numpy_dtype,
        )
        action = policy.actions.spec
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
            acted = self._policy.act(
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
        last_value = self._policy.value(self._observation).numpy()
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
            rollout, episodes, seconds - environment_seconds, environment_seconds
        )

    def _value_where_truncated(
        self, final_observation: Array | None, truncated: Array
    ) -> Array:
        """V of the observations that episodes were cut off at, 0 elsewhere, `[B]`."""
        if final_observation is None:
            return np.zeros(len(truncated), np.float32)
        value = self._policy.value(final_observation).numpy()
        return np.where(truncated, value, np.float32(0.0))
