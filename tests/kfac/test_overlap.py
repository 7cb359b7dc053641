"""Second moments of overlapping patches beside loops over patches in float64."""

from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from acktr_tf.kfac.capture import Call
from acktr_tf.kfac.statistics import signals
from acktr_tf.kfac.statistics.moments import conv_moments, moments
from acktr_tf.kfac.statistics.overlap import patches_overlap, second_moment
from acktr_tf.kfac.statistics.signals import conv_signals
from kfac import twins


@st.composite
def overlapping(draw) -> twins.Convolution:
    """Some with rows and columns that no position sees."""
    axes = draw(st.integers(1, 2))
    strides = draw(st.tuples(*[st.integers(1, 3)] * axes))
    cells = [draw(st.integers(2, 4)), draw(st.integers(1, 3))][:axes]
    outputs = [draw(st.integers(cells[0], cells[0] + 3)), draw(st.integers(1, 4))]
    padding = draw(st.sampled_from(["valid", "same", *(["causal"] * (axes == 1))]))
    kernel = [count * stride for count, stride in zip(cells, strides, strict=True)]
    size = []
    for output, stride, length in zip(outputs, strides, kernel, strict=False):
        seen = (output - 1) * stride + (length if padding == "valid" else 1)
        size.append(seen + draw(st.integers(0, stride - 1)))
    arguments = {
        "kernel_size": kernel,
        "strides": strides,
        "padding": padding,
        "use_bias": draw(st.booleans()),
    }
    shape = (draw(st.integers(1, 3)), *size, draw(st.integers(1, 3)))
    return twins.Convolution(arguments, shape)


@hypothesis.given(case=overlapping())
def test_the_second_moment_is_that_of_all_patches(case):
    layer, x = case.make()
    assert patches_overlap(tf.constant(x), layer)
    patches = twins.exact_patches(x, layer)
    rows = patches.reshape(-1, patches.shape[-1])

    moment, sums = second_moment(tf.constant(x), layer)

    twins.assert_close(moment, rows.T @ rows, 1e-6)
    twins.assert_close(sums, rows.sum(axis=0), 1e-6)


@hypothesis.given(case=overlapping())
def test_moments_without_patches_are_those_with_them(case):
    layer, x = case.make()
    outputs = layer(x)
    call = Call(tf.constant(x), outputs, False, None)
    gradients = tf.constant(twins.inputs(*outputs.shape, seed=2))
    all_patches = conv_signals(layer, call, gradients)
    expected = moments(all_patches, all_patches.a.shape[-1] + all_patches.bias)

    found = conv_moments(layer, call, gradients)

    for actual, same in zip(found, expected, strict=True):
        twins.assert_close(actual, same.numpy(), 1e-6)


def test_what_no_position_sees_is_left_out():
    layer = keras.layers.Conv2D(1, 4, strides=2)
    x = twins.inputs(1, 11, 11, 1)
    x[:, 10], x[:, :, 10] = np.nan, np.nan  # The last patch ends at 9.
    layer.build(x.shape)

    assert np.isfinite(second_moment(tf.constant(x), layer)[0]).all()


def test_what_is_not_finite_is_seen():
    layer = keras.layers.Conv2D(1, 3)
    x = twins.inputs(1, 6, 6, 1)
    layer.build(x.shape)
    x[0, 5, 5, 0] = np.inf  # Only the last element of the last patch.

    moment, sums = (array.numpy() for array in second_moment(tf.constant(x), layer))

    assert not np.isfinite(moment[8]).any()
    assert np.isfinite(moment[:8, :8]).all()
    np.testing.assert_array_equal(np.isfinite(sums), [True] * 8 + [False])


def overlaps(shape: tuple[int | None, ...], **arguments: Any) -> bool:
    layer = twins.CONVOLUTIONS[len(shape) - 2](1, **arguments)
    layer.build(shape)
    return patches_overlap(keras.Input(shape[1:]), layer)


@pytest.mark.parametrize(
    ("shape", "arguments", "expected"),
    [
        ((2, 6, 6, 1), {"kernel_size": 3}, True),
        ((None, 6, 6, 1), {"kernel_size": 3}, True),
        ((2, 8, 6, 1), {"kernel_size": (4, 3), "strides": (2, 3)}, True),
        ((2, 6, 1), {"kernel_size": 2}, True),
        ((2, 20, 1), {"kernel_size": 8}, True),
        # A graph of thousands of operations.
        ((2, 20, 1), {"kernel_size": 9}, False),
        # Nothing overlaps along the first axis.
        ((2, 6, 6, 1), {"kernel_size": (1, 3)}, False),
        ((2, 6, 6, 1), {"kernel_size": 2, "strides": 2}, False),
        # Strides do not divide the kernel, along either axis.
        ((2, 8, 8, 1), {"kernel_size": (3, 2), "strides": (2, 2)}, False),
        ((2, 8, 8, 1), {"kernel_size": (4, 3), "strides": (2, 2)}, False),
        ((2, 8, 8, 1), {"kernel_size": 3, "dilation_rate": 2}, False),
        ((2, 6, 6, 6, 1), {"kernel_size": 3}, False),
        # Sizes are not known.
        ((2, None, 6, 1), {"kernel_size": 3}, False),
        ((2, 6, None, 1), {"kernel_size": 3}, False),
        # Two rows of positions, of patches that are three high.
        ((2, 4, 6, 1), {"kernel_size": 3}, False),
    ],
)
def test_where_patches_overlap(shape, arguments, expected):
    assert overlaps(shape, **arguments) is expected


def test_patches_that_overlap_are_not_made(monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("patches were made")

    monkeypatch.setattr(signals, "extract_patches", never)
    layer = keras.layers.Conv2D(2, 3)
    x = tf.constant(twins.inputs(2, 5, 5, 1))
    outputs = layer(x)
    call = Call(x, outputs, False, None)

    conv_moments(layer, call, outputs)

    with pytest.raises(AssertionError, match="patches were made"):
        conv_moments(layer, call, outputs, 2)
