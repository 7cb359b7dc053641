"""Damping that follows the quality of the quadratic model of the loss."""

import tensorflow as tf

DECAY_PER_STEP = 19.0 / 20.0
"""ω of one step."""
MIN_FACTOR, MAX_FACTOR = 1e-6, 1e6
"""Bounds of the factor on the damping."""


def levenberg_marquardt_damping(
    factor: tf.Tensor, change: tf.Tensor, predicted: tf.Tensor, period: int
) -> tf.Tensor:
    """Returns the next factor on the damping, by the Levenberg-Marquardt rule.

        r = (h(θ + s) − h(θ)) / (M(s) − M(0)),   ω = (19/20)^T
        λ ← ω λ  if r > 3/4,   λ / ω  if r < 1/4,   else λ

    Equation (20). Martens & Grosse 2015, section 6.5 (there T₁ = 5), after Moré 1978.

    Args:
      factor: Present factor on the damping, scalar.
      change: h(θ + s) − h(θ), change of the loss by a step; a change that is not finite
        counts as a bad step.
      predicted: M(s) − M(0), change of the quadratic model, damping included; negative.
      period: T, steps between two adaptations.

    Returns:
      Scalar.
    """
    omega = DECAY_PER_STEP**period
    ratio = change / predicted
    known = tf.math.is_finite(change) & (predicted < 0.0)
    good = known & (ratio > 0.75)
    bad = tf.logical_not(known & (ratio >= 0.25))
    factor = tf.where(good, factor * omega, factor)
    factor = tf.where(bad, factor / omega, factor)
    return tf.clip_by_value(factor, MIN_FACTOR, MAX_FACTOR)
