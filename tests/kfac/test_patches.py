"""Patches of convolutions beside loops over positions and kernel elements."""

import itertools
from collections.abc import Sequence

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from oracles import kfac as oracle

from acktr_tf.kfac import KFAC
from acktr_tf.kfac.blocks import kronecker
from acktr_tf.kfac.blocks.block import Block
from acktr_tf.kfac.inverses import EKFACInverse
from acktr_tf.kfac.statistics.patches import extract_patches, patch_bytes, positions
from kfac import twins
from kfac.pairwise import pairwise


@st.composite
def convolutions(draw) -> twins.Convolution:
    """Any of one to three axes."""
    axes = draw(st.integers(1, 3))
    paddings = ["valid", "same", *(["causal"] if axes == 1 else [])]
    kernel = draw(st.tuples(*[st.integers(1, 3)] * axes))
    strides = draw(st.tuples(*[st.integers(1, 3)] * axes))
    dilation = (1,) * axes
    if max(strides) == 1:  # Keras has no convolution with both.
        dilation = draw(st.tuples(*[st.integers(1, 2)] * axes))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [draw(st.integers(least, 7 if axes < 3 else 5)) for least in reach]
    arguments = {
        "kernel_size": kernel,
        "strides": strides,
        "padding": draw(st.sampled_from(paddings)),
        "dilation_rate": dilation,
    }
    return twins.Convolution(arguments, (2, *size, draw(st.integers(1, 2))))


