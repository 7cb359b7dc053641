"""From an action space to the distribution that the policy parametrises."""

from typing import TypeAlias

import gymnasium
import tensorflow as tf
import tensorflow_probability as tfp

Distribution: TypeAlias = tfp.distributions.Distribution


class CategoricalActions:
    """Actions of a `Discrete` space: one logit each.

    Args:
      action_space: The space, of `n` actions. Distributions are over indices from 0,
        whatever the space's `start`.
    """

    parameter_name = "logits"

    def __init__(self, action_space: gymnasium.spaces.Discrete) -> None:
        self.num_parameters = int(action_space.n)

    def distribution(self, parameters: tf.Tensor) -> Distribution:
        """The distribution of actions `[N]` int32, from logits `[N, n]`."""
        return tfp.distributions.Categorical(logits=parameters, dtype=tf.int32)
