"""Symmetric matrices as their lower triangles, bit for bit."""

import math

import numpy as np

from acktr_tf.types import Array

_ROWS = 256
"""Rows that are compared at a time."""


def is_symmetric(array: Array) -> bool:
    """Returns whether an array is a matrix of floats that equals its transpose.

    Each bit is compared: a NaN equals itself, and 0 is not −0.

    Args:
      array: Array of any type.
    """
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[0] != array.shape[1]:
        return False
    if array.itemsize > 8 or not array.flags.c_contiguous:
        return False
    bits = array.view(f"u{array.itemsize}")
    return all(
        np.array_equal(bits[start : start + _ROWS], bits[:, start : start + _ROWS].T)
        for start in range(0, len(bits), _ROWS)
    )


def lower_triangle(matrix: Array) -> Array:
    """Returns the elements on and below the diagonal, row by row, `[n (n + 1) / 2]`.

    Args:
      matrix: `[n, n]`.
    """
    size = len(matrix)
    packed = np.empty(size * (size + 1) // 2, matrix.dtype)
    for row in range(size):
        start = row * (row + 1) // 2
        packed[start : start + row + 1] = matrix[row, : row + 1]
    return packed


def symmetric_matrix(packed: Array) -> Array:
    """Returns the symmetric matrix `[n, n]` of a lower triangle.

    Args:
      packed: `[n (n + 1) / 2]`, as `lower_triangle` returned it.

    Raises:
      ValueError: No triangle has as many elements.
    """
    size = (math.isqrt(8 * packed.size + 1) - 1) // 2
    if packed.ndim != 1 or size * (size + 1) // 2 != packed.size:
        raise ValueError(
            "A lower triangle must be of shape [n (n + 1) / 2]. Received: "
            f"{list(packed.shape)}"
        )
    matrix = np.empty((size, size), packed.dtype)
    for row in range(size):
        start = row * (row + 1) // 2
        matrix[row, : row + 1] = packed[start : start + row + 1]
        matrix[:row, row] = matrix[row, :row]
    return matrix
