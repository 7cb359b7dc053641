"""Keras networks that map observations to the policy's parameters and the value."""

import math
from typing import NamedTuple

import gymnasium
import numpy as np

from acktr_tf.backend import check_backend
from acktr_tf.config.policy import PolicySettings
from acktr_tf.errors import UserError

check_backend()  # Before Keras fails to import another one.

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from acktr_tf.kfac import FreeParameters  # noqa: E402
from acktr_tf.policies.pixels import Pixels  # noqa: E402

MIN_PICTURE_SIZE = 8
POLICY_GAIN = 0.01
"""Gain of a policy's last layer: the first policy is nearly the same everywhere."""


class HeadSpec(NamedTuple):
    """Outputs of a network that describe a distribution of actions.

    Attributes:
      num_parameters: `P`, numbers that describe one distribution.
      num_state_independent: Numbers at the end of the `P` that do not depend on the
        observation.
      initial_log_std: Initial value of the state-independent numbers.
    """

    num_parameters: int
    num_state_independent: int = 0
    initial_log_std: float = 0.0


# Filters, height and width, and stride of nature_cnn's first convolutions.
_FIRST_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2))
_CONV3_SIZE = 3
_CONV3_INPUTS = _FIRST_CONVOLUTIONS[-1][0] * _CONV3_SIZE**2


def make_network(
    settings: PolicySettings,
    observation_space: gymnasium.spaces.Box,
    head: HeadSpec,
    seed: int,
) -> keras.Model:
    """Makes the network that `settings` name.

    Args:
      settings: Network of the policy.
      observation_space: Encoded space of one environment's observations.
      head: Outputs of the policy.
      seed: Decides the initial weights.

    Returns:
      A model from observations `[N, ...]` to policy parameters `[N, P]` and values
      `[N, 1]`.

    Raises:
      UserError: The network does not fit the observations.
    """
    shape, dtype = observation_space.shape, observation_space.dtype.name
    is_pictures = dtype == "uint8" and _are_pictures(shape)
    is_image = len(shape) == 3 and dtype == "uint8" and not is_pictures
    network = settings.network
    if network == "auto":
        fits = {"separate_cnns": is_pictures, "nature_cnn": is_image, "mlp": True}
        network = next(name for name, fit in fits.items() if fit)
    seeds = keras.random.SeedGenerator(seed)
    activations = (settings.policy_activation, settings.value_activation)
    if network == "separate_cnns":
        if not is_pictures or min(shape[-3:-1]) < MIN_PICTURE_SIZE:
            raise UserError(
                "network=separate_cnns takes pictures, uint8 of shape [frames, height, "
                "width, colours] or [height, width, colours], with 1 or 3 colours and "
                f"at least {MIN_PICTURE_SIZE} pixels a side. "
                f"Received: {dtype} of shape {list(shape)}."
            )
        return separate_cnns(shape, head, activations, seeds)
    if network == "nature_cnn":
        if not is_image or min(shape[1:]) < 36:
            raise UserError(
                "network=nature_cnn takes stacks of frames, uint8 of shape [frames, "
                f"height >= 36, width >= 36]. Received: {dtype} of shape {list(shape)}."
            )
        zero_mean = settings.conv_initializer == "zero_mean_orthogonal"
        if zero_mean and settings.conv3_filters >= _CONV3_INPUTS:
            raise UserError(
                f"`conv3_filters` must be < {_CONV3_INPUTS}, the inputs of such a "
                "filter, with conv_initializer=zero_mean_orthogonal. Received: "
                f"conv3_filters={settings.conv3_filters}"
            )
        return nature_cnn(
            shape,
            head,
            settings.conv3_filters,
            seeds,
            zero_mean=zero_mean,
        )
    if dtype == "uint8":
        raise UserError(
            f"network=mlp takes vectors of floats. Received: {dtype} of shape "
            f"{list(shape)}."
        )
    return separate_mlps(shape, head, settings.hidden_size, activations, seeds)


