"""Problems small enough to learn in seconds, whose answers are known."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from acktr_tf.algorithms import Algorithm, Batch, make_algorithm, make_batch
from acktr_tf.config import Config
from acktr_tf.environments import VectorEnvironment
from acktr_tf.environments.vector import Array
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training.collector import Collector

NUM_ACTIONS = 3


class Identity(VectorEnvironment):
    """Shows one of three symbols and pays 1 for naming it, over and over."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(
            "Identity-v0",
            num_envs,
            Box(0.0, 1.0, (NUM_ACTIONS,), np.float32),
            Discrete(NUM_ACTIONS),
            lambda environment, episode: environment,
        )
        self._random = np.random.default_rng(0)

    def _show(self) -> Array:
        self._symbol = self._random.integers(0, NUM_ACTIONS, self.num_envs)
        return np.eye(NUM_ACTIONS, dtype=np.float32)[self._symbol]

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        return self._show()

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        reward = (actions == self._symbol).astype(np.float64)
        never = np.zeros(self.num_envs, np.bool_)
        return self._show(), reward, never, never

    def render(self) -> list[Array]:
        raise NotImplementedError

    def close(self) -> None:
        pass


class ConstantReward(VectorEnvironment):
    """Always looks the same and pays 1; a time limit cuts episodes off."""

    def __init__(self, num_envs: int, limit: int) -> None:
        super().__init__(
            "ConstantReward-v0",
            num_envs,
            Box(0.0, 1.0, (2,), np.float32),
            Discrete(2),
            lambda environment, episode: environment,
        )
        self._limit = limit
        self._count = np.zeros(num_envs, np.int64)

    def _observations(self) -> Array:
        return np.ones((self.num_envs, 2), np.float32)

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        self._count[mask] = 0
        return self._observations()

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        self._count += 1
        return (
            self._observations(),
            np.ones(self.num_envs),
            np.zeros(self.num_envs, np.bool_),
            self._count >= self._limit,
        )

    def render(self) -> list[Array]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def learn(
    config: Config,
    environments: VectorEnvironment,
    updates: int,
    truncation_terminates: bool = False,
) -> tuple[ActorCritic, list[float]]:
    """The learnt policy, and the mean reward of each rollout on the way.

    Args:
      config: Settings of the run.
      environments: What to learn.
      updates: How many.
      truncation_terminates: Takes a time limit for a terminal state, which is wrong.
    """
    policy, algorithm = make(
        config, environments.observation_space, environments.action_space
    )
    collector = Collector(
        policy, environments, config.unroll_length, config.seed, environments.reset()
    )
    rewards = []
    for update in range(updates):
        rollout = collector.collect(update * config.batch_size).rollout
        if truncation_terminates:
            rollout = rollout._replace(
                terminated=rollout.terminated | rollout.truncated,
                truncated=np.zeros_like(rollout.truncated),
            )
        batch = make_batch(
            rollout,
            config.discount,
            config.gae_lambda,
            config.value_target_lambda,
        )
        scalars = algorithm.update(batch, update, measure=False)
        assert scalars["finite"] == 1.0
        rewards.append(float(rollout.reward.mean()))
    return policy, rewards


def make(
    config: Config, observation_space: Box | None = None, action_space: Any = None
) -> tuple[ActorCritic, Algorithm]:
    policy = ActorCritic(
        config,
        observation_space or Box(-np.inf, np.inf, (4,), np.float32),
        action_space or Discrete(NUM_ACTIONS),
    )
    return policy, make_algorithm(config, policy)


def random_batch(config: Config, seed: int = 0) -> Batch:
    """A batch for the spaces that `make` takes by default."""
    random = np.random.default_rng(seed)
    n = config.batch_size
    return Batch(
        random.normal(size=(n, 4)).astype(np.float32),
        random.integers(0, NUM_ACTIONS, n).astype(np.int32),
        random.normal(size=n).astype(np.float32),
        (3.0 * random.normal(size=n)).astype(np.float32),
    )


def arrays(variables: list[Any]) -> list[npt.NDArray[Any]]:
    return [np.array(variable.numpy()) for variable in variables]
