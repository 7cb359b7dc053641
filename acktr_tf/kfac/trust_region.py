"""Trust region of natural gradient steps. A radius is a KL divergence, in nats."""

import tensorflow as tf

RADIUS_CHANGE = 1.2
"""w, which changes the length of a step by about a tenth."""
MIN_FACTOR, MAX_FACTOR = 1e-4, 1e4
"""Bounds of the factor on the radius."""


def step_size(
    learning_rate: tf.Tensor, kl_radius: float | tf.Tensor, squared_norm: tf.Tensor
) -> tf.Tensor:
    """Returns the step size that keeps the predicted KL of a step within a radius.

        η = min(η_max, sqrt(2δ / ΔᵀFΔ))

    Wu et al. 2017, section 3.2 (from Ba et al. 2017), equation (11) of docs/kfac.md.
    The paper's released code bounds ΔᵀFΔ where this bounds ½ΔᵀFΔ: its `kfac_clip` is
    2δ.

    Args:
      learning_rate: η_max, scalar.
      kl_radius: δ, the largest predicted KL, in nats.
      squared_norm: ΔᵀFΔ of the direction Δ, scalar.

    Returns:
      Scalar; `learning_rate` where `squared_norm` is zero.
    """
    tiny = tf.constant(1e-30, squared_norm.dtype)
    largest = tf.sqrt(2.0 * kl_radius / tf.maximum(squared_norm, tiny))
    return tf.minimum(tf.cast(learning_rate, largest.dtype), largest)


def predicted_kl(squared_norm: tf.Tensor) -> tf.Tensor:
    """Returns ½ΔᵀFΔ, the KL divergence of a step Δ to second order. Equation (12).

    Args:
      squared_norm: ΔᵀFΔ of the step.
    """
    return 0.5 * squared_norm


def kl_controlled_factor(
    factor: tf.Tensor,
    kl: tf.Tensor,
    target: float | tf.Tensor,
    binding: bool | tf.Tensor = True,
    change: float = RADIUS_CHANGE,
) -> tf.Tensor:
    """Returns the next factor on the radius, given the exact KL of a step.

        c ← c / w  if KL > 2 KL*,   c w  if KL < KL* / 2 and the radius bound,   else c

    Equation (14). The released code of Wu et al. 2017 adapts its learning rate on
    MuJoCo by this rule (with w = 1.5). For a radius the changes are smaller: momentum
    shows the effect of a change only after some updates.

    Args:
      factor: c, scalar.
      kl: Exact KL of the last step, in nats; a value that is not finite counts as too
        large.
      target: KL*, in nats.
      binding: Whether the radius bounded that step; if not, a larger radius is of no
        use.
      change: w.

    Returns:
      Scalar between 1e-4 and 1e4.
    """
    too_large = tf.logical_not(kl <= 2.0 * target)
    too_small = (kl < 0.5 * target) & binding
    factor = tf.where(too_large, factor / change, factor)
    factor = tf.where(too_small, factor * change, factor)
    return tf.clip_by_value(factor, MIN_FACTOR, MAX_FACTOR)


def backtracking_factor(kl: tf.Tensor, max_kl: float) -> tf.Tensor:
    """Returns the factor that shortens a step whose KL exceeds a limit. Equation (15).

        c = 0.9 sqrt(max_kl / KL)

    To second order the KL of a step is quadratic in its length, so that the shortened
    step ends a tenth below the limit; if it does not, shorten it again.

    Args:
      kl: Exact KL of the step, in nats; a KL that is not finite counts as far too
        large.
      max_kl: Largest KL allowed, in nats.

    Returns:
      Scalar between 0.1 and 0.9.
    """
    factor = 0.9 * tf.sqrt(max_kl / kl)
    factor = tf.where(tf.math.is_finite(factor), factor, 0.0)
    return tf.clip_by_value(factor, 0.1, 0.9)
