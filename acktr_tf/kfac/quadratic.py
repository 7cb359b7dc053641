"""The step that minimizes a quadratic model of the loss."""

import tensorflow as tf

COLLINEARITY_TOLERANCE = 1e-6
"""Smallest determinant, relative to that of orthogonal directions, that is inverted."""


def quadratic_step(curvature: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """Returns the minimum of ½ wᵀKw − bᵀw over the weights w of two directions.

    Equation (19); Martens & Grosse 2015, section 7. The second direction gets no weight
    if it is zero, as before the first step, or collinear with the first.

    Args:
      curvature: K `[2, 2]`, inner products of the directions in the damped metric.
      slope: b `[2]`, their inner products with the gradient.

    Returns:
      w `[2]`; zeros if the first direction has no curvature.
    """
    # For directions of length one: products of two small lengths would underflow.
    lengths = tf.sqrt(tf.maximum(tf.linalg.diag_part(curvature), 0.0))
    divide = tf.math.divide_no_nan
    first, second = tf.unstack(divide(slope, lengths))
    cosine = divide(divide(curvature[0, 1], lengths[0]), lengths[1])
    determinant = 1.0 - cosine * cosine
    both = tf.stack([first - cosine * second, second - cosine * first]) / determinant
    alone = tf.stack([first, tf.zeros_like(first)])
    independent = determinant > COLLINEARITY_TOLERANCE
    independent &= tf.reduce_all(lengths > 0.0)
    return divide(tf.where(independent, both, alone), lengths)
