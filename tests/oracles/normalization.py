"""Discounted returns by their definition, one environment and one step at a time."""

import numpy as np
import numpy.typing as npt


def discounted_returns(
    reward: npt.NDArray[np.float64], ended: npt.NDArray[np.bool_], discount: float
) -> npt.NDArray[np.float64]:
    """G_t = Σ_{k=s}^t γ^{t−k} r_k `[T, B]`, with s the first step of t's episode."""
    returns = np.zeros(reward.shape)
    for t, b in np.ndindex(*reward.shape):
        endings = np.flatnonzero(ended[:t, b])
        start = 1 + int(endings[-1]) if len(endings) else 0
        for k in range(start, t + 1):
            returns[t, b] += discount ** (t - k) * reward[k, b]
    return returns
