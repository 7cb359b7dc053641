"""Keras networks that map observations to the policy's parameters and the value."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from acktr_tf.backend import check_backend
from acktr_tf.config.policy import PolicySettings
from acktr_tf.errors import UserError

check_backend()  # Before Keras fails to import another one.

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from acktr_tf.kfac import FreeParameters  # noqa: E402
from acktr_tf.policies.choice import (  # noqa: E402
    MAX_DENSE_INPUTS,
    MIN_SIDES,
    choose_network,
)
from acktr_tf.policies.parts import ObservationPart  # noqa: E402
from acktr_tf.policies.pixels import Pixels  # noqa: E402
from acktr_tf.spaces.observations import Observations, Part  # noqa: E402
from acktr_tf.spaces.pictures import (  # noqa: E402
    GRID,
    NUMBERS,
    height_axis,
    least_side,
    white,
)

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
_SMALL_FILTERS = 32
"""Filters of each of the two 3×3 convolutions of small pictures and of grids."""

Initializer = Callable[[float], keras.initializers.Initializer]
"""Makes another initializer of a gain at each call."""


def make_network(
    settings: PolicySettings,
    observations: Observations,
    head: HeadSpec,
    seed: int,
) -> keras.Model:
    """Makes the network that `settings` name, as `choose_network` understands them.

    Args:
      settings: Network of the policy.
      observations: Encoding of one environment's observations.
      head: Outputs of the policy.
      seed: Decides the initial weights.

    Returns:
      A model from encoded observations `[N, ...]` to policy parameters `[N, P]` and
      values `[N, 1]`. Its input is uint8 where that is one picture of bytes, float32
      otherwise.

    Raises:
      UserError: The network does not fit the observations.
    """
    network = choose_network(settings.network, observations)
    seeds = keras.random.SeedGenerator(seed)
    activations = (settings.policy_activation, settings.value_activation)
    if network in ("nature_cnn", "multi_input"):
        zero_mean = settings.conv_initializer == "zero_mean_orthogonal"
        if zero_mean and settings.conv3_filters >= _CONV3_INPUTS:
            raise UserError(
                f"`conv3_filters` must be < {_CONV3_INPUTS}, the inputs of such a "
                "filter, with conv_initializer=zero_mean_orthogonal. Received: "
                f"conv3_filters={settings.conv3_filters}"
            )

        def filters(gain: float) -> keras.initializers.Initializer:
            if zero_mean:
                return ZeroMeanOrthogonal(gain, _seed(seeds))
            return _orthogonal(seeds, gain)

        filter_counts = settings.conv3_filters
        if network == "multi_input":
            return multi_input(observations, head, filter_counts, filters, seeds)
        (part,) = observations.network_parts
        return nature_cnn(part, head, filter_counts, filters, seeds)
    if network in ("separate_cnns", "grid_cnn"):
        (part,) = observations.network_parts
        make_separate = separate_cnns if network == "separate_cnns" else grid_cnn
        return make_separate(part, head, activations, seeds)
    shape = observations.network_space.shape
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
    part: Part,
    head: HeadSpec,
    conv3_filters: int,
    filters: Initializer,
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Makes the network of Mnih et al. 2015 with one trunk for policy and value.

    Pictures that are too large for its dense layer are first averaged over squares.

    Args:
      part: Observations that are one picture.
      head: Outputs of the policy.
      conv3_filters: Filters of the third convolution (64 in Mnih et al., 32 in the
        released code of Wu et al. 2017).
      filters: Makes the initializers of the convolutions.
      seeds: Generator of the other initializers' seeds.
    """
    inputs = _array_input(part)
    hidden = _nature_convolutions(_pixels(part, inputs), conv3_filters, filters)
    hidden = keras.layers.Flatten(name="flatten")(hidden)
    hidden = _dense(512, "relu", seeds, math.sqrt(2.0), "fc")(hidden)
    policy = _policy_head(head, seeds, 1.0, hidden)
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(inputs, (policy, value), name="nature_cnn")


