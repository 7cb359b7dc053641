"""Keras networks that map observations to the policy's parameters and the value."""

import math
from typing import NamedTuple

import gymnasium
import numpy as np

from acktr_tf.backend import check_backend
from acktr_tf.config import Config
from acktr_tf.errors import UserError

check_backend()  # Before Keras fails to import another one.

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from acktr_tf.kfac.layers import FreeParameters  # noqa: E402
from acktr_tf.pixels import Pixels  # noqa: E402

SMALLEST_PICTURE = 8
SMALL_GAIN = 0.01
"""Of the last layer of a policy: the first one is nearly the same everywhere."""


class PolicyOutputs(NamedTuple):
    """What a network must say of a distribution of actions.

    Attributes:
      parameters: Numbers that describe it, `P`.
      free: How many of those, the last, do not depend on the observation.
      initial: What the free ones start from.
    """

    parameters: int
    free: int = 0
    initial: float = 0.0


# Of nature_cnn: filters, height and width, stride.
_FIRST_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2))
_CONV3_SIZE = 3
_CONV3_INPUTS = _FIRST_CONVOLUTIONS[-1][0] * _CONV3_SIZE**2


def make_network(
    config: Config, observation_space: gymnasium.spaces.Box, outputs: PolicyOutputs
) -> keras.Model:
    """The network that `config` names.

    Args:
      config: The run's settings; `seed` decides the initial weights.
      observation_space: Of one environment.
      outputs: Of the policy.

    Returns:
      A model from observations `[N, ...]` to policy parameters `[N, P]` and values
      `[N, 1]`.

    Raises:
      UserError: The network does not fit the observations.
    """
    shape, dtype = observation_space.shape, observation_space.dtype.name
    is_pictures = dtype == "uint8" and _are_pictures(shape)
    is_image = len(shape) == 3 and dtype == "uint8" and not is_pictures
    kind = config.network
    if kind == "auto":
        kinds = {"separate_cnns": is_pictures, "nature_cnn": is_image, "mlp": True}
        kind = next(name for name, fits in kinds.items() if fits)
    seeds = keras.random.SeedGenerator(config.seed)
    activations = (config.policy_activation, config.value_activation)
    if kind == "separate_cnns":
        if not is_pictures or min(shape[-3:-1]) < SMALLEST_PICTURE:
            raise UserError(
                "network=separate_cnns takes pictures, uint8 of shape [frames, height, "
                "width, colours] or [height, width, colours], with 1 or 3 colours and "
                f"at least {SMALLEST_PICTURE} pixels a side. "
                f"Received: {dtype} of shape {list(shape)}."
            )
        return separate_cnns(shape, outputs, activations, seeds)
    if kind == "nature_cnn":
        if not is_image or min(shape[1:]) < 36:
            raise UserError(
                "network=nature_cnn takes stacks of frames, uint8 of shape [frames, "
                f"height >= 36, width >= 36]. Received: {dtype} of shape {list(shape)}."
            )
        zero_mean = config.conv_initializer == "zero_mean_orthogonal"
        if zero_mean and config.conv3_filters >= _CONV3_INPUTS:
            raise UserError(
                f"`conv3_filters` must be < {_CONV3_INPUTS}, the inputs of such a "
                "filter, with conv_initializer=zero_mean_orthogonal. Received: "
                f"conv3_filters={config.conv3_filters}"
            )
        return nature_cnn(
            shape,
            outputs,
            config.conv3_filters,
            seeds,
            zero_mean=zero_mean,
        )
    if dtype == "uint8":
        raise UserError(
            f"network=mlp takes vectors of floats. Received: {dtype} of shape "
            f"{list(shape)}."
        )
    return separate_mlps(shape, outputs, config.hidden_size, activations, seeds)


@keras.saving.register_keras_serializable(package="acktr_tf")
class ZeroMeanOrthogonal(keras.initializers.Initializer):
    """Orthogonal filters, each with weights that sum to zero.

    A picture is mostly one background, and what a ReLU lets through is never negative:
    of a filter's response to either, nearly all is the sum of its weights times their
    mean. With plain orthogonal filters that decides each unit's sign, and so most units
    are either always zero or always linear from the start. Filters that sum to zero do
    not see the mean.

    A Gaussian matrix with the mean taken from each column is made orthonormal; the
    columns of the result span the same space, so that they, too, sum to zero.

    Args:
      gain: Length of each filter.
      seed: Of the random numbers.
    """

    def __init__(self, gain: float, seed: int) -> None:
        self._gain = gain
        self._seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
        """Filters of `shape` `[..., outputs]`.

        Raises:
          ValueError: There are not more inputs than outputs.
        """
        *inputs, outputs = shape
        size = math.prod(inputs)
        if size <= outputs:
            raise ValueError(
                "ZeroMeanOrthogonal needs more inputs than outputs. Received: "
                f"shape={tuple(shape)}"
            )
        rows = np.random.default_rng(self._seed).standard_normal((size, outputs))
        columns, _ = np.linalg.qr(rows - rows.mean(axis=0))
        return keras.ops.convert_to_tensor(
            self._gain * columns.reshape(shape), dtype=dtype or keras.config.floatx()
        )

    def get_config(self) -> dict[str, float]:
        """What makes an equal initializer."""
        return {"gain": self._gain, "seed": self._seed}


