"""What falls over a run: the learning rate, and the cost of entropy."""

from collections.abc import Callable

import keras
import tensorflow as tf

from acktr_tf.config import Config


def learning_rate(
    config: Config,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a function of the number of updates.

    "linear" goes from `learning_rate` at the first update to zero after the last.
    """
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return _linear(config.learning_rate, config)


def entropy_cost(config: Config) -> Callable[[tf.Tensor], tf.Tensor]:
    """The weight of the entropy as a function of the number of updates.

    "linear" goes from `entropy_cost` at the first update to zero after the last.
    """
    if config.entropy_cost_schedule == "constant":
        return lambda updates: tf.constant(config.entropy_cost)
    return _linear(config.entropy_cost, config)


def _linear(
    initial: float, config: Config
) -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.PolynomialDecay(
        initial, config.total_updates, end_learning_rate=0.0
    )
