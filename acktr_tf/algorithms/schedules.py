"""Schedules: numbers that fall over a run."""

from collections.abc import Callable

import keras
import tensorflow as tf


def scheduled(
    initial: float, schedule: str, total: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns a learning rate, as Keras' optimizers take it.

    Args:
      initial: Value at the first update.
      schedule: "constant", or "linear": from `initial` to zero after the last update.
      total: Updates of the whole run.
    """
    if schedule == "constant":
        return initial
    return keras.optimizers.schedules.PolynomialDecay(
        initial, total, end_learning_rate=0.0
    )


def schedule_function(
    initial: float, schedule: str, total: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from the number of updates so far to a value.

    Args:
      initial: See `scheduled`.
      schedule: See `scheduled`.
      total: See `scheduled`.
    """
    value = scheduled(initial, schedule, total)
    if callable(value):
        return value
    return lambda updates: tf.constant(value)
