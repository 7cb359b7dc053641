"""Advantages and value targets of a rollout, and the batch that they make."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from acktr_tf.config.returns import ReturnsSettings
from acktr_tf.types import Array, Rollout


class Batch(NamedTuple):
    """Rollout laid out for learning, `N = T·B` rows: step by step, `B` rows each.

    Attributes:
      observation: `[N, ...]`.
      action: `[N, ...]`.
      advantage: `[N]` float32.
      target: `[N]` float32, that the value regresses on.
    """

    observation: tf.Tensor
    action: tf.Tensor
    advantage: tf.Tensor
    target: tf.Tensor


def make_batch(rollout: Rollout, settings: ReturnsSettings) -> Batch:
    """Makes the batch of a rollout.

    The advantages are those of `generalized_advantages` with λ = `gae_lambda`. The
    targets are advantages plus values, with λ = `value_lambda`: with 1 they are
    bootstrapped at the end of the rollout only.

    Args:
      rollout: `T` steps of `B` environments.
      settings: γ and both λ.
    """

    def advantages(decay: float) -> Array:
        return generalized_advantages(
            rollout.reward,
            rollout.terminated,
            rollout.truncated,
            rollout.value,
            rollout.final_value,
            rollout.last_value,
            settings.discount,
            decay,
        )

    def rows(array: Array) -> tf.Tensor:
        return tf.convert_to_tensor(array.reshape(-1, *array.shape[2:]))

    advantage = value_error = advantages(settings.gae_lambda)
    if settings.value_lambda not in (None, settings.gae_lambda):
        value_error = advantages(settings.value_lambda)
    with np.errstate(invalid="ignore", over="ignore"):
        target = value_error + rollout.value
    return Batch(
        rows(rollout.observation), rows(rollout.action), rows(advantage), rows(target)
    )


def generalized_advantages(
    reward_t: Array,
    terminated_t: Array,
    truncated_t: Array,
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
    # Values that are not finite make the loss so, and the learner reports that.
    with np.errstate(invalid="ignore", over="ignore"):
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
