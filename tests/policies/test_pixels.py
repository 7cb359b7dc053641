"""The conversion of pictures, with XLA and without, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.policies.pixels import Pixels

SHAPES = [
    # Shape, the axis of the rows, and the order of axes of the outputs.
    ((4, 36, 40), 1, (0, 2, 3, 1)),
    ((2, 9, 8, 3), 1, (0, 2, 3, 1, 4)),
    ((2, 3, 9, 8), 2, (0, 3, 4, 1, 2)),
    ((9, 8, 3), 0, (0, 1, 2, 3)),
    ((9, 8), 0, (0, 1, 2)),
]


@pytest.mark.parametrize(("shape", "height_axis", "order"), SHAPES)
@pytest.mark.parametrize("rows", [1, 5, None])
def test_pixels_are_numpys(
    shape: tuple[int, ...],
    height_axis: int,
    order: tuple[int, ...],
    rows: int | None,
) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)[:rows]
    layer = Pixels(height_axis)
    convert = tf.function(layer, autograph=False).get_concrete_function(
        tf.TensorSpec([rows, *shape], tf.uint8)
    )
    moved = batch.transpose(order)
    expected = moved.reshape(*moved.shape[:3], -1) / np.float64(255.0)
    found = convert(tf.constant(batch))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == layer.compute_output_shape(batch.shape)


@pytest.mark.parametrize(("rows", "compiled"), [(5, True), (None, False)])
def test_xla_compiles_what_has_a_known_size(rows: int | None, compiled: bool) -> None:
    layer = Pixels(height_axis=1)
    convert = tf.function(layer, autograph=False).get_concrete_function(
        tf.TensorSpec([rows, 4, 36, 36], tf.uint8)
    )
    graph = convert.graph.as_graph_def()
    attributes = [node.attr for node in graph.node]
    attributes += [function.attr for function in graph.library.function]
    assert any(a["_XlaMustCompile"].b for a in attributes) == compiled


def test_pixels_are_saved_with_their_model() -> None:
    pixels = keras.Input((4, 36, 36), dtype="uint8")
    layer = Pixels(height_axis=1, scale=0.5, name="pixels")
    model = keras.Model(pixels, layer(pixels))
    again = keras.Model.from_config(model.get_config())
    batch = np.random.default_rng(0).integers(0, 256, (2, 4, 36, 36), np.uint8)
    expected = 0.5 * np.moveaxis(batch, 1, -1)
    np.testing.assert_array_equal(model(batch), expected)
    np.testing.assert_array_equal(again(batch), expected)
