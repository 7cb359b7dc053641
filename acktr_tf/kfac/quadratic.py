"""The step that minimizes a quadratic model of the loss."""

import tensorflow as tf

DEPENDENT = 1e-6
"""Of the determinant, relative to that of orthogonal directions."""


def quadratic_step(curvature: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """The minimum of ½ wᵀKw − bᵀw over the weights of two directions. Equation (19).

    Martens & Grosse 2015, section 7. If the second direction is zero, as the step
    before the first is, or one that the first has, it gets no weight.

    Args:
      curvature: K `[2, 2]`, the directions' products in the damped metric.
      slope: b `[2]`, their products with the gradient.

    Returns:
      w `[2]`; zeros where the first direction has no curvature.
    """
    # Of directions of length one: products of two small lengths would underflow.
    lengths = tf.sqrt(tf.maximum(tf.linalg.diag_part(curvature), 0.0))
    divide = tf.math.divide_no_nan
    first, second = tf.unstack(divide(slope, lengths))
    cosine = divide(divide(curvature[0, 1], lengths[0]), lengths[1])
    determinant = 1.0 - cosine * cosine
    both = tf.stack([first - cosine * second, second - cosine * first]) / determinant
    alone = tf.stack([first, tf.zeros_like(first)])
    independent = (determinant > DEPENDENT) & tf.reduce_all(lengths > 0.0)
    return divide(tf.where(independent, both, alone), lengths)
