"""Lower triangles of symmetric matrices, and back, bit for bit."""

import numpy as np
import pytest

from acktr_tf.runs.symmetric import is_symmetric, lower_triangle, symmetric_matrix


def symmetric(size: int, dtype: type) -> np.ndarray:
    x = np.random.default_rng(size).normal(size=(size, size)).astype(dtype)
    return np.tril(x) + np.tril(x, -1).T


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 300])
def test_half_of_a_matrix_is_the_whole_bit_for_bit(size, dtype):
    matrix = symmetric(size, dtype)
    half = lower_triangle(matrix)
    assert is_symmetric(matrix)
    np.testing.assert_array_equal(half, matrix[np.tril_indices(size)])
    restored = symmetric_matrix(half)
    assert restored.shape == (size, size)
    assert restored.dtype == dtype
    assert restored.tobytes() == matrix.tobytes()


def test_bits_that_are_no_numbers_come_back():
    matrix = np.array([[-0.0, np.nan], [np.nan, np.inf]], np.float32)
    matrix.view(np.uint32)[0, 1] |= 7  # The payload of a NaN.
    matrix[1, 0] = matrix[0, 1]
    assert is_symmetric(matrix)
    assert symmetric_matrix(lower_triangle(matrix)).tobytes() == matrix.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.0, 0.0], [-0.0, 1.0]]),
        np.array([[1.0, np.nan], [-np.nan, 1.0]]),
        np.zeros((2, 3)),
        np.zeros((2, 2, 2)),
        np.zeros(4),
        np.zeros(()),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), np.complex128),
        np.zeros((2, 2), np.longdouble),
        np.zeros((4, 4), np.float32)[::2, ::2],
    ],
    ids=str,
)
def test_what_is_not_symmetric_bit_for_bit_or_no_matrix_of_floats(array):
    assert not is_symmetric(array)


@pytest.mark.parametrize("where", [(299, 0), (0, 299), (257, 256), (10, 290)])
def test_one_bit_far_from_the_diagonal_is_seen(where):
    matrix = symmetric(300, np.float32)
    matrix.view(np.uint32)[where] ^= 1
    assert not is_symmetric(matrix)


@pytest.mark.parametrize("shape", [(2,), (5,), (3, 1)])
def test_what_is_no_triangle_is_refused(shape):
    with pytest.raises(ValueError, match=r"n \(n \+ 1\) / 2.*Received: \["):
        symmetric_matrix(np.zeros(shape))
