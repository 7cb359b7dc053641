"""Advantages and value targets of a rollout: pure functions on NumPy arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


def generalized_advantages(
    reward_t: Array,
    terminated_t: npt.NDArray[np.bool_],
    truncated_t: npt.NDArray[np.bool_],
    value_t: Array,
    final_value_t: Array,
    last_value: Array,
    discount: float,
    gae_lambda: float,
) -> Array:
    """Generalized advantage estimates (Schulman et al. 2016, eq. 16).

        δ_t = r_t + γ V'_t − V_t
        A_t = δ_t + γ λ (1 − ended_t) A_{t+1},  A_T = 0

    where V'_t, the value of the state that step t reached, is 0 if that state is
    terminal, V of the final observation if the episode was truncated there, and else
    V_{t+1}; ended_t is either. With λ = 1 this is the k-step return of Wu et al. 2017,
    bootstrapped at the end of the rollout, minus V_t.

    Args:
      reward_t: `[T, B]`.
      terminated_t: `[T, B]`, the step reached a terminal state.
      truncated_t: `[T, B]`, the episode was cut off after the step.
      value_t: `[T, B]`, V of the observation that step t acted on.
      final_value_t: `[T, B]`, V of the final observation where truncated.
      last_value: `[B]`, V of the observation after the last step.
      discount: γ.
      gae_lambda: λ.

    Returns:
      `[T, B]`, of the values' type.

    Raises:
      ValueError: The shapes do not fit.
    """
    shape = value_t.shape
    for name, array in [
        ("reward_t", reward_t),
        ("terminated_t", terminated_t),
        ("truncated_t", truncated_t),
        ("final_value_t", final_value_t),
    ]:
        if array.shape != shape or array.ndim != 2:
            raise ValueError(
                f"`{name}` must be [T, B] as `value_t` is. Received: "
                f"{array.shape}, value_t.shape={shape}"
            )
    if last_value.shape != shape[1:]:
        raise ValueError(
            f"`last_value` must be [B]. Received: {last_value.shape}, "
            f"value_t.shape={shape}"
        )
    next_value_t = np.concatenate([value_t[1:], last_value[np.newaxis]])
    next_value_t = np.where(truncated_t, final_value_t, next_value_t)
    next_value_t = np.where(terminated_t, 0.0, next_value_t)
    delta_t = reward_t + discount * next_value_t - value_t
    decay_t = discount * gae_lambda * ~(terminated_t | truncated_t)
    advantage_t = np.empty_like(value_t)
    advantage = np.zeros_like(last_value)
    for t in reversed(range(shape[0])):
        advantage = delta_t[t] + decay_t[t] * advantage
        advantage_t[t] = advantage
    return advantage_t
