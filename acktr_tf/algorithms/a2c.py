"""A2C: the synchronous advantage actor-critic, with RMSprop."""

import keras

from acktr_tf.algorithms.base import Algorithm
from acktr_tf.algorithms.schedules import learning_rate


class A2C(Algorithm):
    """Plain gradient of the actor-critic loss (Mnih et al. 2016, synchronous)."""

    def _make_optimizer(self) -> keras.optimizers.Optimizer:
        config = self._config
        optimizer = keras.optimizers.RMSprop(
            learning_rate=learning_rate(config),
            rho=config.rmsprop_decay,
            epsilon=config.rmsprop_epsilon,
            global_clipnorm=config.max_gradient_norm,
        )
        optimizer.build(self._policy.network.trainable_variables)
        return optimizer
