"""The scales of a run's observations and rewards, kept and given to the policy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from acktr_tf.config.config import Config
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints
from acktr_tf.training.normalization import RewardScale, RunningMoments
from acktr_tf.types import Rollout

Array = npt.NDArray[Any]


class Scales:
    """Running scales, as far as the settings ask for them.

    Rewards are brought to a scale that has seen them. Observations are normalized by
    what was known when they were acted on; what they teach is for the next rollout.

    Args:
      config: The run's settings.
      policy: What uses them.
    """

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        self._policy = policy
        self._observations = (
            RunningMoments(policy.observations.space.shape)
            if config.normalize_observations
            else None
        )
        self._rewards = (
            RewardScale(config.num_envs, config.discount)
            if config.normalize_rewards
            else None
        )

    @property
    def reward_scale(self) -> float:
        """What rewards are divided by."""
        return self._rewards.scale if self._rewards else 1.0

    def scaled(self, rollout: Rollout) -> Rollout:
        """The rollout with rewards to learn from."""
        if self._rewards is None:
            return rollout
        self._rewards.update(rollout.reward, rollout.terminated | rollout.truncated)
        self._policy.value_scale.assign(self.reward_scale)
        return rollout._replace(
            reward=(rollout.reward / self.reward_scale).astype(np.float32)
        )

    def update(self, rollout: Rollout) -> None:
        """Takes note of the observations of a rollout that was learnt from."""
        if self._observations is None:
            return
        self._observations.update(rollout.observation)
        self._policy.normalize(self._observations.mean, self._observations.deviation)

    def arrays(self) -> dict[str, Array]:
        """All that `restore` needs."""
        return {
            f"{name}/{key}": array
            for name, part in self._parts()
            for key, array in part.arrays().items()
        }

    def restore(self, arrays: dict[str, Array]) -> None:
        """Goes on where `arrays` were taken; the policy has its part already."""
        for name, part in self._parts():
            part.restore(checkpoints.below(name, arrays))

    def _parts(self) -> list[tuple[str, RunningMoments | RewardScale]]:
        parts = [("observations", self._observations), ("rewards", self._rewards)]
        return [(name, part) for name, part in parts if part is not None]
