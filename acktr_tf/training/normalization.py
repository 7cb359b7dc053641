"""Running normalization of observations and rewards.

The sums are NumPy float64 on the host; what the networks use of them is set between two
updates, so that a batch is learnt from in the scale in which it was acted on.
"""

import numpy as np

from acktr_tf.config.policy import PolicySettings
from acktr_tf.config.returns import ReturnsSettings
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.states import (
    State,
    Stateful,
    checked_array,
    checked_number,
    load_states,
    states,
)
from acktr_tf.types import Array, Rollout

EPSILON = 1e-8


class RunningMoments:
    """Mean and variance of all rows seen so far (Chan et al. 1979, eq. 2.1).

    Args:
      shape: Shape of a row.

    Attributes:
      count: Rows seen.
      mean: `shape` float64; zero before the first row.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0.0
        self.mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    @property
    def variance(self) -> Array:
        """`shape` float64, divisor `count`; one before the first row."""
        if self.count == 0:
            return np.ones_like(self.mean)
        return self._squares / self.count

    @property
    def deviation(self) -> Array:
        """Root of the variance, or 1 where that is zero: what never varied stays."""
        deviation = np.sqrt(self.variance)
        return np.where(deviation > EPSILON, deviation, 1.0)

    def update(self, rows: Array) -> None:
        """Adds rows `[..., *shape]`."""
        rows = np.asarray(rows, np.float64).reshape(-1, *self.mean.shape)
        count = len(rows)
        if count == 0:
            return
        mean = rows.mean(axis=0)
        squares = np.square(rows - mean).sum(axis=0)
        total = self.count + count
        delta = mean - self.mean
        self._squares = (
            self._squares + squares + np.square(delta) * (self.count * count / total)
        )
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def state(self) -> dict[str, Array]:
        """Returns the sums; see `acktr_tf.states`."""
        return {
            "count": np.array(self.count),
            "mean": np.array(self.mean),
            "squares": np.array(self._squares),
        }

    def load_state(self, state: State) -> None:
        """Loads what `state` returned.

        Raises:
          StateError: It is not the state of moments of such rows.
        """
        shape = self.mean.shape
        self.count = checked_number(state, "count", "f", 0)
        self.mean = checked_array(state, "mean", "f", shape).copy()
        self._squares = checked_array(state, "squares", "f", shape, 0).copy()


class RewardScale:
    """Divides rewards by the standard deviation of the discounted return so far.

        G_t = γ (1 − ended_{t−1}) G_{t−1} + r_t

    over all steps and environments (Engstrom et al. 2020, appendix A.1).

    Args:
      num_envs: `B`.
      discount: γ.
    """

    def __init__(self, num_envs: int, discount: float) -> None:
        self.moments = RunningMoments()
        self._discount = discount
        self._returns = np.zeros(num_envs)

    def update(self, reward: Array, ended: Array) -> None:
        """Adds the rewards and ends `[T, B]` of one rollout."""
        returns = np.empty(reward.shape)
        for t in range(len(reward)):
            self._returns = self._discount * self._returns + reward[t]
            returns[t] = self._returns
            self._returns = np.where(ended[t], 0.0, self._returns)
        self.moments.update(returns)

    @property
    def scale(self) -> float:
        """Number that rewards are divided by; 1 until returns have varied."""
        return float(self.moments.deviation)

    def state(self) -> dict[str, Array]:
        """Returns the sums; see `acktr_tf.states`."""
        return {**self.moments.state(), "returns": self._returns.copy()}

    def load_state(self, state: State) -> None:
        """Loads what `state` returned.

        Raises:
          StateError: It is not the state of as many environments.
        """
        self.moments.load_state(state)
        shape = self._returns.shape
        self._returns = checked_array(state, "returns", "f", shape).copy()


class RunningNormalization:
    """Running normalization of a run, as far as the settings ask for it.

    Rewards are divided by a scale that has seen them. Observations are normalized by
    what was known when they were acted on; new statistics apply from the next rollout.

    Args:
      policy_settings: Whether observations are normalized.
      returns: Whether rewards are, and their discount.
      num_envs: `B`.
      policy: Policy that applies both.
    """

    def __init__(
        self,
        policy_settings: PolicySettings,
        returns: ReturnsSettings,
        num_envs: int,
        policy: ActorCritic,
    ) -> None:
        self._policy = policy
        # Pictures among the numbers are left out: their moments would cost most.
        self._all = bool(policy.normalized.all())
        shape = policy.normalized.shape if self._all else (policy.normalized.sum(),)
        self._observations = (
            RunningMoments(shape) if policy_settings.normalize_observations else None
        )
        self._rewards = (
            RewardScale(num_envs, returns.discount)
            if returns.normalize_rewards
            else None
        )

    @property
    def reward_scale(self) -> float:
        """Number that rewards are divided by."""
        return self._rewards.scale if self._rewards else 1.0

    def scale_rewards(self, rollout: Rollout) -> Rollout:
        """Returns the rollout with rewards to learn from, having seen its rewards."""
        if self._rewards is None:
            return rollout
        self._rewards.update(rollout.reward, rollout.terminated | rollout.truncated)
        self._policy.value_scale.assign(self.reward_scale)
        return rollout._replace(
            reward=(rollout.reward / self.reward_scale).astype(np.float32)
        )

    def update_observations(self, rollout: Rollout) -> None:
        """Adds the observations of a rollout that was learnt from."""
        if self._observations is None:
            return
        observation = self._policy.observations.without_mask(rollout.observation)
        where = ... if self._all else (..., self._policy.normalized)
        self._observations.update(observation[where])
        self._policy.normalize(self._observations.mean, self._observations.deviation)

    def state(self) -> dict[str, Array]:
        """Returns the statistics; see `acktr_tf.states`."""
        return states(self._parts())

    def load_state(self, state: State) -> None:
        """Loads what `state` returned; the policy has its part already."""
        load_states(self._parts(), state)

    def _parts(self) -> dict[str, Stateful]:
        parts = {"observations": self._observations, "rewards": self._rewards}
        return {name: part for name, part in parts.items() if part is not None}
