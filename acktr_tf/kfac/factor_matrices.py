"""Kronecker factors that are symmetric matrices `[n, n]`, or diagonals `[n]`.

Functions on the host take NumPy arrays, products take TensorFlow's. A factor with one
axis is the diagonal of a matrix, which needs no factorization.
"""

import numpy as np
import tensorflow as tf

from acktr_tf.kfac import linalg
from acktr_tf.kfac.linalg import Array, Eigenbasis, Inverse


def identity_initializer(shape: tuple[int, ...]) -> str:
    """Returns the name of the initializer that makes an identity of that shape."""
    return "identity" if len(shape) == 2 else "ones"


# On the host ------------------------------------------------------------------------
def mean_eigenvalue(factor: Array) -> float:
    """Returns tr M / n."""
    return float((factor if factor.ndim == 1 else np.diagonal(factor)).mean())


def damped_inverse(factor: Array, shift: float) -> Inverse:
    """Returns (M + shift I)⁻¹, of the factor's shape; see `linalg.damped_inverse`."""
    if factor.ndim == 2:
        return linalg.damped_inverse(factor, shift)
    shifted = factor + shift
    if not (np.isfinite(shifted).all() and (shifted > 0.0).all()):
        return Inverse(np.zeros_like(factor), False, 1)
    return Inverse((1.0 / shifted).astype(factor.dtype), True, 0)


def eigenbasis(factor: Array) -> Eigenbasis:
    """Returns eigenvalues and eigenvectors; a diagonal's `vectors` are not used."""
    if factor.ndim == 2:
        return linalg.eigenbasis(factor)
    if not np.isfinite(factor).all():
        return Eigenbasis(np.zeros_like(factor), np.zeros_like(factor), False, 1)
    return Eigenbasis(np.maximum(factor, 0.0), np.ones_like(factor), True, 0)


# Products ---------------------------------------------------------------------------
def left_multiply(factor: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Returns M V of a matrix V `[n, m]`."""
    if factor.shape.rank == 2:
        return factor @ matrix
    return factor[:, tf.newaxis] * matrix


def right_multiply(matrix: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns V M of a matrix V `[m, n]`."""
    return matrix @ factor if factor.shape.rank == 2 else matrix * factor


def to_dense(factor: tf.Tensor) -> tf.Tensor:
    """Returns M `[n, n]`."""
    return factor if factor.shape.rank == 2 else tf.linalg.diag(factor)