def offsets_of(number: int, every: int, axes: int) -> tuple[int, ...]:
    """The digits of a number in base `every`, the first axis' first."""
    return tuple(number // every**axis % every for axis in range(axes))


def subset(patches: np.ndarray, every: int, offsets: Sequence[int]) -> np.ndarray:
    """One position in so many along each axis, from an offset or the last on."""
    where = [
        slice(min(offset, count - 1), None, every)
        for offset, count in zip(offsets, patches.shape[1:-1], strict=True)
    ]
    return patches[(slice(None), *where)]


@hypothesis.given(case=convolutions())
def test_patches_are_what_each_position_sees(case):
    layer, x = case.make()
    expected = twins.exact_patches(x, layer)
    # The loops are right: they reproduce Keras' own convolution. In float64, because
    # oneDNN, of TensorFlow 2.21 in float32, leaves positions of one channel out where
    # strides differ.
    exact = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
    exact.build(x.shape)
    kernel = np.float64(exact.kernel).reshape(-1, 2)
    twins.assert_close(exact(np.float64(x)), expected @ kernel, 1e-12)

    np.testing.assert_array_equal(extract_patches(tf.constant(x), layer), expected)

    for axis, count in enumerate(exact.compute_output_shape(x.shape)[1:-1]):
        assert positions(x.shape[1 + axis], layer, axis) == count
        assert positions(tf.constant(x.shape[1 + axis]), layer, axis) == count


@hypothesis.given(
    case=convolutions(), every=st.integers(1, 4), offset=st.integers(0, 70)
)
def test_patches_of_some_positions_are_a_subset_of_all(case, every, offset):
    layer, x = case.make()
    offsets = offsets_of(offset, every, x.ndim - 2)
    expected = subset(twins.exact_patches(x, layer), every, offsets)

    found = extract_patches(tf.constant(x), layer, every, offset)

    np.testing.assert_array_equal(found, expected)


def test_an_offset_beyond_the_positions_takes_the_last():
    layer = keras.layers.Conv2D(1, (1, 2))
    x = twins.inputs(1, 5, 3, 1)  # Five positions by two.
    layer.build(x.shape)
    found = extract_patches(tf.constant(x), layer, 4, 3 + 4 * 3)
    assert found.shape == (1, 1, 1, 2)
    np.testing.assert_array_equal(found[0, 0, 0], x[0, 3, 1:, 0])


def test_the_offset_may_be_a_tensor_and_sizes_unknown():
    layer = keras.layers.Conv2D(1, 2, padding="same")
    x = twins.inputs(2, 5, 4, 1)
    layer.build(x.shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 1]),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def graph(x, offset):
        return extract_patches(x, layer, 2, offset)

    for number in range(4):
        expected = subset(twins.exact_patches(x, layer), 2, offsets_of(number, 2, 2))
        np.testing.assert_array_equal(graph(x, number), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_cycle_of_offsets_sees_every_position_once(axes):
    layer = twins.CONVOLUTIONS[axes](1, 1)
    size = (4, 5, 3)[:axes]
    x = np.arange(np.prod(size), dtype=np.float32).reshape(1, *size, 1)
    layer.build(x.shape)
    every = 2
    seen = np.concatenate(
        [
            np.ravel(extract_patches(tf.constant(x), layer, every, step))
            for step in range(every**axes)
        ]
    )
    np.testing.assert_array_equal(np.sort(seen), np.ravel(x))


# Statistics -----------------------------------------------------------------------
def conv_model(
    layer: keras.layers.Layer, shape: tuple[int | None, ...], calls: int = 1
) -> keras.Model:
    inputs = hidden = keras.Input(shape)
    for _ in range(calls):
        hidden = layer(hidden)
    pooled = keras.layers.Lambda(
        lambda h: tf.reduce_mean(tf.square(h), axis=tuple(range(1, h.shape.rank - 1))),
        output_shape=(layer.filters,),
    )(hidden)
    model = keras.Model(inputs, pooled)
    twins.randomize(model)
    return model


def factors_after(
    model: keras.Model, x: np.ndarray, signature=None, step: int = 0, **arguments
) -> Block:
    """The block of the one layer, once it has seen a batch."""
    optimizer = KFAC(**arguments)
    optimizer.attach(model)
    optimizer.iterations.assign(step)

    def update(x):
        with optimizer.curvature_tape() as tape:
            log_likelihood = twins.wavy_log_likelihood([model(x)])
        optimizer.update_factors(tape, log_likelihood)

    if signature is not None:
        update = tf.function(
            update, input_signature=[tf.TensorSpec(signature)], autograph=False
        )
    update(tf.constant(x))
    return optimizer.blocks[0]


@pytest.mark.parametrize("size", [(4, 6), (6,), (4, 2, 2)])
@pytest.mark.parametrize("positions", ["none", "full"])
def test_the_mean_over_a_cycle_of_offsets_is_the_factor_of_all_positions(
    size, positions
):
    every, axes = 2, len(size)
    model = conv_model(twins.CONVOLUTIONS[axes](2, 3, padding="same"), (*size, 2))
    x = twins.inputs(3, *size, 2)
    whole = factors_after(model, x, spatial_correlation=positions).factors()

    found = [
        factors_after(
            model, x, step=step, patch_stride=every, spatial_correlation=positions
        ).factors()
        for step in range(every**axes)
    ]

    twins.assert_close(np.mean([a for a, _ in found], axis=0), whole.a.numpy(), 1e-6)
    rows = twins.exact_patches(x, model.layers[1]).reshape(3, -1, 2 * 3**axes)
    ones = np.ones((*rows.shape[:2], 1))
    twins.assert_close(
        whole.a, oracle.factor_a(np.concatenate([rows, ones], axis=2)), 1e-6
    )
    # Some positions are not all, or there would be nothing to test.
    assert max(np.abs(a - whole.a).max() for a, _ in found) > 0.1
    for _, g in found:  # Gradients are of all positions in every step.
        np.testing.assert_array_equal(g, whole.g)


def test_weighted_by_their_positions_offsets_of_any_size_have_the_factor_of_all():
    # Five by three: the four offsets see 6, 4, 3 and 2 of them.
    model = conv_model(keras.layers.Conv2D(2, 1), (5, 3, 2))
    x = twins.inputs(3, 5, 3, 2)
    whole = factors_after(model, x).factors().a.numpy()
    seen = np.array([3 * 2, 2 * 2, 3 * 1, 2 * 1])

    found = [
        factors_after(model, x, step=step, patch_stride=2).factors().a.numpy()
        for step in range(4)
    ]

    twins.assert_close(np.average(found, axis=0, weights=seen), whole, 1e-6)


def test_each_update_of_the_factors_has_the_next_offset():
    # Were steps counted, updates every second step would see even positions alone.
    model = conv_model(keras.layers.Conv1D(2, 1, use_bias=False), (4, 1))
    x = np.float32([[[1], [2], [4], [8]]])
    expected = {0: 2 * (1 + 16), 1: 2 * (4 + 64)}
    for update in range(4):
        block = factors_after(
            model, x, step=2 * update, patch_stride=2, factor_update_period=2
        )
        np.testing.assert_allclose(block.factors().a, [[expected[update % 2]]])


class Pieces:
    """Counts of how many pieces statistics were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inverse: str) -> None:
        self.count = 0
        # EKFAC needs the patches, the others only their moments.
        name = "moments" if inverse == "ekfac" else "conv_moments"
        moments = getattr(kronecker, name)

        def counted(*args, **kwargs):
            self.count += 1
            return moments(*args, **kwargs)

        monkeypatch.setattr(kronecker, name, counted)


# A layer, the shape of its input, and how often it is called.
CALLED = {
    "1-D": (keras.layers.Conv1D(2, 3, padding="causal"), (6, 2), 1),
    "2-D": (keras.layers.Conv2D(2, 2, strides=(1, 2)), (4, 5, 1), 1),
    "3-D": (keras.layers.Conv3D(2, 2), (3, 3, 2, 1), 1),
    "twice": (keras.layers.Conv2D(2, 2, activation="tanh"), (4, 4, 2), 2),
}


@pytest.mark.parametrize(
    ("called", "inverse", "at_once"),
    pairwise(CALLED, ["cholesky", "ekfac"], [1, 2, 3]),
)
def test_pieces_have_the_same_statistics_as_the_whole(
    called, inverse, at_once, monkeypatch
):
    layer, shape, calls = called
    layer = type(layer).from_config(layer.get_config())
    model = conv_model(layer, shape, calls)
    x = twins.inputs(7, *shape)
    arguments = {"inverse": inverse}
    whole = factors_after(model, x, **arguments)
    pieces = Pieces(monkeypatch, inverse)
    sizes, hidden = [], tf.constant(x)
    for _ in range(calls):
        sizes.append(patch_bytes(hidden, layer))
        hidden = layer(hidden)
    # EKFAC takes an example of all calls at a time; else each has its part of the
    # memory. One byte less than one example more would need.
    if inverse == "ekfac":
        limit = (at_once + 1) * sum(sizes) - 1
        rows = [at_once] * calls
    else:
        limit = calls * ((at_once + 1) * sizes[0] - 1)
        rows = [limit // calls // size for size in sizes]
    arguments["max_patch_bytes"] = limit

    found = factors_after(model, x, **arguments)

    assert rows[0] == at_once
    assert pieces.count == sum(-(-7 // row) for row in rows)
    assert_same_statistics(found, whole)


def assert_same_statistics(found: Block, whole: Block) -> None:
    for actual, same in zip(found.factors(), whole.factors(), strict=True):
        twins.assert_close(actual, same.numpy(), 2e-6)
    if isinstance(whole.inverse, EKFACInverse):
        spectrum = whole.inverse.spectrum().numpy()
        twins.assert_close(found.inverse.spectrum(), spectrum, 2e-6)


# In pieces of some examples, of one, and at once, which is a matter of the batch alone.
# The other cases take a second each to trace.
@pytest.mark.parametrize(
    ("signature", "limit"),
    [
        ((None, 4, 5, 2), 1500),
        ((None, None, None, 2), 1500),
        ((7, None, 5, 2), 1500),
        ((7, 4, None, 2), 1500),
        ((None, None, None, 2), 1),
        ((None, None, None, 2), 2**40),
        *(
            pytest.param(signature, limit, marks=pytest.mark.slow)
            for signature in [(None, 4, 5, 2), (7, None, 5, 2), (7, 4, None, 2)]
            for limit in (1, 2**40)
        ),
    ],
)
def test_pieces_of_batches_and_images_of_unknown_size_have_the_same_statistics(
    signature, limit
):
    model = conv_model(keras.layers.Conv2D(2, 2), (*signature[1:3], 2))
    x = twins.inputs(7, 4, 5, 2)
    whole = factors_after(model, x, inverse="ekfac")

    found = factors_after(model, x, signature, inverse="ekfac", max_patch_bytes=limit)

    assert_same_statistics(found, whole)


@pytest.mark.parametrize("limit", [1, 2**40])
def test_pieces_of_some_positions_have_the_same_statistics(limit):
    model = conv_model(keras.layers.Conv2D(2, 2), (4, 5, 2))
    x = twins.inputs(7, 4, 5, 2)
    for step in range(4):
        whole = factors_after(model, x, step=step, patch_stride=2)
        found = factors_after(
            model, x, step=step, patch_stride=2, max_patch_bytes=limit
        )
        assert_same_statistics(found, whole)


@hypothesis.given(case=convolutions())
def test_patch_bytes_are_those_of_one_example(case):
    layer, x = case.make()
    expected = extract_patches(tf.constant(x), layer).numpy()[0].nbytes

    assert patch_bytes(tf.constant(x), layer) == expected


def test_patch_bytes_of_unknown_sizes_are_known_when_run():
    layer = keras.layers.Conv2D(1, (2, 3), padding="same", strides=2)
    x = twins.inputs(2, 5, 4, 3)
    layer.build(x.shape)
    expected = extract_patches(tf.constant(x), layer).numpy()[0].nbytes
    for height, width in itertools.product([5, None], [4, None]):
        signature = [tf.TensorSpec([None, height, width, 3])]

        @tf.function(input_signature=signature)
        def graph(x):
            return tf.cast(patch_bytes(x, layer), tf.float32)

        assert graph(x) == expected
