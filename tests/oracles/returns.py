"""Advantages by their definition, one sum inside another."""

import numpy as np
import numpy.typing as npt


def generalized_advantages(
    reward: npt.NDArray[np.float64],
    terminated: npt.NDArray[np.bool_],
    truncated: npt.NDArray[np.bool_],
    value: npt.NDArray[np.float64],
    final_value: npt.NDArray[np.float64],
    last_value: npt.NDArray[np.float64],
    discount: float,
    gae_lambda: float,
) -> npt.NDArray[np.float64]:
    """The exponentially weighted mean of all k-step advantages (Schulman et al. 2016).

        Â_t = (1 − λ) Σ_{k=1}^{n−1} λ^{k−1} Â_t^(k) + λ^{n−1} Â_t^(n)

    with n the steps until the episode or the rollout ends: there is no longer one.
    """
    steps, num_envs = reward.shape
    advantage = np.zeros((steps, num_envs))
    for b in range(num_envs):
        for t in range(steps):
            of_k = []
            for k in range(1, steps - t + 1):
                of_k.append(
                    k_step_return(
                        reward[:, b],
                        terminated[:, b],
                        truncated[:, b],
                        np.append(value[:, b], last_value[b]),
                        final_value[:, b],
                        discount,
                        t,
                        k,
                    )
                    - value[t, b]
                )
                if terminated[t + k - 1, b] or truncated[t + k - 1, b]:
                    break
            n = len(of_k)
            weights = [(1 - gae_lambda) * gae_lambda ** (k - 1) for k in range(1, n)]
            weights.append(gae_lambda ** (n - 1))
            advantage[t, b] = sum(w * a for w, a in zip(weights, of_k, strict=True))
    return advantage


def k_step_return(
    reward: npt.NDArray[np.float64],
    terminated: npt.NDArray[np.bool_],
    truncated: npt.NDArray[np.bool_],
    values: npt.NDArray[np.float64],
    final_value: npt.NDArray[np.float64],
    discount: float,
    t: int,
    k: int,
) -> float:
    """R_t^(k) = Σ_{i<k} γ^i r_{t+i} + γ^k V(state reached), of one environment.

    `values` has one more entry than there are steps: that of the last observation.
    """
    total = sum(discount**i * reward[t + i] for i in range(k))
    last = t + k - 1
    if terminated[last]:
        reached = 0.0
    elif truncated[last]:
        reached = final_value[last]
    else:
        reached = values[last + 1]
    return float(total + discount**k * reached)