@keras.saving.register_keras_serializable(package="acktr_tf")
class ZeroMeanOrthogonal(keras.initializers.Initializer):
    """Initializer of orthogonal filters, each with weights that sum to zero.

    A picture is mostly one background, and the outputs of a ReLU are never negative. A
    filter's response to such inputs is nearly the sum of its weights times their mean.
    With plain orthogonal filters that product decides each unit's sign, so that most
    units are either always zero or always linear from the start. Filters that sum to
    zero do not see the mean.

    The columns of a Gaussian matrix are centred and made orthonormal. The result spans
    the same space, so that its columns sum to zero, too.

    Args:
      gain: Length of each filter.
      seed: Seed of the random numbers.
    """

    def __init__(self, gain: float, seed: int) -> None:
        self._gain = gain
        self._seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
        """Returns filters of `shape` `[..., outputs]`.

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
        """Returns the arguments of an equal initializer."""
        return {"gain": self._gain, "seed": self._seed}


def nature_cnn(
    shape: tuple[int, ...],
    head: HeadSpec,
    conv3_filters: int,
    seeds: keras.random.SeedGenerator,
    *,
    zero_mean: bool = True,
) -> keras.Model:
    """Makes the network of Mnih et al. 2015 with one trunk for policy and value.

    Args:
      shape: Shape of an observation: frames, height, width.
      head: Outputs of the policy.
      conv3_filters: Filters of the third convolution (64 in Mnih et al., 32 in the
        released code of Wu et al. 2017).
      seeds: Generator of the initializers' seeds.
      zero_mean: Whether the initial filters sum to zero and are orthogonal, not only
        the latter.
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
    policy = _policy_head(head, seeds, 1.0, hidden)
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(pixels, (policy, value), name="nature_cnn")


def separate_mlps(
    shape: tuple[int, ...],
    head: HeadSpec,
    hidden_size: int,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Makes two networks of two hidden layers each, for policy and for value.

    Args:
      shape: Shape of an observation; more than one axis is flattened.
      head: Outputs of the policy.
      hidden_size: Units of each hidden layer.
      activations: Activations of the policy's hidden layers, and of the value's.
      seeds: Generator of the initializers' seeds.
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
    policy = _policy_head(head, seeds, POLICY_GAIN, hidden)
    hidden = hidden_layers("value", activations[1])
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(observation, (policy, value), name="separate_mlps")


def separate_cnns(
    shape: tuple[int, ...],
    head: HeadSpec,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Makes two convolutional networks (Wu et al. 2017, MuJoCo from pixels).

    Each has two convolutions of 32 filters, 3×3 with stride 2 and zeros at the border,
    and a dense layer of 256 units.

    Args:
      shape: Shape of an observation: frames (if there are several), height, width,
        colours.
      head: Outputs of the policy.
      activations: Activations of the policy's hidden layers, and of the value's.
      seeds: Generator of the initializers' seeds.
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
    policy = _policy_head(head, seeds, POLICY_GAIN, hidden)
    hidden = hidden_layers("value", activations[1])
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(pixels, (policy, value), name="separate_cnns")


def _are_pictures(shape: tuple[int, ...]) -> bool:
    """Returns whether the last of three or four axes can be colours."""
    return len(shape) in (3, 4) and shape[-1] in (1, 3)


def _policy_head(
    head: HeadSpec,
    seeds: keras.random.SeedGenerator,
    gain: float,
    hidden: keras.KerasTensor,
) -> keras.KerasTensor:
    """Returns the policy's parameters `[N, P]`, given its last hidden layer."""
    num_dependent = head.num_parameters - head.num_state_independent
    dependent = _dense(num_dependent, None, seeds, gain, "policy")(hidden)
    if not head.num_state_independent:
        return dependent
    initial = keras.initializers.Constant(head.initial_log_std)
    free = FreeParameters(head.num_state_independent, initial, name="policy_free")(
        hidden
    )
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
    # Both numbers of the generator's state, [seed, draws so far], so that each layer of
    # each run has a seed of its own.
    state = [int(number) for number in seeds.next()]
    return int(np.random.SeedSequence(state).generate_state(1)[0] >> 1)
