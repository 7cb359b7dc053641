"""Second moments of a layer's signals, summed over examples, positions and calls."""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from acktr_tf.kfac.capture import Call
from acktr_tf.kfac.statistics.overlap import patches_overlap, second_moment
from acktr_tf.kfac.statistics.signals import Signals, conv_signals, flatten_positions


class Moments(NamedTuple):
    """Second moments, summed over examples, positions and calls.

    Attributes:
      a: Σ ā āᵀ, or its diagonal.
      g: Σ g gᵀ, or its diagonal.
      positions: Number of positions, summed over examples.
    """

    a: tf.Tensor
    g: tf.Tensor
    positions: tf.Tensor


def moments(
    signals: Signals,
    num_inputs: int,
    *,
    diagonal_a: bool = False,
    diagonal_g: bool = False,
) -> Moments:
    """Returns the moments of one call.

    Args:
      signals: Signals of all examples. If there are fewer positions of ā than of g,
        they stand for all.
      num_inputs: n.
      diagonal_a: Whether of Σ ā āᵀ only the diagonal is wanted. Of one-hot ā there is
        nothing else.
      diagonal_g: Whether of Σ g gᵀ only the diagonal is wanted.
    """
    if signals.a.dtype.is_integer:
        index = tf.reshape(signals.a, [-1])
        ones = tf.ones_like(index, signals.g.dtype)
        a = tf.math.unsorted_segment_sum(ones, index, num_inputs)
    elif diagonal_a:
        a = _squares_of_inputs(signals)
    else:
        a = _second_moment_of_inputs(signals)
    positions = tf.cast(tf.shape(signals.g)[1], signals.g.dtype)
    taken = tf.cast(tf.shape(signals.a)[1], signals.g.dtype)
    return _moments(a * (positions / taken), signals.g, diagonal_g)


def conv_moments(
    layer: Any,
    call: Call,
    gradients: tf.Tensor,
    stride: int = 1,
    offset: tf.Tensor | int = 0,
    *,
    diagonal_a: bool = False,
    diagonal_g: bool = False,
) -> Moments:
    """Returns the moments of a call of a convolution: those of `conv_signals`.

    Patches that overlap are not copied out of the inputs; see `overlap`.

    Args:
      layer: See `conv_signals`.
      call: See `conv_signals`.
      gradients: See `conv_signals`.
      stride: See `conv_signals`.
      offset: See `conv_signals`.
      diagonal_a: See `moments`.
      diagonal_g: See `moments`.
    """
    if diagonal_a or stride > 1 or not patches_overlap(call.inputs, layer):
        signals = conv_signals(layer, call, gradients, stride, offset)
        return moments(
            signals,
            signals.a.shape[-1] + signals.bias,
            diagonal_a=diagonal_a,
            diagonal_g=diagonal_g,
        )
    g = flatten_positions(gradients)
    a, sums = second_moment(call.inputs, layer)
    if layer.use_bias:
        count = tf.cast(tf.shape(g)[0] * tf.shape(g)[1], g.dtype)
        a = _with_bias(a, sums, count)
    return _moments(a, g, diagonal_g)


def _second_moment_of_inputs(signals: Signals) -> tf.Tensor:
    """Returns the sum of ā āᵀ over examples and positions."""
    flat = tf.reshape(signals.a, [-1, signals.a.shape[-1]])
    if not signals.bias:
        return _second_moment(flat)
    if (flat.shape[0] or math.inf) < flat.shape[1]:
        # With few rows the moment is larger than they are: copy the rows instead.
        ones = tf.ones([flat.shape[0], 1], flat.dtype)
        return _second_moment(tf.concat([flat, ones], axis=1))
    count = tf.shape(flat)[0]
    # As a product, which is faster than TensorFlow's sum over rows.
    sums = tf.matmul(tf.ones([1, count], flat.dtype), flat)[0]
    return _with_bias(_second_moment(flat), sums, tf.cast(count, flat.dtype))


def _squares_of_inputs(signals: Signals) -> tf.Tensor:
    """Returns the sum of ā² over examples and positions, element by element."""
    squares = _sum_of_squares(signals.a)
    if not signals.bias:
        return squares
    count = tf.size(signals.a) // signals.a.shape[-1]
    return tf.concat([squares, [tf.cast(count, squares.dtype)]], axis=0)


def _with_bias(moment: tf.Tensor, sums: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns Σ ā āᵀ for ā = (a, 1), from Σ a aᵀ, Σ a and the number of rows."""
    border = tf.concat([sums, [count]], axis=0)
    above = tf.concat([moment, sums[:, tf.newaxis]], axis=1)
    return tf.concat([above, border[tf.newaxis]], axis=0)


def _moments(a: tf.Tensor, g: tf.Tensor, diagonal_g: bool) -> Moments:
    """Returns the moments, from that of ā and the gradients `[N, T, m]`."""
    size = tf.cast(tf.shape(g), g.dtype)
    moment = _sum_of_squares(g) if diagonal_g else _second_moment(g)
    return Moments(a, moment, size[0] * size[1])


def _second_moment(rows: tf.Tensor) -> tf.Tensor:
    """Returns the sum of x xᵀ over the rows x of `[N, T, n]`."""
    flat = tf.reshape(rows, [-1, rows.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True)


def _sum_of_squares(rows: tf.Tensor) -> tf.Tensor:
    """Returns the sum of x² over the rows x of `[N, T, n]`, `[n]`."""
    return tf.reduce_sum(tf.square(tf.reshape(rows, [-1, rows.shape[-1]])), axis=0)