def nature_cnn(
    shape: tuple[int, ...],
    outputs: PolicyOutputs,
    conv3_filters: int,
    seeds: keras.random.SeedGenerator,
    *,
    zero_mean: bool = True,
) -> keras.Model:
    """The network of Mnih et al. 2015 with one trunk for policy and value.

    Args:
      shape: Of an observation: frames, height, width.
      outputs: Of the policy.
      conv3_filters: Filters of the third convolution (64 in Mnih et al., 32 in the
        released code of Wu et al. 2017).
      seeds: Where the initializers' seeds come from.
      zero_mean: Whether the initial filters sum to zero, beside being orthogonal.
    """

    def filters(gain: float) -> keras.initializers.Initializer:
        if zero_mean:
            return ZeroMeanOrthogonal(gain, _seed(seeds))
        return _orthogonal(seeds, gain)

    pixels = keras.Input(shape, dtype="uint8", name="observation")
    hidden = Pixels(frames_first=True, name="pixels")(pixels)
    for i, (count, size, stride) in enumerate(
        [*_FIRST_CONVOLUTIONS, (conv3_filters, _CONV3_SIZE, 1)], start=1
    ):
        hidden = keras.layers.Conv2D(
            count,
            size,
            stride,
            activation="relu",
            kernel_initializer=filters(math.sqrt(2.0)),
            name=f"conv{i}",
        )(hidden)
    hidden = keras.layers.Flatten(name="flatten")(hidden)
    hidden = _dense(512, "relu", seeds, math.sqrt(2.0), "fc")(hidden)
    policy = _policy_head(outputs, seeds, 1.0, hidden)
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(pixels, (policy, value), name="nature_cnn")


def separate_mlps(
    shape: tuple[int, ...],
    outputs: PolicyOutputs,
    hidden_size: int,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Two networks of two hidden layers each, one for the policy and one for the value.

    Args:
      shape: Of an observation; more than one axis is flattened.
      outputs: Of the policy.
      hidden_size: Units of each hidden layer.
      activations: Of the policy's hidden layers, and of the value's.
      seeds: Where the initializers' seeds come from.
    """
    observation = keras.Input(shape, dtype="float32", name="observation")
    flat = keras.layers.Flatten(name="flatten")(observation)

    def hidden_layers(name: str, activation: str) -> keras.KerasTensor:
        hidden = flat
        for i in (1, 2):
            layer = f"{name}_fc{i}"
            hidden = _dense(hidden_size, activation, seeds, math.sqrt(2.0), layer)(
                hidden
            )
        return hidden

    hidden = hidden_layers("policy", activations[0])
    policy = _policy_head(outputs, seeds, SMALL_GAIN, hidden)
    hidden = hidden_layers("value", activations[1])
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(observation, (policy, value), name="separate_mlps")


def separate_cnns(
    shape: tuple[int, ...],
    outputs: PolicyOutputs,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Two convolutional networks (Wu et al. 2017, MuJoCo from pixels).

    Each has two convolutions of 32 filters, 3×3 with stride 2 and zeros at the border,
    and a dense layer of 256 units.

    Args:
      shape: Of an observation: frames (if there are several), height, width, colours.
      outputs: Of the policy.
      activations: Of the policy's hidden layers, and of the value's.
      seeds: Where the initializers' seeds come from.
    """
    pixels = keras.Input(shape, dtype="uint8", name="observation")
    inputs = Pixels(frames_first=len(shape) == 4, name="pixels")(pixels)

    def hidden_layers(name: str, activation: str) -> keras.KerasTensor:
        hidden = inputs
        for i in (1, 2):
            hidden = keras.layers.Conv2D(
                32,
                3,
                2,
                padding="same",
                activation=activation,
                kernel_initializer=_orthogonal(seeds, math.sqrt(2.0)),
                name=f"{name}_conv{i}",
            )(hidden)
        hidden = keras.layers.Flatten(name=f"{name}_flatten")(hidden)
        return _dense(256, activation, seeds, math.sqrt(2.0), f"{name}_fc")(hidden)

    hidden = hidden_layers("policy", activations[0])
    policy = _policy_head(outputs, seeds, SMALL_GAIN, hidden)
    hidden = hidden_layers("value", activations[1])
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(pixels, (policy, value), name="separate_cnns")


def _are_pictures(shape: tuple[int, ...]) -> bool:
    """Whether the last of three or four axes can be colours."""
    return len(shape) in (3, 4) and shape[-1] in (1, 3)


def _policy_head(
    outputs: PolicyOutputs,
    seeds: keras.random.SeedGenerator,
    gain: float,
    hidden: keras.KerasTensor,
) -> keras.KerasTensor:
    """The policy's parameters `[N, P]`, from its last hidden layer."""
    dependent = _dense(outputs.parameters - outputs.free, None, seeds, gain, "policy")(
        hidden
    )
    if not outputs.free:
        return dependent
    initial = keras.initializers.Constant(outputs.initial)
    free = FreeParameters(outputs.free, initial, name="policy_free")(hidden)
    return keras.layers.Concatenate(name="policy_parameters")([dependent, free])


def _dense(
    units: int,
    activation: str | None,
    seeds: keras.random.SeedGenerator,
    gain: float,
    name: str,
) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=_orthogonal(seeds, gain),
        name=name,
    )


def _orthogonal(
    seeds: keras.random.SeedGenerator, gain: float
) -> keras.initializers.Initializer:
    return keras.initializers.Orthogonal(gain, seed=_seed(seeds))


def _seed(seeds: keras.random.SeedGenerator) -> int:
    # Of the generator's state, [seed, draws so far], both numbers: a seed of its own
    # for each layer of each run.
    state = [int(number) for number in seeds.next()]
    return int(np.random.SeedSequence(state).generate_state(1)[0] >> 1)
