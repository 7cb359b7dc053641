"""Control of a K-FAC optimizer after a step: radius, learning rate, damping, length.

Each function changes the optimizer's state and may be called in a graph.
"""

from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from acktr_tf.kfac.damping import levenberg_marquardt_damping
from acktr_tf.kfac.trust_region import kl_controlled_factor

if TYPE_CHECKING:
    from acktr_tf.kfac.optimizer import KFAC

LEARNING_RATE_CHANGE = 1.5
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1e-8, 1.0


def adapt_radius(optimizer: "KFAC", kl: tf.Tensor, target: float | tf.Tensor) -> None:
    """Adapts the radius such that steps have the exact KL divergence wanted.

    The predicted KL may differ from the exact one by a factor that changes slowly. Call
    this after a step with its exact KL; see `trust_region.kl_controlled_factor`,
    equation (14). The radius grows only if it bounded the step.

    Args:
      optimizer: The optimizer.
      kl: Exact KL of the last step, scalar, in nats.
      target: The KL wanted, a number or scalar, in nats.
    """
    # Until then the running mean of steps is shorter than the steps.
    warm_up = int(2.0 / (1.0 - optimizer.settings.momentum))
    warm = optimizer.step_number > warm_up
    # A scale of zero is that of a step not taken.
    scale = optimizer.trust_region_scale
    binding = warm & (scale > 0.0) & (scale < 1.0)
    variable = optimizer.scalars.radius_factor
    variable.assign(kl_controlled_factor(variable.value, kl, target, binding))


def adapt_learning_rate(
    optimizer: "KFAC", kl: tf.Tensor, target: float | tf.Tensor
) -> None:
    """Adapts the learning rate such that steps have the exact KL divergence wanted.

    As the released code of Wu et al. 2017 does on MuJoCo: by a factor of 1.5 per step,
    up to 1. Call this after a step with its exact KL; see
    `trust_region.kl_controlled_factor`.

    Args:
      optimizer: The optimizer.
      kl: Exact KL of the last step, scalar, in nats.
      target: The KL wanted, a number or scalar, in nats.

    Raises:
      ValueError: The learning rate is a schedule.
    """
    rate = optimizer._learning_rate
    if not isinstance(rate, keras.Variable):
        raise ValueError(
            "`adapt_learning_rate` needs a learning rate that is a number. "
            f"Received: learning_rate={rate!r}"
        )
    one = tf.ones_like(rate.value)
    factor = kl_controlled_factor(one, kl, target, change=LEARNING_RATE_CHANGE)
    adapted = tf.clip_by_value(
        rate.value * factor, MIN_LEARNING_RATE, MAX_LEARNING_RATE
    )
    rate.assign(adapted)


def adapt_damping(
    optimizer: "KFAC", change: tf.Tensor, due: bool | tf.Tensor = True
) -> None:
    """Adapts the damping by the Levenberg-Marquardt rule.

    See `damping.levenberg_marquardt_damping`, equation (20). Call this every
    `damping_period` steps, right after a step.

    Args:
      optimizer: The optimizer.
      change: Change of the loss of the step's own batch by that step, scalar.
      due: Scalar bool; if False, the damping stays.

    Raises:
      ValueError: The optimizer has no `damping_period`.
    """
    period = optimizer.settings.damping_period
    if period is None:
        raise ValueError("`adapt_damping` needs a `damping_period`. Received: None")
    variable = optimizer.scalars.damping_factor
    factor = variable.value
    predicted = optimizer.scalars.predicted_change.value
    adapted = levenberg_marquardt_damping(factor, change, predicted, period)
    variable.assign(tf.where(due, adapted, factor))


def backtrack(optimizer: "KFAC", factor: tf.Tensor) -> None:
    """Takes back a part of the last step, as if the step had been shorter.

        θ ← θ + (1 − c) v,  v ← c v

    Call this only after a step that was taken, for instance if its exact KL is larger
    than wanted; see `trust_region.backtracking_factor`.

    Args:
      optimizer: The optimizer.
      factor: c, scalar in (0, 1].
    """
    for variable, velocity in zip(
        optimizer.curvature.variables, optimizer.velocity, strict=True
    ):
        step = velocity.value
        variable.assign_add((1.0 - factor) * step)
        velocity.assign(factor * step)
    scale = optimizer.scalars.trust_region_scale
    scale.assign(factor * scale.value)
