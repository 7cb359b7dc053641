"""The signals that meet in a layer's weights: its inputs and its output gradients.

With ā a layer's inputs and a 1 for its bias, and g the gradient of one example's
log-likelihood with respect to the layer's pre-activations, the gradient of the layer's
weights is ā gᵀ, summed over the positions at which the layer is applied: those of a
convolution, the items of a sequence, or the calls of a layer that a model calls several
times. Equation numbers are those of docs/kfac.md.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from acktr_tf.kfac.capture import Call
from acktr_tf.kfac.statistics.patches import extract_patches


class Signals(NamedTuple):
    """Inputs and output gradients of a layer for each of N examples at T positions.

    The gradient of example i with respect to the weights, as a matrix `[n, m]`, is the
    sum over t of ā_it g_itᵀ.

    Attributes:
      a: ā, `[N, T, n]`; for one-hot inputs their indices, `[N, T]` integers.
      g: Gradients with respect to the pre-activations, `[N, T, m]`.
      bias: Whether ā has a 1 after the elements of `a`, which is then `[N, T, n - 1]`:
        the inputs of a layer with a bias need not be copied to append it.
    """

    a: tf.Tensor
    g: tf.Tensor
    bias: bool = False


def dense_signals(
    layer: keras.layers.Dense, call: Call, gradients: tf.Tensor
) -> Signals:
    """Returns the signals of a dense layer on `[N, ..., in]`.

    The axes between the first and the last are positions.

    Args:
      layer: The layer.
      call: Call of the layer.
      gradients: `[N, ..., out]`.
    """
    return Signals(
        flatten_positions(call.inputs), flatten_positions(gradients), layer.use_bias
    )


def free_parameter_signals(
    layer: keras.layers.Layer, call: Call, gradients: tf.Tensor
) -> Signals:
    """Returns the signals of free parameters: a dense layer with ā = 1.

    A = [1] and G = E[g gᵀ], so that A ⊗ G is the Fisher matrix of the parameters
    themselves and only the expectation is estimated.

    Args:
      layer: A `FreeParameters`.
      call: Call of the layer.
      gradients: `[N, m]`.
    """
    return exact_signals(gradients)


def conv_signals(
    layer: Any,
    call: Call,
    gradients: tf.Tensor,
    stride: int = 1,
    offset: tf.Tensor | int = 0,
) -> Signals:
    """Returns the signals of a convolution: ā_t is the patch of output position t.

    Args:
      layer: A Conv1D, Conv2D or Conv3D.
      call: Call of the layer, with inputs `[N, *space, channels]`.
      gradients: `[N, *positions, out]`.
      stride: Distance along each axis of the positions whose patches are taken; g is
        taken at all positions.
      offset: First of these positions; see `extract_patches`.
    """
    patches = extract_patches(call.inputs, layer, stride, offset)
    return Signals(
        flatten_positions(patches), flatten_positions(gradients), layer.use_bias
    )


def embedding_signals(
    layer: keras.layers.Embedding, call: Call, gradients: tf.Tensor
) -> Signals:
    """Returns the signals of an embedding: a dense layer on one-hot inputs.

    Args:
      layer: The embedding.
      call: Call of the layer, with indices `[N, ...]` as inputs.
      gradients: `[N, ..., out]`.
    """
    size = [tf.shape(gradients)[0], -1]
    index = tf.reshape(tf.cast(call.inputs, tf.int64), size)
    return Signals(index, flatten_positions(gradients))


def normalization_signals(layer: Any, call: Call, gradients: tf.Tensor) -> Signals:
    """Returns the signals of scale γ and offset β of a normalization, y = γ x̂ + β.

    With u one example's gradient of (γ, β), the sum of (g_t x̂_t, g_t) over its
    positions, the block is E[u uᵀ], the Fisher matrix of γ and β themselves. The
    moments that normalize the inputs are taken for constants.

    Args:
      layer: A BatchNormalization or LayerNormalization.
      call: Call of the layer.
      gradients: As the outputs.
    """
    rank = gradients.shape.rank
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    kept = sorted(axis % rank for axis in axes)
    summed = [axis for axis in range(1, rank) if axis not in kept]

    width = math.prod(gradients.shape[axis] for axis in kept)

    def sum_per_example(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.reduce_sum(values, axis=summed), [-1, width])

    parts = []
    if layer.scale:
        parts.append(sum_per_example(gradients * _normalized(layer, call, kept)))
    if layer.center:
        parts.append(sum_per_example(gradients))
    return exact_signals(tf.concat(parts, axis=1))


def _normalized(layer: Any, call: Call, axes: Sequence[int]) -> tf.Tensor:
    """Returns x̂, the inputs before scale and offset."""
    inputs = call.inputs
    rank = inputs.shape.rank
    if isinstance(layer, keras.layers.LayerNormalization):
        mean, variance = tf.nn.moments(inputs, axes, keepdims=True)
    elif call.training:
        others = [axis for axis in range(rank) if axis not in axes]
        if call.mask is None:
            mean, variance = tf.nn.moments(inputs, others, keepdims=True)
        else:
            counted = tf.cast(call.mask, inputs.dtype)[..., tf.newaxis]
            mean, variance = tf.nn.weighted_moments(
                inputs, others, counted, keepdims=True
            )
    else:
        shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
        mean = tf.reshape(layer.moving_mean.value, shape)
        variance = tf.reshape(layer.moving_variance.value, shape)
    return (inputs - mean) * tf.math.rsqrt(variance + layer.epsilon)


def flatten_positions(values: tf.Tensor) -> tf.Tensor:
    """Returns `[N, ..., n]` as `[N, T, n]`, with T static where it is known.

    Args:
      values: Values at the positions of N examples.
    """
    count = values.shape[1:-1].num_elements()
    shape = [tf.shape(values)[0], -1 if count is None else count, values.shape[-1]]
    return tf.reshape(values, shape)


def exact_signals(gradients: tf.Tensor) -> Signals:
    """Returns the signals of weights whose gradients per example are known: ā = 1.

    A = [1] and G = E[g gᵀ], so that A ⊗ G is the Fisher matrix of the weights: of all
    of them together, which takes a matrix of their number squared.

    Args:
      gradients: Gradient of each example with respect to the weights, `[N, m]`.
    """
    g = gradients[:, tf.newaxis]
    return Signals(tf.ones_like(g[..., :1]), g)
