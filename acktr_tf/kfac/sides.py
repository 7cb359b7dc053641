"""The two sides of a Kronecker product: factors that are matrices, or diagonals.

What inverts is NumPy, what multiplies is TensorFlow.
"""

import abc

import numpy as np
import tensorflow as tf

from acktr_tf.kfac.linalg import (
    Array,
    Eigenbasis,
    Inverse,
    damped_inverse,
    eigenbasis,
)


class Side(abc.ABC):
    """What a block does with one of its factors.

    Args:
      size: n.

    Attributes:
      size: n.
      shape: Of the factor.
      identity: Initializer of an identity of that shape.
    """

    shape: tuple[int, ...]
    identity: str

    def __init__(self, size: int) -> None:
        self.size = size

    @abc.abstractmethod
    def mean_eigenvalue(self, factor: Array) -> float:
        """tr M / n."""

    @abc.abstractmethod
    def damped_inverse(self, factor: Array, shift: float) -> Inverse:
        """(M + shift I)⁻¹, of the factor's shape."""

    @abc.abstractmethod
    def eigenbasis(self, factor: Array) -> Eigenbasis:
        """Eigenvalues and eigenvectors; of a diagonal the vectors are no matter."""

    @abc.abstractmethod
    def left(self, factor: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        """M V, of a V `[n, m]`."""

    @abc.abstractmethod
    def right(self, matrix: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        """V M, of a V `[m, n]`."""

    @abc.abstractmethod
    def dense(self, factor: tf.Tensor) -> tf.Tensor:
        """M `[n, n]`."""


class DenseSide(Side):
    """A factor that is a symmetric matrix."""

    identity = "identity"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.shape = (size, size)

    def mean_eigenvalue(self, factor: Array) -> float:
        """tr M / n."""
        return float(np.diagonal(factor).mean())

    def damped_inverse(self, factor: Array, shift: float) -> Inverse:
        """By Cholesky factorization."""
        return damped_inverse(factor, shift)

    def eigenbasis(self, factor: Array) -> Eigenbasis:
        """By LAPACK."""
        return eigenbasis(factor)

    def left(self, factor: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        """M V."""
        return factor @ matrix

    def right(self, matrix: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        """V M."""
        return matrix @ factor

    def dense(self, factor: tf.Tensor) -> tf.Tensor:
        """The factor."""
        return factor


class DiagonalSide(Side):
    """A factor that is a diagonal `[n]`, its own eigenvalues."""

    identity = "ones"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.shape = (size,)

    def mean_eigenvalue(self, factor: Array) -> float:
        """tr M / n."""
        return float(factor.mean())

    def damped_inverse(self, factor: Array, shift: float) -> Inverse:
        """Element by element."""
        shifted = factor + shift
        if not (np.isfinite(shifted).all() and (shifted > 0.0).all()):
            return Inverse(np.zeros_like(factor), False, 1)
        return Inverse((1.0 / shifted).astype(factor.dtype), True, 0)

    def eigenbasis(self, factor: Array) -> Eigenbasis:
        """The factor itself."""
        if not np.isfinite(factor).all():
            return Eigenbasis(np.zeros_like(factor), np.zeros_like(factor), False, 1)
        return Eigenbasis(np.maximum(factor, 0.0), np.ones_like(factor), True, 0)

    def left(self, factor: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        """M V."""
        return factor[:, tf.newaxis] * matrix

    def right(self, matrix: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        """V M."""
        return matrix * factor

    def dense(self, factor: tf.Tensor) -> tf.Tensor:
        """M `[n, n]`."""
        return tf.linalg.diag(factor)
