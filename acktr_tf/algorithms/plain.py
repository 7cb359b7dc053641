"""The optimizer of plain gradients, for A2C and for a critic without a metric."""

from collections.abc import Sequence

import keras

from acktr_tf.config.config import Config


def make_rmsprop(
    config: Config,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    variables: Sequence[keras.Variable],
) -> keras.optimizers.RMSprop:
    """RMSprop with the settings of `config`, built.

    Args:
      config: The run's settings.
      learning_rate: A number or a schedule.
      variables: What it will step.
    """
    optimizer = keras.optimizers.RMSprop(
        learning_rate=learning_rate,
        rho=config.rmsprop_decay,
        epsilon=config.rmsprop_epsilon,
        global_clipnorm=config.max_gradient_norm,
    )
    optimizer.build(variables)
    return optimizer
