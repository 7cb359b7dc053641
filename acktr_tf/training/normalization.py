"""Running means and variances, by which observations and rewards are brought to scale.

The sums are NumPy float64 on the host; what the networks use of them is set between two
updates, so that a batch is learnt from in the scale in which it was acted on.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EPSILON = 1e-8


class RunningMoments:
    """Mean and variance of all rows seen so far (Chan et al. 1979, eq. 2.1).

    Args:
      shape: Of a row.

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

    def arrays(self) -> dict[str, Array]:
        """All that `restore` needs."""
        return {
            "count": np.array(self.count),
            "mean": np.asarray(self.mean),
            "squares": np.asarray(self._squares),
        }

    def restore(self, arrays: dict[str, Array]) -> None:
        """Goes on where `arrays` were taken."""
        self.count = float(arrays["count"])
        self.mean = arrays["mean"].copy()
        self._squares = arrays["squares"].copy()


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
        """What rewards are divided by; 1 until returns have varied."""
        return float(self.moments.deviation)

    def arrays(self) -> dict[str, Array]:
        """All that `restore` needs."""
        return {**self.moments.arrays(), "returns": self._returns}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Goes on where `arrays` were taken."""
        self.moments.restore(arrays)
        self._returns = arrays["returns"].copy()
