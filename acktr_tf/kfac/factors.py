"""The two Kronecker factors of a layer, estimated from one batch.

With ā a layer's inputs and a 1 for its bias, and g the gradient of one example's
log-likelihood with respect to the layer's pre-activations, the layer's block of the
Fisher matrix is E[(ā āᵀ) ⊗ (g gᵀ)], approximated by A ⊗ G. A layer may be applied at
many positions of an example: those of a convolution, the items of a sequence, or the
calls of a layer that a model calls several times. Equation numbers are those of
docs/kfac.md.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from acktr_tf.kfac.capture import Call
from acktr_tf.kfac.overlap import patches_overlap, second_moment
from acktr_tf.kfac.patches import extract_patches

CONV_POSITIONS = ("uncorrelated", "correlated")


class Factors(NamedTuple):
    """Second moments over one batch.

    Attributes:
      a: Of the inputs, `[n, n]`, or its diagonal `[n]` where it is diagonal.
      g: Of the pre-activations' gradients, `[m, m]`, or its diagonal `[m]`.
    """

    a: tf.Tensor
    g: tf.Tensor


class Rows(NamedTuple):
    """What a layer's weights `[n, m]` see of each example at each of its T positions.

    The gradient of example i is the sum over t of ā_it g_itᵀ.

    Attributes:
      a: ā, `[N, T, n]`; of one-hot vectors the indices, `[N, T]` integers.
      g: `[N, T, m]`.
      bias: Whether ā has one more element than `a`, a 1 at the end of each: the inputs
        of a layer with a bias, which are not copied to put it there.
    """

    a: tf.Tensor
    g: tf.Tensor
    bias: bool = False


class Moments(NamedTuple):
    """Second moments, summed over examples, positions and calls.

    Attributes:
      a: Σ ā āᵀ.
      g: Σ g gᵀ.
      positions: How many positions there were.
    """

    a: tf.Tensor
    g: tf.Tensor
    positions: tf.Tensor


def moments(rows: Rows, num_inputs: int) -> Moments:
    """The moments of one call.

    Args:
      rows: Of all examples. If there are fewer positions of ā than of g, they stand
        for all.
      num_inputs: n.
    """
    if rows.a.dtype.is_integer:
        index = tf.reshape(rows.a, [-1])
        ones = tf.ones_like(index, rows.g.dtype)
        a = tf.math.unsorted_segment_sum(ones, index, num_inputs)
    else:
        a = _second_moment_of_inputs(rows)
    positions = tf.cast(tf.shape(rows.g)[1], rows.g.dtype)
    seen = tf.cast(tf.shape(rows.a)[1], rows.g.dtype)
    return _moments(a * (positions / seen), rows.g)


def conv_moments(
    layer: Any,
    call: Call,
    gradients: tf.Tensor,
    every: int = 1,
    offset: tf.Tensor | int = 0,
) -> Moments:
    """The moments of a call of a convolution: those of `conv_rows`.

    Patches that overlap are not made; see `overlap`.

    Args:
      layer: See `conv_rows`, as of the others.
      call: Its call.
      gradients: Of its outputs.
      every: Patches of one position in so many.
      offset: Of these.
    """
    if every > 1 or not patches_overlap(call.inputs, layer):
        rows = conv_rows(layer, call, gradients, every, offset)
        return moments(rows, rows.a.shape[-1] + rows.bias)
    g = _positions(gradients)
    a, sums = second_moment(call.inputs, layer)
    if layer.use_bias:
        count = tf.cast(tf.shape(g)[0] * tf.shape(g)[1], g.dtype)
        a = _with_bias(a, sums, count)
    return _moments(a, g)


def factors_of(
    moments: Moments, examples: tf.Tensor, positions: str = "uncorrelated"
) -> Factors:
    """The factors of a layer, from its moments. Equations (5), (6).

        Ω = E[Σ_t ā_t ā_tᵀ],  Γ = (κ/|T|) E[Σ_t g_t g_tᵀ]

    where t runs over the |T| positions of all calls (KFC, Grosse & Martens 2016, 3.1;
    of several calls, Martens, Ba & Johnson 2018, 3.5.1). With one position these are
    equations (3) and (4), A = E[ā āᵀ] and G = E[g gᵀ] (Martens & Grosse 2015, section
    3). κ is 1 if the positions' gradients are taken for uncorrelated, as KFC does, and
    |T| if they are taken for fully correlated, an upper bound.

    Args:
      moments: Summed over all calls.
      examples: How many they are of, scalar.
      positions: One of `CONV_POSITIONS`.
    """
    a, g = moments.a / examples, moments.g / examples
    if positions == "correlated":
        return Factors(a, g)
    return Factors(a, g / (moments.positions / examples))


# Kinds of layers --------------------------------------------------------------------
def dense_rows(layer: keras.layers.Dense, call: Call, gradients: tf.Tensor) -> Rows:
    """Of a dense layer on `[N, ..., in]`: the axes between are positions."""
    return Rows(_positions(call.inputs), _positions(gradients), layer.use_bias)


def bias_rows(layer: keras.layers.Layer, call: Call, gradients: tf.Tensor) -> Rows:
    """Of free parameters: a dense layer with ā = 1.

    A = [1] and G = E[g gᵀ], so that A ⊗ G is the Fisher matrix of the parameters
    themselves and nothing is approximated but the expectation.
    """
    return _exact_rows(gradients)


def conv_rows(
    layer: Any,
    call: Call,
    gradients: tf.Tensor,
    every: int = 1,
    offset: tf.Tensor | int = 0,
) -> Rows:
    """Of a convolution: ā_t is the patch that output position t sees.

    Args:
      layer: A Conv1D, Conv2D or Conv3D.
      call: Its inputs are `[N, *space, channels]`.
      gradients: `[N, *positions, out]`.
      every: Patches of one position in so many along each axis; of g all.
      offset: Of these; see `extract_patches`.
    """
    patches = extract_patches(call.inputs, layer, every, offset)
    return Rows(_positions(patches), _positions(gradients), layer.use_bias)


def embedding_rows(
    layer: keras.layers.Embedding, call: Call, gradients: tf.Tensor
) -> Rows:
    """Of an embedding: a dense layer on one-hot inputs, so that A is diagonal.

    Args:
      layer: The embedding.
      call: Its inputs are indices `[N, ...]`.
      gradients: `[N, ..., out]`.
    """
    size = [tf.shape(gradients)[0], -1]
    index = tf.reshape(tf.cast(call.inputs, tf.int64), size)
    return Rows(index, _positions(gradients))


def normalization_rows(layer: Any, call: Call, gradients: tf.Tensor) -> Rows:
    """Of the scale γ and the offset β of a normalization, y = γ x̂ + β.

    With u one example's gradient of (γ, β), the sum of (g_t x̂_t, g_t) over its
    positions, the block is E[u uᵀ], the Fisher matrix of γ and β themselves. The
    moments that the inputs were normalized by are taken for constants.

    Args:
      layer: A BatchNormalization or LayerNormalization.
      call: Its call.
      gradients: As its outputs.
    """
    rank = gradients.shape.rank
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    kept = sorted(axis % rank for axis in axes)
    summed = [axis for axis in range(1, rank) if axis not in kept]

    width = math.prod(gradients.shape[axis] for axis in kept)

    def of_example(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.reduce_sum(values, axis=summed), [-1, width])

    parts = []
    if layer.scale:
        parts.append(of_example(gradients * _normalized(layer, call, kept)))
    if layer.center:
        parts.append(of_example(gradients))
    return _exact_rows(tf.concat(parts, axis=1))


def _normalized(layer: Any, call: Call, axes: Sequence[int]) -> tf.Tensor:
    """x̂, the inputs before scale and offset."""
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


# Arrangement ------------------------------------------------------------------------
def _positions(values: tf.Tensor) -> tf.Tensor:
    """`[N, ..., n]` as `[N, T, n]`, T known in a graph where it can be."""
    count = values.shape[1:-1].num_elements()
    shape = [tf.shape(values)[0], -1 if count is None else count, values.shape[-1]]
    return tf.reshape(values, shape)


def _exact_rows(gradients: tf.Tensor) -> Rows:
    """Of parameters whose gradients of each example are `[N, m]`: ā = 1."""
    g = gradients[:, tf.newaxis]
    return Rows(tf.ones_like(g[..., :1]), g)


def _second_moment_of_inputs(rows: Rows) -> tf.Tensor:
    """The sum of ā āᵀ over the rows."""
    flat = tf.reshape(rows.a, [-1, rows.a.shape[-1]])
    if not rows.bias:
        return _second_moment(flat)
    if (flat.shape[0] or math.inf) < flat.shape[1]:
        # Few rows: it is the moment that is not to be copied.
        ones = tf.ones([flat.shape[0], 1], flat.dtype)
        return _second_moment(tf.concat([flat, ones], axis=1))
    count = tf.shape(flat)[0]
    # As a product, which is faster than TensorFlow's sum over rows.
    sums = tf.matmul(tf.ones([1, count], flat.dtype), flat)[0]
    return _with_bias(_second_moment(flat), sums, tf.cast(count, flat.dtype))


def _with_bias(moment: tf.Tensor, sums: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Σ ā āᵀ of ā = (a, 1), from Σ a aᵀ, Σ a and how many there are."""
    border = tf.concat([sums, [count]], axis=0)
    above = tf.concat([moment, sums[:, tf.newaxis]], axis=1)
    return tf.concat([above, border[tf.newaxis]], axis=0)


def _moments(a: tf.Tensor, g: tf.Tensor) -> Moments:
    """Of Σ ā āᵀ and of the gradients `[N, T, m]`."""
    size = tf.cast(tf.shape(g), g.dtype)
    return Moments(a, _second_moment(g), size[0] * size[1])


def _second_moment(rows: tf.Tensor) -> tf.Tensor:
    """The sum of x xᵀ over the rows x of `[N, T, n]`."""
    flat = tf.reshape(rows, [-1, rows.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True)
