"""How far a natural gradient step may go. A radius is a KL divergence, in nats."""

import tensorflow as tf


def step_size(
    learning_rate: tf.Tensor, kl_radius: float, squared_norm: tf.Tensor
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
