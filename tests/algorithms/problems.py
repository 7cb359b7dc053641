"""Problems small enough to learn in seconds, whose answers are known."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from acktr_tf.algorithms import Learner, make_learner
from acktr_tf.config import Config
from acktr_tf.environments import VectorEnvironment
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training.collector import Collector
from acktr_tf.types import Array, Rollout

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
    policy, learner = make(
        config, environments.observation_space, environments.action_space
    )
    collector = Collector(
        learner,
        environments,
        config.run.unroll_length,
        config.run.seed,
        environments.reset(),
    )
    rewards = []
    for update in range(updates):
        rollout = collector.collect(update * config.batch_size).rollout
        if truncation_terminates:
            rollout = rollout._replace(
                terminated=rollout.terminated | rollout.truncated,
                truncated=np.zeros_like(rollout.truncated),
            )
        assert learner.update(rollout, update, measure=False).applied
        rewards.append(float(rollout.reward.mean()))
    return policy, rewards


def make(
    config: Config, observation_space: Box | None = None, action_space: Any = None
) -> tuple[ActorCritic, Any]:
    """The policy and the learner of `config`, by default for `random_rollout`."""
    policy = ActorCritic(
        config.policy,
        observation_space or Box(-np.inf, np.inf, (4,), np.float32),
        action_space or Discrete(NUM_ACTIONS),
        config.run.seed,
    )
    learner: Learner = make_learner(config, policy)
    return policy, learner


def random_rollout(config: Config, seed: int = 0) -> Rollout:
    """A rollout for the spaces that `make` takes by default.

    Half of the steps end an episode.
    """
    random = np.random.default_rng(seed)
    shape = (config.run.unroll_length, config.environment.num_envs)
    return Rollout(
        observation=random.normal(size=(*shape, 4)).astype(np.float32),
        action=random.integers(0, NUM_ACTIONS, shape).astype(np.int32),
        reward=(3.0 * random.normal(size=shape)).astype(np.float32),
        terminated=random.random(shape) < 0.5,
        truncated=np.zeros(shape, np.bool_),
        value=(2.0 * random.normal(size=shape)).astype(np.float32),
        final_value=np.zeros(shape, np.float32),
        last_value=random.normal(size=shape[1:]).astype(np.float32),
    )


def arrays(variables: list[Any]) -> list[npt.NDArray[Any]]:
    return [np.array(variable.numpy()) for variable in variables]
