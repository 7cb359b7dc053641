"""What falls over a run: learning rate, cost of entropy, KL divergence of a step."""

from collections.abc import Callable

import keras
import tensorflow as tf

from acktr_tf.config.config import Config


def learning_rate(
    config: Config,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a function of the number of updates.

    "linear" goes from `learning_rate` at the first update to zero after the last.
    """
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return _linear(config.learning_rate, config.total_updates)


def critic_learning_rate(
    config: Config,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The separate critic's learning rate as a function of the number of its steps.

    "linear" goes from `critic_learning_rate` at the first to zero after the last.
    """
    if config.learning_rate_schedule == "constant":
        return config.critic_learning_rate
    return _linear(
        config.critic_learning_rate, config.total_updates * config.critic_updates
    )


def entropy_cost(config: Config) -> Callable[[tf.Tensor], tf.Tensor]:
    """The weight of the entropy as a function of the number of updates.

    "linear" goes from `entropy_cost` at the first update to zero after the last.
    """
    return _scheduled(config.entropy_cost, config.entropy_cost_schedule, config)


def kl_target(config: Config) -> Callable[[tf.Tensor], tf.Tensor]:
    """The exact KL that a step should have, as a function of the number of updates.

    "linear" goes from `kl_target` at the first update to zero after the last.
    """
    return _scheduled(config.kl_target, config.kl_target_schedule, config)


def _scheduled(
    initial: float, schedule: str, config: Config
) -> Callable[[tf.Tensor], tf.Tensor]:
    if schedule == "constant":
        return lambda updates: tf.constant(initial)
    return _linear(initial, config.total_updates)


def _linear(
    initial: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.PolynomialDecay(
        initial, steps, end_learning_rate=0.0
    )
