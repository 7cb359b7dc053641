"""Actor-critic: a network and the distribution of actions that it parametrizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from acktr_tf.config.policy import PolicySettings
from acktr_tf.errors import UserError
from acktr_tf.policies.choice import choose_network, scales
from acktr_tf.policies.distributions import (
    Distribution,
    make_action_distribution,
    mask_logits,
)
from acktr_tf.policies.networks import HeadSpec, make_network
from acktr_tf.spaces.masks import Masks
from acktr_tf.spaces.observations import Observations
from acktr_tf.spaces.tensors import allowed_options, without_mask
from acktr_tf.states import State, load_variables, variables_state
from acktr_tf.types import Array


class PolicyOutput(NamedTuple):
    """Outputs of the actor-critic for `N` observations.

    Attributes:
      parameters: `[N, P]`, parameters of the distribution of actions; logits of
        options that an action mask forbids are `FORBIDDEN_LOGIT`.
      value: `[N]` float32, in units of the policy's `value_scale`.
    """

    parameters: tf.Tensor
    value: tf.Tensor


class PolicyStep(NamedTuple):
    """Actions sampled for `N` observations.

    Attributes:
      action: `[N, ...]`, to learn from.
      environment_action: `[N, ...]`, the same as the environment takes it.
      value: `[N]` float32, of the observations.
    """

    action: tf.Tensor
    environment_action: tf.Tensor
    value: tf.Tensor


class ActorCritic:
    """Policy π(a|s) and value V(s).

    Args:
      settings: Network, inputs and actions.
      observation_space: Observation space of one environment; a part of it that is an
        `acktr_tf.spaces.masks.ActionMask` masks the actions.
      action_space: Action space of one environment.
      seed: Decides the initial weights.

    Attributes:
      observations: Encoding of observations for the networks.
      action_distribution: Meaning of the policy's parameters.
      network: Keras model, from observations to parameters and values.
      policy_network: Part of it that makes the parameters.
      value_network: Part of it that makes the values.
      value_scale: Unit of the values, and of the rewards that they predict.
      observation_spec: Shape and type of `N` observations.
      normalized: Where `normalize_observations` applies, of an observation's shape:
        not to pictures, which the network scales.

    Raises:
      UserError: A space is not supported, or does not suit the network; or the mask
        does not suit the actions.
    """

    def __init__(
        self,
        settings: PolicySettings,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        seed: int,
    ) -> None:
        self.observations = Observations(observation_space)
        self.action_distribution = make_action_distribution(
            action_space, squash=settings.action_bounds == "squash"
        )
        if (mask := self.observations.mask) is not None:
            _check_mask(mask.stop - mask.start, action_space)
        space = self.observations.network_space
        self.network: keras.Model = make_network(
            settings,
            self.observations,
            HeadSpec(
                self.action_distribution.num_parameters,
                self.action_distribution.num_state_independent,
                settings.initial_log_std,
            ),
            seed,
        )
        self.policy_network, self.value_network = (
            keras.Model(self.network.input, output, name=output.name)
            for output in self.network.outputs
        )
        self.value_scale = keras.Variable(1.0, trainable=False, name="value_scale")
        self._clip = settings.observation_clip
        self._normalizes = settings.normalize_observations
        network = choose_network(settings.network, self.observations)
        self.normalized = np.concatenate(
            [
                np.full(part.size, not scales(network, part))
                for part in self.observations.network_parts
            ]
        ).reshape(space.shape)
        if self._normalizes:
            if not self.normalized.any():
                raise UserError(
                    "normalize_observations=true has nothing to normalize: "
                    f"network={network} scales pictures itself. Received: "
                    f"{', '.join(map(str, self.observations.network_parts))}."
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
        takes_pixels = self.network.input.dtype == "uint8"
        self._takes_pixels = takes_pixels
        self.observation_spec = tf.TensorSpec(
            [None, *self.observations.encoded_space.shape],
            space.dtype if takes_pixels else tf.float32,
        )
        self._concrete: dict[tuple[str, int | None], Any] = {}

    # In graphs ------------------------------------------------------------------
    def __call__(self, observation: tf.Tensor) -> PolicyOutput:
        """Returns parameters and values of observations `[N, ...]`."""
        parameters, value = self.network(self.network_inputs(observation))
        allowed = allowed_options(self.observations, observation)
        if allowed is not None:
            parameters = mask_logits(parameters, allowed)
        return PolicyOutput(parameters, value[:, 0])

    def distribution(self, output: PolicyOutput) -> Distribution:
        """Returns the distributions of actions, batch shape `[N]`."""
        return self.action_distribution.distribution(output.parameters)

    def network_inputs(self, observation: tf.Tensor) -> tf.Tensor:
        """Returns what the networks take of observations `[N, ...]`.

        That is all but the action mask, normalized if the settings ask for it.
        """
        observation = without_mask(self.observations, observation)
        if not self._normalizes:
            return observation
        # An exported policy takes integers where the environment has them.
        floats = tf.cast(observation, tf.float32)
        normalized = (floats - self._mean.value) / self._deviation.value
        normalized = tf.clip_by_value(normalized, -self._clip, self._clip)
        if self.normalized.all():
            return normalized
        return tf.where(self.normalized, normalized, floats)

    def sample(self, observation: tf.Tensor, key: tf.Tensor) -> PolicyStep:
        """Samples actions for observations `[N, ...]` with the random `key` `[2]`."""
        output = self(observation)
        action = self.distribution(output).sample(seed=key)
        environment_action = self.action_distribution.to_environment(action)
        return PolicyStep(action, environment_action, output.value)

    # Compiled -------------------------------------------------------------------
    def act(self, observation: npt.ArrayLike, key: npt.ArrayLike) -> PolicyStep:
        """Samples actions, compiled; see `sample`."""
        tensor, key = self.tensor(observation), tf.constant(key)
        step: PolicyStep = self._compiled("act", self.sample, tensor, key)
        return step

    def mode(self, observation: npt.ArrayLike) -> tf.Tensor:
        """Returns the most likely actions, as the environment takes them, compiled."""

        def mode(observation: tf.Tensor) -> tf.Tensor:
            return self.action_distribution.greedy_action(self(observation).parameters)

        return self._compiled("mode", mode, self.tensor(observation))

    def predict(
        self,
        observation: npt.ArrayLike,
        key: npt.ArrayLike,
        *,
        deterministic: bool = False,
    ) -> Array:
        """Returns actions `[N, ...]` as the environment takes them.

        Args:
          observation: `[N, ...]`.
          key: `[2]`, random.
          deterministic: Whether to take the most probable actions; they are drawn
            otherwise.
        """
        if deterministic:
            return np.asarray(self.mode(observation))
        return np.asarray(self.act(observation, key).environment_action)

    def value(self, observation: npt.ArrayLike) -> tf.Tensor:
        """Returns the values `[N]` of observations `[N, ...]`, compiled."""

        def value(observation: tf.Tensor) -> tf.Tensor:
            return self(observation).value

        return self._compiled("value", value, self.tensor(observation))

    def tensor(self, observation: npt.ArrayLike) -> tf.Tensor:
        """Converts observations `[N, ...]` to what the network takes."""
        return tf.convert_to_tensor(observation, self.observation_spec.dtype)

    def _compiled(
        self, name: str, function: Callable[..., Any], *tensors: tf.Tensor
    ) -> Any:
        """Calls `function` through a cached graph (for pixels, one per batch size).

        Pixels are converted faster where the batch size is known. The graphs are
        concrete functions: the look-up of a trace by tf.function takes a third of a
        call that lasts half a millisecond.
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

    # State ----------------------------------------------------------------------
    def normalize(self, mean: npt.ArrayLike, deviation: npt.ArrayLike) -> None:
        """Sets the mean and the deviation that observations are normalized by.

        Args:
          mean: Of the numbers that are `normalized`, in their order.
          deviation: Likewise.
        """
        for variable, values in [(self._mean, mean), (self._deviation, deviation)]:
            array = variable.numpy()
            array[self.normalized] = np.ravel(values)
            variable.assign(array)

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables that decide what the policy does."""
        normalizer = [self._mean, self._deviation] if self._normalizes else []
        return [*self.network.variables, *normalizer, self.value_scale]

    def state(self) -> dict[str, Array]:
        """Returns the state of the policy; see `acktr_tf.states`."""
        return variables_state(self.variables)

    def load_state(self, state: State) -> None:
        """Loads what `state` returned.

        Raises:
          UserError: It is the state of another policy.
        """
        load_variables(self.variables, state)


def _check_mask(size: int, action_space: gymnasium.Space[Any]) -> None:
    """Raises a `UserError` unless masks of `size` numbers are of the action space."""
    masks = Masks(action_space)
    if size != masks.size:
        raise UserError(
            f"The action mask must have {masks.size} numbers, one per option of "
            f"{' '.join(str(action_space).split())}. Received: {size}."
        )
