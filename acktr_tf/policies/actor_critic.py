"""The actor-critic: a network and the distribution of actions it parametrises."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from acktr_tf.config.config import Config
from acktr_tf.errors import UserError
from acktr_tf.policies.distributions import Distribution, make_actions
from acktr_tf.policies.networks import PolicyOutputs, make_network
from acktr_tf.spaces.observations import Observations


class Evaluation(NamedTuple):
    """What the actor-critic says of a batch of observations.

    Attributes:
      distribution: Of the actions, batch shape `[N]`.
      value: `[N]` float32.
    """

    distribution: Distribution
    value: tf.Tensor


class Acted(NamedTuple):
    """What is done about a batch of observations.

    Attributes:
      action: `[N, ...]`, drawn; to learn from.
      environment_action: `[N, ...]`, the same as the environment takes it.
      value: `[N]` float32.
    """

    action: tf.Tensor
    environment_action: tf.Tensor
    value: tf.Tensor


class ActorCritic:
    """Policy π(a|s) and value V(s).

    Args:
      config: The run's settings.
      observation_space: Of one environment.
      action_space: Of one environment.

    Attributes:
      observations: What the networks are given of an observation.
      actions: What the policy's parameters mean.
      network: The Keras model, from observations to parameters and values.
      policy_network: The part of it that makes the parameters.
      value_network: The part of it that makes the values.
      value_scale: What values, and the rewards they foresee, are in units of.

    Raises:
      UserError: A space is not supported, or does not suit the network.
    """

    def __init__(
        self,
        config: Config,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
    ) -> None:
        self.observations = Observations(observation_space)
        self.actions = make_actions(
            action_space, squash=config.action_bounds == "squash"
        )
        space = self.observations.space
        self.network: keras.Model = make_network(
            config,
            space,
            PolicyOutputs(
                self.actions.num_parameters,
                self.actions.num_free,
                config.initial_log_std,
            ),
        )
        self.policy_network, self.value_network = (
            keras.Model(self.network.input, output, name=output.name)
            for output in self.network.outputs
        )
        self.value_scale = keras.Variable(1.0, trainable=False, name="value_scale")
        self._clip = config.observation_clip
        self._normalizes = config.normalize_observations
        if self._normalizes:
            if self._takes_pixels:
                raise UserError(
                    "normalize_observations=true takes vectors of floats. Received: "
                    f"{space.dtype} of shape {list(space.shape)}."
                )
            self._mean, self._deviation = (
                keras.Variable(
                    np.full(space.shape, value, np.float32), trainable=False, name=name
                )
                for name, value in [
                    ("observation_mean", 0.0),
                    ("observation_deviation", 1.0),
                ]
            )
        observations = tf.TensorSpec(
            [None, *space.shape], space.dtype if self._takes_pixels else tf.float32
        )
        self.observation_spec = observations
        self._concrete: dict[tuple[str, int | None], Any] = {}

    @property
    def _takes_pixels(self) -> bool:
        return self.network.input.dtype == "uint8"

    @property
    def variables(self) -> list[keras.Variable]:
        """All that decides what the policy does."""
        normalizer = [self._mean, self._deviation] if self._normalizes else []
        return [*self.network.variables, *normalizer, self.value_scale]

    def normalize(self, mean: npt.ArrayLike, deviation: npt.ArrayLike) -> None:
        """Sets what observations are normalized by, from now on."""
        self._mean.assign(mean)
        self._deviation.assign(deviation)

    def network_inputs(self, observation: tf.Tensor) -> tf.Tensor:
        """Observations `[N, ...]`, normalized if they are to be."""
        if not self._normalizes:
            return observation
        # An exported policy takes integers where the environment has them.
        floats = tf.cast(observation, tf.float32)
        normalized = (floats - self._mean.value) / self._deviation.value
        return tf.clip_by_value(normalized, -self._clip, self._clip)

    def forward(self, observation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The policy's parameters `[N, P]` and values `[N]`."""
        parameters, value = self.network(self.network_inputs(observation))
        return parameters, value[:, 0]

    def evaluation(self, parameters: tf.Tensor, value: tf.Tensor) -> Evaluation:
        """What `forward` returned, with the parameters made a distribution."""
        return Evaluation(self.actions.distribution(parameters), value)

    def evaluate(self, observation: tf.Tensor) -> Evaluation:
        """Distribution and value of observations `[N, ...]`."""
        return self.evaluation(*self.forward(observation))

    def act(self, observation: npt.ArrayLike, key: npt.ArrayLike) -> Acted:
        """Draws actions for `[N, ...]` with the random `key` `[2]`, compiled."""
        tensor = self.tensor(observation)
        return self._compiled("act", self.acted, tensor, tf.constant(key))

    def value(self, observation: npt.ArrayLike) -> tf.Tensor:
        """Values `[N]` of `[N, ...]`, compiled."""

        def value(observation: tf.Tensor) -> tf.Tensor:
            return self.evaluate(observation).value

        return self._compiled("value", value, self.tensor(observation))

    def tensor(self, observation: npt.ArrayLike) -> tf.Tensor:
        """Observations `[N, ...]` as the network takes them."""
        return tf.convert_to_tensor(observation, self.observation_spec.dtype)

    def _compiled(
        self, name: str, function: Callable[..., Any], *tensors: tf.Tensor
    ) -> Any:
        """What `function` returns, by a graph: one, or of pixels one a number of rows.

        Pixels are converted faster where that number is known. The graphs are concrete
        functions: of a call that takes half a millisecond, the search of a tf.function
        for the right trace is a third.
        """
        rows = tensors[0].shape[0] if self._takes_pixels else None
        concrete = self._concrete.get((name, rows))
        if concrete is None:
            spec, *others = self.observation_spec, *tensors[1:]
            specs = [tf.TensorSpec([rows, *spec.shape[1:]], spec.dtype)]
            specs += [tf.TensorSpec(t.shape, t.dtype) for t in others]
            concrete = tf.function(function).get_concrete_function(*specs)
            self._concrete[name, rows] = concrete
        return concrete(*tensors)

    def acted(self, observation: tf.Tensor, key: tf.Tensor) -> Acted:
        """As `act`, in a graph."""
        distribution, value = self.evaluate(observation)
        action = distribution.sample(seed=key)
        return Acted(action, self.actions.to_environment(action), value)
