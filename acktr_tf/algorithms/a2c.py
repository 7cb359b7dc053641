"""A2C: the synchronous advantage actor-critic, with RMSprop."""

import keras

from acktr_tf.algorithms.base import Algorithm
from acktr_tf.algorithms.plain import make_rmsprop
from acktr_tf.algorithms.schedules import learning_rate


class A2C(Algorithm):
    """Plain gradient of the actor-critic loss (Mnih et al. 2016, synchronous)."""

    def _make_optimizer(self) -> keras.optimizers.Optimizer:
        return make_rmsprop(
            self._config, learning_rate(self._config), self._trained_variables
        )
