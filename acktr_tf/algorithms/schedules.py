"""Learning rate over a run."""

import keras

from acktr_tf.config import Config


def learning_rate(
    config: Config,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a function of the number of updates.

    "linear" goes from `learning_rate` at the first update to zero after the last.
    """
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, config.total_updates, end_learning_rate=0.0
    )
