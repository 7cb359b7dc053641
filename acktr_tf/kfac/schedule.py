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


def inverses_due(
    step: tf.Tensor, period: int, factor_period: int = 1, place: int = 0
) -> tf.Tensor:
    """Whether a step is one of those that invert the factors, scalar bool.

    Those are one in each period, and in the first period all that update the factors:
    these change most while they are means of a few batches.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Updates between two times.
      factor_period: Updates between two updates of the factors.
      place: Which step of the period it is, from 0.
    """
    early = (step < period) & factors_due(step, factor_period)
    return early | tf.equal(step % period, place)


def places(period: int, count: int) -> list[int]:
    """Steps of a period, one for each of `count`, as far apart as can be.

    The first is not that which begins the period: at that, factors are updated.

    Args:
      period: Steps.
      count: How many; if there are more than steps, some have the same.
    """
    return [(2 * number + 1) * period // (2 * count) for number in range(count)]
