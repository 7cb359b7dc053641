"""At which steps the factors are updated, and inverted."""

import tensorflow as tf


def factors_due(step: tf.Tensor, period: int) -> tf.Tensor:
    """Whether a step is one of those that update the factors, scalar bool.

    Those are every `period`-th, and all of the first period: a mean of few batches
    gains most by another one.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Updates between two times.
    """
    return (step < period) | tf.equal(step % period, 0)


def inverses_due(step: tf.Tensor, period: int, factor_period: int = 1) -> tf.Tensor:
    """Whether a step is one of those that invert the factors, scalar bool.

    Those are every `period`-th, and in the first period all that update the factors:
    these change most while they are means of a few batches.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Updates between two times.
      factor_period: Updates between two updates of the factors.
    """
    early = (step < period) & factors_due(step, factor_period)
    return early | tf.equal(step % period, 0)
