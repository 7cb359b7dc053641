"""How damping follows the quality of the quadratic model of the loss."""

import tensorflow as tf

OMEGA = 19.0 / 20.0
LEAST, MOST = 1e-6, 1e6
"""Bounds of the factor on the damping."""


def adapted_damping(
    factor: tf.Tensor, change: tf.Tensor, predicted: tf.Tensor, period: int
) -> tf.Tensor:
    """The Levenberg-Marquardt rule. Equation (20).

        r = (h(θ + s) − h(θ)) / (M(s) − M(0)),   ω = (19/20)^T
        λ ← ω λ  if r > 3/4,   λ / ω  if r < 1/4,   else λ

    Martens & Grosse 2015, section 6.5 (there T₁ = 5), after Moré 1978.

    Args:
      factor: On the damping, scalar.
      change: h(θ + s) − h(θ), of the loss by a step; one that is not finite counts as a
        bad step.
      predicted: M(s) − M(0), of the quadratic model, damping included; negative.
      period: T, steps between two adaptations.

    Returns:
      The next factor on the damping, scalar.
    """
    omega = OMEGA**period
    ratio = change / predicted
    known = tf.math.is_finite(change) & (predicted < 0.0)
    good = known & (ratio > 0.75)
    bad = tf.logical_not(known & (ratio >= 0.25))
    factor = tf.where(good, factor * omega, factor)
    factor = tf.where(bad, factor / omega, factor)
    return tf.clip_by_value(factor, LEAST, MOST)
