"""Random rows of a batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.kfac import sample_rows

KEY = tf.constant([3, 4])


def dynamic(batch, **arguments):
    """As `sample_rows`, in a graph that does not know how many rows there are."""
    tensors = [part for part in keras.tree.flatten(batch) if part is not None]
    specs = [tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in tensors]

    @tf.function(input_signature=specs, autograph=False)
    def draw(*parts: tf.Tensor):
        given = iter(parts)
        nested = keras.tree.map_structure(
            lambda part: None if part is None else next(given), batch
        )
        return sample_rows(KEY, nested, **arguments)

    return draw(*tensors)


def static(batch, **arguments):
    return sample_rows(KEY, batch, **arguments)


BOTH = pytest.mark.parametrize("sample", [static, dynamic])


@BOTH
@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ({"fraction": 0.25}, 5),
        ({"fraction": 0.001}, 1),
        ({"fraction": 0.13}, 3),
        ({"max_rows": 7}, 7),
        ({"fraction": 0.5, "max_rows": 7}, 7),
        ({"fraction": 0.25, "max_rows": 7}, 5),
    ],
)
def test_so_many_rows_are_drawn_none_of_them_twice(sample, arguments, taken):
    rows = sample(tf.range(20), **arguments).numpy()
    assert len(rows) == len(set(rows)) == taken
    assert set(rows) <= set(range(20))
    assert list(rows) != list(range(taken))


@BOTH
@pytest.mark.parametrize("arguments", [{}, {"max_rows": 20}, {"max_rows": 21}])
def test_all_rows_stay_in_order(sample, arguments):
    np.testing.assert_array_equal(sample(tf.range(20), **arguments), range(20))


def test_rows_do_not_depend_on_whether_their_number_is_known():
    for arguments in ({"fraction": 0.3}, {"max_rows": 9}):
        np.testing.assert_array_equal(
            static(tf.range(20), **arguments), dynamic(tf.range(20), **arguments)
        )


@BOTH
def test_all_parts_of_a_batch_have_the_same_rows(sample):
    number = tf.range(20)
    batch = ({"x": number, "left out": None}, [number + 100], number[:, None] * 2)
    inputs, (targets,), weights = sample(batch, fraction=0.4)
    assert inputs["left out"] is None
    np.testing.assert_array_equal(targets, inputs["x"] + 100)
    np.testing.assert_array_equal(weights[:, 0], 2 * inputs["x"])


def test_another_key_draws_other_rows():
    rows = [sample_rows(tf.constant([0, i]), tf.range(20), 0.2) for i in range(200)]
    counts = np.bincount(np.concatenate(rows), minlength=20)
    # Each row 40 times in the mean, with a deviation of 5.7.
    assert counts.min() > 15
    assert counts.max() < 65


def test_a_batch_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match="`sample_rows` needs a tensor"):
        sample_rows(KEY, (None, None), 0.5)
