"""One part of an encoded observation, against NumPy's slices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.policies.parts import ObservationPart


@pytest.mark.parametrize(
    ("start", "shape"), [(0, (4,)), (3, (2, 3)), (9, ()), (2, (2, 2, 2))]
)
@pytest.mark.parametrize("rows", [None, 5])
def test_a_part_is_cut_out(
    start: int, shape: tuple[int, ...], rows: int | None
) -> None:
    encoded = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    layer = ObservationPart(start, shape)
    cut = tf.function(layer, autograph=False).get_concrete_function(
        tf.TensorSpec([rows, 10], tf.float32)
    )
    size = int(np.prod(shape))
    expected = encoded[:, start : start + size].reshape(5, *shape)
    np.testing.assert_array_equal(cut(tf.constant(encoded)), expected)
    assert cut.output_shapes.as_list() == [rows, *shape]
    assert layer.compute_output_shape((rows, 10)) == (rows, *shape)


def test_a_part_is_saved_with_its_model() -> None:
    encoded = keras.Input((10,))
    model = keras.Model(encoded, ObservationPart(4, (3, 2))(encoded))
    again = keras.Model.from_config(model.get_config())
    batch = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    np.testing.assert_array_equal(again(batch), batch[:, 4:].reshape(2, 3, 2))
