"""Keras models beside their float64 twins, and targets whose average is exact."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from oracles import kfac as oracle
from oracles.networks import Conv, Dense, Layer, Network

from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.kfac.blocks.block import Block


class Twin:
    """A Keras model of a trunk and heads, and the same network in float64.

    Args:
      shape: Of one input.
      trunk: Layers one after the other.
      heads: Layers side by side on the trunk's output.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        trunk: Sequence[keras.layers.Layer],
        heads: Sequence[keras.layers.Dense],
    ) -> None:
        inputs = hidden = keras.Input(shape)
        for layer in trunk:
            hidden = layer(hidden)
        if len(hidden.shape) > 2:
            hidden = keras.layers.Flatten()(hidden)
        self.model = keras.Model(inputs, [head(hidden) for head in heads])
        self.layers = [layer for layer in [*trunk, *heads] if layer.weights]
        self._depth = sum(bool(layer.weights) for layer in trunk)
        randomize(self.model)

    def outputs(self, x: tf.Tensor) -> tf.Tensor:
        """What the heads say, concatenated: `[N, K]`."""
        return tf.concat(tf.nest.flatten(self.model(x)), axis=1)

    @property
    def network(self) -> Network:
        """The float64 twin with the model's present weights."""
        layers = tuple(oracle_layer(layer) for layer in self.layers)
        return Network(layers[: self._depth], layers[self._depth :])

    def block(self, optimizer: KFAC, index: int) -> Block:
        """The optimizer's block of the layer with that index in `network`."""
        return next(b for b in optimizer.blocks if b.layer is self.layers[index])


def randomize(model: keras.Model, seed: int = 0) -> None:
    """Weights, biases too, such that nothing is zero or symmetric by chance."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        fan_in = max(1, int(np.prod(variable.shape[:-1])))
        variable.assign(rng.normal(0, 0.8 / np.sqrt(fan_in), variable.shape))


def matrix_of(layer: keras.layers.Layer) -> np.ndarray:
    """Kernel and bias of a Keras layer as one float64 matrix."""
    rows = [np.asarray(w, np.float64).reshape(-1, w.shape[-1]) for w in layer.weights]
    return np.concatenate(rows)


def oracle_layer(layer: keras.layers.Layer) -> Layer:
    """The float64 twin of one Keras layer."""
    activation = layer.activation.__name__
    if isinstance(layer, keras.layers.Dense):
        return Dense(matrix_of(layer), layer.use_bias, activation)
    return Conv(
        matrix_of(layer),
        tuple(layer.kernel_size),
        tuple(layer.strides),
        layer.padding,
        tuple(layer.dilation_rate),
        layer.use_bias,
        activation,
    )


def inputs(*shape: int, seed: int = 1) -> np.ndarray:
    """A batch that float32 and float64 hold alike."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def state_of(block: Block, name: str) -> keras.Variable:
    """The variable of a block of that name, without the layer's."""
    return next(v for v in block.state if v.name == f"{block.layer.name}_{name}")


# Single examples ------------------------------------------------------------------
LogLikelihood = Callable[[list[tf.Tensor]], tf.Tensor]
"""The outputs of a model → `[N]`, in the outputs' precision."""


CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
"""By their axes."""


class Convolution(NamedTuple):
    """Arguments of a convolution, and the shape of inputs with room for its kernel."""

    arguments: dict[str, Any]
    shape: tuple[int, ...]

    def make(self) -> tuple[keras.layers.Layer, np.ndarray]:
        """It, built, and inputs."""
        layer = CONVOLUTIONS[len(self.shape) - 2](2, **self.arguments)
        layer.build(self.shape)
        return layer, inputs(*self.shape)


