"""The actor-critic: a network and the distribution of actions it parametrises."""

from typing import NamedTuple

import gymnasium
import keras
import tensorflow as tf

from acktr_tf.config import Config
from acktr_tf.distributions import CategoricalActions, Distribution
from acktr_tf.networks import make_network


class Evaluation(NamedTuple):
    """What the actor-critic says of a batch of observations.

    Attributes:
      distribution: Of the actions, batch shape `[N]`.
      value: `[N]` float32.
    """

    distribution: Distribution
    value: tf.Tensor


class ActorCritic:
    """Policy π(a|s) and value V(s).

    Args:
      config: The run's settings.
      observation_space: Of one environment.
      action_space: Of one environment.

    Attributes:
      network: The Keras model, from observations to parameters and values.
      actions: What the policy's parameters mean.
    """

    def __init__(
        self,
        config: Config,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Discrete,
    ) -> None:
        self.actions = CategoricalActions(action_space)
        self.network: keras.Model = make_network(
            config, observation_space, self.actions.num_parameters
        )
        observations = tf.TensorSpec(
            [None, *observation_space.shape],
            observation_space.dtype if self._takes_pixels else tf.float32,
        )
        self.act = tf.function(
            self._act, input_signature=[observations, tf.TensorSpec([2], tf.int32)]
        )
        self.value = tf.function(self._value, input_signature=[observations])
        self.observation_spec = observations

    @property
    def _takes_pixels(self) -> bool:
        return self.network.input.dtype == "uint8"

    def forward(self, observation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The policy's parameters `[N, P]` and values `[N]`."""
        parameters, value = self.network(observation)
        return parameters, value[:, 0]

    def evaluation(self, parameters: tf.Tensor, value: tf.Tensor) -> Evaluation:
        """What `forward` returned, with the parameters made a distribution."""
        return Evaluation(self.actions.distribution(parameters), value)

    def evaluate(self, observation: tf.Tensor) -> Evaluation:
        """Distribution and value of observations `[N, ...]`."""
        return self.evaluation(*self.forward(observation))

    def _act(self, observation: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Actions `[N]` drawn with the random `key` `[2]`, and values `[N]`."""
        distribution, value = self.evaluate(observation)
        return distribution.sample(seed=key), value

    def _value(self, observation: tf.Tensor) -> tf.Tensor:
        """Values `[N]`."""
        return self.evaluate(observation).value
