import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from oracles import kfac as oracle

from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.kfac.capture import Call
from acktr_tf.kfac.statistics.factors import Factors, factors_of
from acktr_tf.kfac.statistics.moments import moments
from acktr_tf.kfac.statistics.patches import extract_patches
from acktr_tf.kfac.statistics.signals import conv_signals, dense_signals
from kfac import twins
from kfac.pairwise import pairwise


def conv_factors(
    x: np.ndarray, g: np.ndarray, layer, positions: str = "none"
) -> Factors:
    x = tf.convert_to_tensor(x)
    signals = conv_signals(layer, Call(x, None, False), tf.convert_to_tensor(g))
    found = moments(signals, 0)
    return factors_of(found, tf.cast(tf.shape(x)[0], tf.float32), positions)


def dense_factors(x: np.ndarray, g: np.ndarray, use_bias: bool) -> Factors:
    layer = keras.layers.Dense(g.shape[-1], use_bias=use_bias)
    signals = dense_signals(layer, Call(tf.constant(x), None, False), tf.constant(g))
    return factors_of(moments(signals, 0), float(len(x)))


@pytest.mark.parametrize("count", [2, 7])  # Fewer than there are inputs, and more.
@pytest.mark.parametrize("use_bias", [False, True])
def test_dense_factors_equal_sums_of_outer_products(use_bias, count):
    x, g = twins.inputs(count, 3), twins.inputs(count, 2, seed=2)

    factors = dense_factors(x, g, use_bias)

    rows = np.float64(x)[:, np.newaxis]
    if use_bias:
        rows = np.concatenate([rows, np.ones((count, 1, 1))], axis=2)
    np.testing.assert_allclose(factors.a, oracle.factor_a(rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        factors.g, oracle.factor_g(np.float64(g)[:, np.newaxis]), rtol=1e-5, atol=1e-6
    )


def check_conv_factors(
    size, channels, filters, kernel_size, strides, padding, dilation, use_bias
):
    layer = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding=padding,
        dilation_rate=dilation,
        use_bias=use_bias,
    )
    x = twins.inputs(3, *size, channels)
    outputs = layer(x)
    g = twins.inputs(*outputs.shape, seed=2)

    factors = conv_factors(x, g, layer)

    twin = twins.oracle_layer(layer)
    rows = twin.rows(np.float64(x))
    # The oracle's patches are right: they reproduce Keras' own convolution.
    np.testing.assert_allclose(
        twin.arrange(rows @ twin.matrix, x), outputs, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(factors.a, oracle.factor_a(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        factors.g,
        oracle.factor_g(np.float64(g).reshape(3, -1, filters)),
        rtol=1e-4,
        atol=1e-5,
    )


# Kernel, strides and dilation.
WINDOWS = [
    ((1, 1), (1, 1), (1, 1)),
    ((3, 3), (1, 1), (1, 1)),
    ((4, 4), (2, 2), (1, 1)),
    ((2, 3), (3, 1), (1, 1)),
    ((3, 2), (1, 1), (2, 2)),
    ((3, 2), (1, 1), (1, 3)),
]


@pytest.mark.parametrize(
    ("window", "padding", "use_bias"),
    pairwise(WINDOWS, ["valid", "same"], [False, True]),
)
def test_conv_factors_equal_loops_over_patches(window, padding, use_bias):
    kernel_size, strides, dilation = window
    check_conv_factors((7, 6), 2, 3, kernel_size, strides, padding, dilation, use_bias)


@hypothesis.given(
    height=st.integers(5, 9),
    width=st.integers(5, 9),
    channels=st.integers(1, 3),
    filters=st.integers(1, 3),
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["valid", "same"]),
    use_bias=st.booleans(),
)
def test_conv_factors_equal_loops_over_patches_of_any_size(
    height,
    width,
    channels,
    filters,
    kernel_size,
    stride,
    dilation,
    padding,
    use_bias,
):
    # Keras has no convolution with both.
    hypothesis.assume(stride == 1 or dilation == 1)
    check_conv_factors(
        (height, width),
        channels,
        filters,
        kernel_size,
        (stride, stride),
        padding,
        (dilation, dilation),
        use_bias,
    )


def test_correlated_positions_multiply_the_gradients_factor_by_their_number():
    layer = keras.layers.Conv2D(3, 2)
    x, g = twins.inputs(5, 4, 6, 2), twins.inputs(5, 3, 5, 3, seed=2)
    layer.build(x.shape)

    kfc = conv_factors(x, g, layer, "none")
    bound = conv_factors(x, g, layer, "full")

    np.testing.assert_array_equal(bound.a, kfc.a)
    np.testing.assert_allclose(
        bound.g,
        3 * 5 * oracle.factor_g(np.float64(g).reshape(5, -1, 3)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_patches_are_in_the_order_of_the_flattened_kernel():
    layer = keras.layers.Conv2D(3, (2, 3), (2, 1), use_bias=False)
    x = tf.constant(twins.inputs(2, 5, 6, 2))
    outputs = layer(x)

    patches = extract_patches(x, layer)

    kernel = tf.reshape(layer.kernel, [-1, 3])
    np.testing.assert_allclose(patches @ kernel, outputs, rtol=1e-4, atol=1e-5)


def test_a_convolution_with_one_output_position_is_a_dense_layer():
    layer = keras.layers.Conv2D(3, (4, 5))
    x, g = twins.inputs(6, 4, 5, 2), twins.inputs(6, 3, seed=2)
    layer.build(x.shape)

    conv = conv_factors(x, g[:, None, None], layer)
    dense = dense_factors(x.reshape(6, -1), g, True)

    np.testing.assert_array_equal(conv.a, dense.a)
    np.testing.assert_array_equal(conv.g, dense.g)


def test_conv_factors_of_images_of_a_size_known_only_when_run():
    layer = keras.layers.Conv2D(3, 2)
    x, g = twins.inputs(2, 4, 5, 1), twins.inputs(2, 3, 4, 3, seed=2)
    layer.build((None, None, None, 1))
    expected = conv_factors(x, g, layer)

    @tf.function(input_signature=[tf.TensorSpec([None] * 3 + [n]) for n in (1, 3)])
    def graph(x, g):
        return conv_factors(x, g, layer)

    for actual, same in zip(graph(x, g), expected, strict=True):
        np.testing.assert_allclose(actual, same, rtol=1e-6)


# Running means --------------------------------------------------------------------
def one_layer(decay: float) -> tuple[twins.Twin, KFAC]:
    twin = twins.Twin((3,), [], [keras.layers.Dense(2)])
    optimizer = KFAC(factor_decay=decay)
    optimizer.attach(twin.model)
    return twin, optimizer


def update(optimizer: KFAC, twin: twins.Twin, x: np.ndarray, noise: np.ndarray) -> None:
    with CurvatureTape(optimizer.layers) as tape:
        log_likelihood = tf.reduce_sum(noise * twin.outputs(x), axis=1)
    optimizer.update_factors(tape, log_likelihood)


def test_factors_are_zero_before_the_first_batch():
    _, optimizer = one_layer(0.9)
    for factor in optimizer.blocks[0].factors():
        np.testing.assert_array_equal(factor, np.zeros(factor.shape))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_first_batch_is_taken_whole_whatever_the_decay(decay):
    twin, optimizer = one_layer(decay)
    x, noise = twins.inputs(5, 3), twins.inputs(5, 2, seed=2)

    update(optimizer, twin, x, noise)

    expected = dense_factors(x, noise, True)
    for actual, batch in zip(optimizer.blocks[0].factors(), expected, strict=True):
        np.testing.assert_allclose(actual, batch, rtol=2e-5, atol=1e-6)


def test_factors_are_a_weighted_mean_of_the_batches():
    decay = 0.8
    twin, optimizer = one_layer(decay)
    batches = [
        (twins.inputs(5, 3, seed=s), twins.inputs(5, 2, seed=-s % 9)) for s in range(4)
    ]

    for x, noise in batches:
        update(optimizer, twin, x, noise)

    weights = np.array([decay**age for age in (3, 2, 1, 0)])
    weights /= weights.sum()
    all_factors = [dense_factors(x, noise, True) for x, noise in batches]
    for which, actual in enumerate(optimizer.blocks[0].factors()):
        expected = sum(
            weight * factors[which].numpy()
            for weight, factors in zip(weights, all_factors, strict=True)
        )
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_a_batch_that_is_not_finite_leaves_the_factors_as_they_are(bad, where):
    twin, optimizer = one_layer(0.9)
    x, noise = twins.inputs(5, 3), twins.inputs(5, 2, seed=2)
    update(optimizer, twin, x, noise)
    before = [factor.numpy() for factor in optimizer.blocks[0].factors()]
    # The square of 1e30 overflows.
    (x if where == "inputs" else noise)[1, 1] = bad

    update(optimizer, twin, x, noise)

    for actual, same in zip(optimizer.blocks[0].factors(), before, strict=True):
        np.testing.assert_array_equal(actual, same)


def test_second_moments_of_a_layer_in_half_precision_are_taken_in_float32():
    layer = keras.layers.Dense(2, dtype="mixed_float16")
    twin = twins.Twin((3,), [], [layer])
    optimizer = KFAC()
    optimizer.attach(twin.model)
    # Their squares overflow float16, whose largest number is 65504.
    x, noise = 1000 * twins.inputs(5, 3), twins.inputs(5, 2, seed=2).astype(np.float16)

    update(optimizer, twin, x, noise)

    a = optimizer.blocks[0].factors().a
    assert a.dtype == tf.float32
    expected = oracle.factor_a(np.float64(x.astype(np.float16))[:, np.newaxis])
    np.testing.assert_allclose(a[:-1, :-1], expected, rtol=1e-4, atol=1)