def exact_patches(x: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """What each position of a convolution sees, in float64."""
    return oracle.patches(
        np.float64(x),
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.dilation_rate,
    )


def in_float64(model: keras.Model) -> keras.Model:
    """A copy of a model that computes in float64."""

    def copy(layer: keras.Operation) -> keras.Operation:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer):
            config["dtype"] = "float64"
        return type(layer).from_config(config)

    twin = keras.models.clone_model(model, clone_function=copy, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def per_example_gradients(
    model: keras.Model, x: np.ndarray, of: LogLikelihood, training: bool = False
) -> list[np.ndarray]:
    """What each example's log-likelihood says of each trainable variable, in float64.

    No second moment and no hook comes into this: `[N, *shape]` a variable.
    """
    twin = in_float64(model)
    variables = [variable.value for variable in twin.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        values = tf.unstack(of(tf.nest.flatten(twin(x, training=training))))
    # Of an embedding gradients come as slices.
    rows = [
        [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, variables)]
        for value in values
    ]
    return [np.stack(examples) for examples in zip(*rows, strict=True)]


def wavy_log_likelihood(outputs: list[tf.Tensor]) -> tf.Tensor:
    """One whose gradient is another one at each output and of each example, `[N]`."""
    total = tf.zeros([], outputs[0].dtype)
    for number, output in enumerate(outputs):
        weights = inputs(int(np.prod(output.shape[1:])), seed=7 + number)
        flat = tf.reshape(output, [-1, len(weights)])
        total += tf.linalg.matvec(tf.sin(3 * flat), tf.cast(weights, flat.dtype))
    return total


def block_gradients(
    block: Block, model: keras.Model, found: list[np.ndarray]
) -> np.ndarray:
    """Gradients of all trainable variables as the matrices `[N, n, m]` of a block."""
    where = {id(v): number for number, v in enumerate(model.trainable_variables)}
    parts = [found[where[id(v)]] for v in block.variables]
    examples = len(parts[0])
    if isinstance(
        block.layer,
        keras.layers.BatchNormalization | keras.layers.LayerNormalization,
    ):
        # Scale and offset side by side.
        return np.concatenate([p.reshape(examples, 1, -1) for p in parts], axis=2)
    width = parts[0].shape[-1]
    return np.concatenate([p.reshape(examples, -1, width) for p in parts], axis=1)


def assert_close(actual, expected, tolerance: float = 1e-5) -> None:
    """Equal but for rounding: within `tolerance` of the largest element."""
    largest = np.abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


# Targets --------------------------------------------------------------------------
# Instead of drawing targets, a batch is repeated once for each of a few targets whose
# weighted average is the expectation over the model's distribution. The weight w of a
# target goes into its gradient as a factor sqrt(w), so second moments are exact.


def update_exactly_gaussian(optimizer: KFAC, twin: Twin, x: np.ndarray) -> None:
    """Curvature of N(y; outputs, I): noise ±1 in all combinations has moment I."""
    count = sum(output.shape[-1] for output in twin.model.outputs)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=count)), np.float32)
    with CurvatureTape(optimizer.layers) as tape:
        outputs = twin.outputs(np.tile(x, (len(signs),) + (1,) * (x.ndim - 1)))
        noise = np.repeat(signs, len(x), axis=0)
        log_likelihood = tf.reduce_sum(noise * outputs, axis=1)
    optimizer.update_curvature(tape, log_likelihood)


def update_exactly_actor_critic(optimizer: KFAC, twin: Twin, x: np.ndarray) -> None:
    """Curvature of softmax(logits)(a) N(v; V, 1): all a, and noise ±1."""
    actions = sum(output.shape[-1] for output in twin.model.outputs) - 1
    targets = list(itertools.product(range(actions), [-1.0, 1.0]))
    with CurvatureTape(optimizer.layers) as tape:
        outputs = twin.outputs(np.tile(x, (len(targets),) + (1,) * (x.ndim - 1)))
        action = np.repeat([a for a, _ in targets], len(x))
        noise = np.repeat(np.float32([sign for _, sign in targets]), len(x))
        log_p = tf.gather(
            tf.nn.log_softmax(outputs[:, :-1]), action, axis=1, batch_dims=1
        )
        # Each of len(targets) is 1/len(targets) of the batch, and p/2 of the truth.
        weight = tf.stop_gradient(tf.exp(log_p)) * (len(targets) / 2)
        log_likelihood = tf.sqrt(weight) * (log_p + noise * outputs[:, -1])
    optimizer.update_curvature(tape, log_likelihood)