def multi_input(
    observations: Observations,
    head: HeadSpec,
    conv3_filters: int,
    filters: Initializer,
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Makes a network for pictures and grids beside numbers, for policy and value.

    Each picture and each grid has convolutions and a dense layer of 256 units of its
    own. What these give, and the numbers as they are, enter one dense layer of 256
    units, from which policy and value are linear.

    Args:
      observations: Observations of several parts.
      head: Outputs of the policy.
      conv3_filters: Filters of the third convolution of pictures.
      filters: Makes the initializers of the convolutions of pictures.
      seeds: Generator of the other initializers' seeds.
    """
    encoded = keras.Input(
        observations.network_space.shape, dtype="float32", name="observation"
    )

    def convolutions(part: Part, array: keras.KerasTensor) -> keras.KerasTensor:
        prefix = f"{part.name}_"
        if part.kind == GRID:
            return _cell_convolutions(
                _cells(part, array, prefix), "relu", seeds, prefix
            )
        pixels = _pixels(part, array, prefix)
        if least_side(part.shape) < MIN_SIDES["nature_cnn"]:
            pixels = _averaged(pixels, MIN_SIDES["separate_cnns"], _small_size, prefix)
            return _small_convolutions(pixels, "relu", seeds, prefix)
        return _nature_convolutions(pixels, conv3_filters, filters, prefix)

    features = []
    for part, start, stop in observations.network_slices:
        if part.kind == NUMBERS:
            cut = ObservationPart(start, (stop - start,), name=f"{part.name}_part")
            features.append(cut(encoded))
            continue
        cut = ObservationPart(start, part.shape, name=f"{part.name}_part")
        hidden = convolutions(part, cut(encoded))
        hidden = keras.layers.Flatten(name=f"{part.name}_flatten")(hidden)
        fc = _dense(256, "relu", seeds, math.sqrt(2.0), f"{part.name}_fc")
        features.append(fc(hidden))
    hidden = features[0]
    if len(features) > 1:
        hidden = keras.layers.Concatenate(name="features")(features)
    hidden = _dense(256, "relu", seeds, math.sqrt(2.0), "fc")(hidden)
    policy = _policy_head(head, seeds, POLICY_GAIN, hidden)
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(encoded, (policy, value), name="multi_input")


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

    def hidden_layers(prefix: str, activation: str) -> keras.KerasTensor:
        hidden = flat
        for i in (1, 2):
            layer = f"{prefix}fc{i}"
            hidden = _dense(hidden_size, activation, seeds, math.sqrt(2.0), layer)(
                hidden
            )
        return hidden

    return _two_networks(
        observation, hidden_layers, head, activations, seeds, "separate_mlps"
    )


def separate_cnns(
    part: Part,
    head: HeadSpec,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Makes two convolutional networks (Wu et al. 2017, MuJoCo from pixels).

    Each has two convolutions of 32 filters, 3×3 with stride 2 and zeros at the border,
    and a dense layer of 256 units. Pictures that are too large for the dense layers are
    first averaged over squares.

    Args:
      part: Observations that are one picture.
      head: Outputs of the policy.
      activations: Activations of the policy's hidden layers, and of the value's.
      seeds: Generator of the initializers' seeds.
    """
    inputs = _array_input(part)
    pixels = _averaged(_pixels(part, inputs), MIN_SIDES["separate_cnns"], _small_size)

    def hidden_layers(prefix: str, activation: str) -> keras.KerasTensor:
        hidden = _small_convolutions(pixels, activation, seeds, prefix)
        hidden = keras.layers.Flatten(name=f"{prefix}flatten")(hidden)
        return _dense(256, activation, seeds, math.sqrt(2.0), f"{prefix}fc")(hidden)

    return _two_networks(
        inputs, hidden_layers, head, activations, seeds, "separate_cnns"
    )


def grid_cnn(
    part: Part,
    head: HeadSpec,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
) -> keras.Model:
    """Makes two small convolutional networks for grids of cells.

    Each has two convolutions of 32 filters, 3×3 with zeros at the border, and a dense
    layer of 64 units. The stride is 1, and longer in grids that would have too many
    cells for the dense layer. Cells are numbers as they are.

    Args:
      part: Observations that are one grid.
      head: Outputs of the policy.
      activations: Activations of the policy's hidden layers, and of the value's.
      seeds: Generator of the initializers' seeds.
    """
    inputs = _array_input(part, "float32")
    cells = _cells(part, inputs)

    def hidden_layers(prefix: str, activation: str) -> keras.KerasTensor:
        hidden = _cell_convolutions(cells, activation, seeds, prefix)
        hidden = keras.layers.Flatten(name=f"{prefix}flatten")(hidden)
        return _dense(64, activation, seeds, math.sqrt(2.0), f"{prefix}fc")(hidden)

    return _two_networks(inputs, hidden_layers, head, activations, seeds, "grid_cnn")


def _two_networks(
    inputs: keras.KerasTensor,
    hidden_layers: Callable[[str, str], keras.KerasTensor],
    head: HeadSpec,
    activations: tuple[str, str],
    seeds: keras.random.SeedGenerator,
    name: str,
) -> keras.Model:
    """Makes a model of two networks that share nothing but their inputs.

    Args:
      inputs: Input of the model.
      hidden_layers: From a prefix of the layers' names and an activation to the last
        hidden layer of one network.
      head: Outputs of the policy.
      activations: Activations of the policy's hidden layers, and of the value's.
      seeds: Generator of the initializers' seeds.
      name: Name of the model.
    """
    hidden = hidden_layers("policy_", activations[0])
    policy = _policy_head(head, seeds, POLICY_GAIN, hidden)
    hidden = hidden_layers("value_", activations[1])
    value = _dense(1, None, seeds, 1.0, "value")(hidden)
    return keras.Model(inputs, (policy, value), name=name)


# Pictures and grids -----------------------------------------------------------------
def _array_input(part: Part, dtype: str | None = None) -> keras.KerasTensor:
    """Returns the input of a network for one array: bytes stay bytes by default."""
    dtype = dtype or ("uint8" if part.dtype == "uint8" else "float32")
    return keras.Input(part.shape, dtype=dtype, name="observation")


def _pixels(
    part: Part, array: keras.KerasTensor, prefix: str = ""
) -> keras.KerasTensor:
    """Returns pictures as `[N, height, width, channels]`, floats from 0 to 1."""
    space: Any = part.space  # A Box.
    scale = 1.0 / white(space)
    return Pixels(height_axis(part.shape), scale, name=f"{prefix}pixels")(array)


def _cells(part: Part, array: keras.KerasTensor, prefix: str = "") -> keras.KerasTensor:
    """Returns grids as `[N, height, width, channels]`, their numbers as they are."""
    return Pixels(height_axis(part.shape), 1.0, name=f"{prefix}cells")(array)


def _averaged(
    pixels: keras.KerasTensor,
    min_side: int,
    dense_inputs: Callable[[int, int], int],
    prefix: str = "",
) -> keras.KerasTensor:
    """Averages pictures over squares, as large as the dense layer after them needs.

    Args:
      pixels: Pictures.
      min_side: Sides that must be left.
      dense_inputs: From height and width to the inputs of the dense layer.
      prefix: Prefix of the layer's name.
    """
    _, height, width, _ = pixels.shape
    size = 1
    while (
        dense_inputs(height // size, width // size) > MAX_DENSE_INPUTS
        and min(height, width) // (size + 1) >= min_side
    ):
        size += 1
    if size == 1:
        return pixels
    return keras.layers.AveragePooling2D(size, name=f"{prefix}average")(pixels)


def _nature_convolutions(
    pixels: keras.KerasTensor,
    conv3_filters: int,
    filters: Initializer,
    prefix: str = "",
) -> keras.KerasTensor:
    """Returns the features of nature_cnn's three convolutions."""
    convolutions = [*_FIRST_CONVOLUTIONS, (conv3_filters, _CONV3_SIZE, 1)]

    def dense_inputs(*sides: int) -> int:
        for _, size, stride in convolutions:
            sides = tuple((side - size) // stride + 1 for side in sides)
        return math.prod(sides) * conv3_filters

    hidden = _averaged(pixels, MIN_SIDES["nature_cnn"], dense_inputs, prefix)
    for i, (count, size, stride) in enumerate(convolutions, start=1):
        hidden = keras.layers.Conv2D(
            count,
            size,
            stride,
            activation="relu",
            kernel_initializer=filters(math.sqrt(2.0)),
            name=f"{prefix}conv{i}",
        )(hidden)
    return hidden


def _small_size(height: int, width: int, strides: Sequence[int] = (2, 2)) -> int:
    """Returns how many features `_small_convolutions` makes."""
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height * width * _SMALL_FILTERS


def _small_convolutions(
    inputs: keras.KerasTensor,
    activation: str,
    seeds: keras.random.SeedGenerator,
    prefix: str,
    strides: Sequence[int] = (2, 2),
) -> keras.KerasTensor:
    """Returns the features of two convolutions, 3×3 with zeros at the border."""
    hidden = inputs
    for i, stride in enumerate(strides, start=1):
        hidden = keras.layers.Conv2D(
            _SMALL_FILTERS,
            3,
            stride,
            padding="same",
            activation=activation,
            kernel_initializer=_orthogonal(seeds, math.sqrt(2.0)),
            name=f"{prefix}conv{i}",
        )(hidden)
    return hidden


def _cell_convolutions(
    cells: keras.KerasTensor,
    activation: str,
    seeds: keras.random.SeedGenerator,
    prefix: str,
) -> keras.KerasTensor:
    """Returns features of grids, by the shortest strides that the dense layer takes."""
    _, height, width, _ = cells.shape
    strides = (1, 1)
    while _small_size(height, width, strides) > MAX_DENSE_INPUTS:
        first, second = strides
        strides = (second, first + 1) if first == second else (second, second)
    return _small_convolutions(cells, activation, seeds, prefix, strides)


# Layers -----------------------------------------------------------------------------
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
