"""How far a natural gradient step may go. A radius is a KL divergence, in nats."""

import tensorflow as tf

ADAPTATION = 1.2  # w, about a tenth on the length of a step.


def step_size(
    learning_rate: tf.Tensor, kl_radius: float | tf.Tensor, squared_norm: tf.Tensor
) -> tf.Tensor:
    """The step size that keeps the predicted KL of a step within a radius.

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
    """½ΔᵀFΔ, the KL divergence to second order of a step Δ. Equation (12).

    Args:
      squared_norm: ΔᵀFΔ of the step.
    """
    return 0.5 * squared_norm


def adapted_factor(
    factor: tf.Tensor,
    kl: tf.Tensor,
    target: float | tf.Tensor,
    binding: bool | tf.Tensor = True,
    change: float = ADAPTATION,
) -> tf.Tensor:
    """The next factor on the radius, given the exact KL of a step. Equation (14).

        c ← c / w  if KL > 2 KL*,   c w  if KL < KL* / 2 and the radius bound,   else c

    The rule by which the released code of Wu et al. 2017 adapts its learning rate on
    MuJoCo (there w = 1.5). For a radius the changes are smaller: momentum shows the
    effect of one only after some updates.

    Args:
      factor: c, scalar.
      kl: Exact KL of the last step, in nats; a value that is not finite counts as too
        large.
      target: KL*, in nats.
      binding: Whether the radius bounded that step; if not, a larger one is of no use.
      change: w.

    Returns:
      Scalar between 1e-4 and 1e4.
    """
    too_large = tf.logical_not(kl <= 2.0 * target)
    too_small = (kl < 0.5 * target) & binding
    factor = tf.where(too_large, factor / change, factor)
    factor = tf.where(too_small, factor * change, factor)
    return tf.clip_by_value(factor, 1e-4, 1e4)


def shortening(kl: tf.Tensor, limit: float) -> tf.Tensor:
    """What a step is to be multiplied by whose KL is beyond a limit. Equation (15).

        c = 0.9 sqrt(limit / KL)

    To second order the KL of a step is quadratic in its length, so that this would end
    a tenth short of the limit; where it is more than that, one does it again.

    Args:
      kl: Exact KL of the step, in nats; one that is not finite counts as far too large.
      limit: The largest KL wanted, in nats.

    Returns:
      Scalar between 0.1 and 0.9.
    """
    factor = 0.9 * tf.sqrt(limit / kl)
    factor = tf.where(tf.math.is_finite(factor), factor, 0.0)
    return tf.clip_by_value(factor, 0.1, 0.9)
