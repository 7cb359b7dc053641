"""What a block's inverse is made of, and how it is applied.

Every inverse starts as the identity, which makes the first steps plain gradient should
one fail, and stays as it was if it cannot be renewed. Equation numbers are those of
docs/kfac.md.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac.factors import Factors, Rows
from acktr_tf.kfac.linalg import Array, pi_correction
from acktr_tf.kfac.sides import Side

LARGEST_ARRAY = 64 * 2**20
"""Bytes of the gradients of single examples that are held at a time."""

AddArray = Callable[[str, tuple[int, ...], str], keras.Variable]
"""Name, shape, initializer → a float32 variable of the optimizer."""


class Solution(NamedTuple):
    """Outcome of an inversion.

    Attributes:
      arrays: What the inverse is made of, as its `arrays`.
      succeeded: Whether they may be used.
      failures: Factorizations that failed on the way.
    """

    arrays: list[Array]
    succeeded: bool
    failures: int


class BlockInverse(abc.ABC):
    """The inverse of a damped block A ⊗ G.

    Args:
      side_a: Of A.
      side_g: Of G.
      add_array: Makes variables.

    Attributes:
      arrays: What the inverse is made of.
    """

    arrays: list[keras.Variable]

    def __init__(self, side_a: Side, side_g: Side, add_array: AddArray) -> None:
        self._sides = (side_a, side_g)

    @abc.abstractmethod
    def solve(self, a: Array, g: Array, damping: float) -> Solution:
        """Inverts the damped block, on the host; may be called in any thread.

        Args:
          a: A.
          g: G.
          damping: λ.
        """

    def accept(self, arrays: Sequence[tf.Tensor], succeeded: tf.Tensor) -> None:
        """Puts a solution into force.

        Args:
          arrays: Of a `Solution`.
          succeeded: Scalar bool; without it all stays as it is.
        """
        for variable, new in zip(self.arrays, arrays, strict=True):
            variable.assign(tf.where(succeeded, new, variable.value))

    @abc.abstractmethod
    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """The inverse times `matrix` `[n, m]`."""

    def condition_number(self, factors: Factors, damping: tf.Tensor) -> tf.Tensor:
        """Largest over smallest eigenvalue of the damped block; nan of bad factors.

        Args:
          factors: A and G.
          damping: λ.
        """
        number = tf.numpy_function(
            self._condition_number, [*factors, damping], tf.float32
        )
        number.set_shape([])
        return number

    def _condition_number(self, a: Array, g: Array, damping: np.float32) -> np.float32:
        side_a, side_g = self._sides
        basis_a, basis_g = side_a.eigenbasis(a), side_g.eigenbasis(g)
        if not (basis_a.succeeded and basis_g.succeeded):
            return np.float32(math.nan)
        least, most = self._extremes(basis_a.values, basis_g.values, float(damping))
        return np.float32(most / least if least > 0.0 else math.nan)

    def _extremes(
        self, values_a: Array, values_g: Array, damping: float
    ) -> tuple[float, float]:
        """The least and the largest eigenvalue of the damped block."""
        return (
            values_a.min() * values_g.min() + damping,
            values_a.max() * values_g.max() + damping,
        )


class CholeskyInverse(BlockInverse):
    """Inverts the factors with π-factored Tikhonov damping. Equations (8) to (10).

        (A + π √λ I)⁻¹ V (G + (√λ / π) I)⁻¹

    The damping's cross terms make it heavier than the same λ of `EigenInverse`.
    """

    def __init__(self, side_a: Side, side_g: Side, add_array: AddArray) -> None:
        super().__init__(side_a, side_g, add_array)
        self.arrays = [
            add_array("inverse_a", side_a.shape, side_a.identity),
            add_array("inverse_g", side_g.shape, side_g.identity),
        ]

    def solve(self, a: Array, g: Array, damping: float) -> Solution:
        """See `BlockInverse.solve`."""
        side_a, side_g = self._sides
        pi = pi_correction(side_a.mean_eigenvalue(a), side_g.mean_eigenvalue(g))
        root = math.sqrt(damping)
        inverse_a = side_a.damped_inverse(a, pi * root)
        inverse_g = side_g.damped_inverse(g, root / pi)
        # Both or neither: the damping of one presumes that of the other.
        return Solution(
            [inverse_a.matrix, inverse_g.matrix],
            inverse_a.succeeded and inverse_g.succeeded,
            inverse_a.failures + inverse_g.failures,
        )

    def _extremes(
        self, values_a: Array, values_g: Array, damping: float
    ) -> tuple[float, float]:
        pi = pi_correction(values_a.mean(), values_g.mean())
        root = math.sqrt(damping)
        a, g = values_a + pi * root, values_g + root / pi
        return a.min() * g.min(), a.max() * g.max()

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """See `BlockInverse.multiply`."""
        side_a, side_g = self._sides
        inverse_a, inverse_g = (array.value for array in self.arrays)
        return side_g.right(side_a.left(inverse_a, matrix), inverse_g)


class EigenInverse(BlockInverse):
    """Inverts in the factors' eigenbases, with exact Tikhonov damping. Equation (17).

        Q_A [(Q_Aᵀ V Q_G) / (e_A e_Gᵀ + λ)] Q_Gᵀ

    (A ⊗ G + λI)⁻¹ itself, which the π-factored damping approximates; as the released
    code of Wu et al. 2017 does.
    """

    def __init__(self, side_a: Side, side_g: Side, add_array: AddArray) -> None:
        super().__init__(side_a, side_g, add_array)
        # Zero until the first inverse, when eigenvalues of one make it the identity.
        self._damping = add_array("inverse_damping", (), "zeros")
        self._values = [
            add_array(f"eigenvalues_{name}", (side.size,), "ones")
            for name, side in zip("ag", self._sides, strict=True)
        ]
        # Of a diagonal the eigenvectors are the axes: there is nothing to hold.
        self._vectors = [
            add_array(f"eigenvectors_{name}", side.shape, "identity")
            if len(side.shape) == 2
            else None
            for name, side in zip("ag", self._sides, strict=True)
        ]
        self.arrays = [self._damping, *self._values]
        self.arrays += [vectors for vectors in self._vectors if vectors is not None]

    def solve(self, a: Array, g: Array, damping: float) -> Solution:
        """See `BlockInverse.solve`."""
        found = [
            side.eigenbasis(factor)
            for side, factor in zip(self._sides, (a, g), strict=True)
        ]
        arrays = [np.asarray(damping, a.dtype), *(basis.values for basis in found)]
        arrays += [
            basis.vectors
            for basis, held in zip(found, self._vectors, strict=True)
            if held is not None
        ]
        return Solution(
            arrays,
            all(basis.succeeded for basis in found),
            sum(basis.failures for basis in found),
        )

    def _eigenvalues(self) -> tf.Tensor:
        """Those of the block, `[n, m]`."""
        values_a, values_g = (values.value for values in self._values)
        return values_a[:, tf.newaxis] * values_g

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """See `BlockInverse.multiply`."""
        rotated = self._rotate(matrix, back=False)
        scaled = rotated / (self._eigenvalues() + self._damping.value)
        return self._rotate(scaled, back=True)

    def _rotate(self, matrix: tf.Tensor, back: bool) -> tf.Tensor:
        """Q_Aᵀ V Q_G, or back."""
        vectors_a, vectors_g = self._vectors
        if vectors_a is not None:
            matrix = tf.matmul(vectors_a.value, matrix, transpose_a=not back)
        if vectors_g is not None:
            matrix = tf.matmul(matrix, vectors_g.value, transpose_b=back)
        return matrix


class EKFACInverse(EigenInverse):
    """Keeps the eigenbases and learns the spectrum in them (George et al. 2018).

        S ← ρ S + (1 − ρ) E[(Q_Aᵀ ∇W Q_G)²],   Q_A [(Q_Aᵀ V Q_G) / (S + λ)] Q_Gᵀ

    Equation (18): S is the exact diagonal of the Fisher matrix in the basis, which
    e_A e_Gᵀ approximates, and follows every batch between two decompositions. When the
    basis changes by U_A and U_G, S becomes the diagonal of Q diag(S) Qᵀ in the new one,
    (U_Aᵀ)² S U_G², squares taken of each element.
    """

    def __init__(self, side_a: Side, side_g: Side, add_array: AddArray) -> None:
        super().__init__(side_a, side_g, add_array)
        self._sum = add_array("spectrum", (side_a.size, side_g.size), "zeros")
        self._weight = add_array("spectrum_weight", (), "zeros")

    def observe(self, squares: tf.Tensor, decay: float, finite: tf.Tensor) -> None:
        """Moves the spectrum towards the squares of a batch's gradients.

        Args:
          squares: Means over the examples, `[n, m]`.
          decay: ρ.
          finite: Scalar bool, whether they may be used.
        """
        for total, new in [(self._sum, squares), (self._weight, 1.0)]:
            moved = decay * total.value + (1.0 - decay) * new
            total.assign(tf.where(finite, moved, total.value))

    def squares(self, calls: Sequence[Rows]) -> tf.Tensor:
        """Σ_i (Q_Aᵀ ∇_i W Q_G)² over examples i, `[n, m]`."""
        rotated = [self._rotated_rows(rows) for rows in calls]
        if rotated[0].a.dtype.is_integer:
            return _indexed_squares(rotated, self._sides[0].size)
        if len(rotated) == 1 and rotated[0].g.shape[1] == 1:
            # Of one position ∇W is an outer product, and so are its squares.
            a, g = (tf.square(_flat(side)) for side in rotated[0][:2])
            return tf.matmul(a, g, transpose_a=True)
        return _summed_squares(rotated)

    def condition_number(self, factors: Factors, damping: tf.Tensor) -> tf.Tensor:
        """Of the spectrum, damped."""
        values = self._spectrum() + damping
        return tf.reduce_max(values) / tf.reduce_min(values)

    def _rotated_rows(self, rows: Rows) -> Rows:
        vectors_a, vectors_g = self._vectors
        a = rows.a if vectors_a is None else _right_product(rows, vectors_a.value)
        g = rows.g if vectors_g is None else rows.g @ vectors_g.value
        return Rows(a, g)

    def accept(self, arrays: Sequence[tf.Tensor], succeeded: tf.Tensor) -> None:
        """See `BlockInverse.accept`."""
        old = [None if q is None else tf.identity(q.value) for q in self._vectors]
        super().accept(arrays, succeeded)
        # U² of each side: rows are new eigenvectors, columns old ones.
        squares = [
            None
            if new is None
            else tf.square(tf.matmul(new.value, q, transpose_a=True))
            for new, q in zip(self._vectors, old, strict=True)
        ]
        moved = self._sum.value
        if squares[0] is not None:
            moved = squares[0] @ moved
        if squares[1] is not None:
            moved = tf.matmul(moved, squares[1], transpose_b=True)
        self._sum.assign(tf.where(succeeded, moved, self._sum.value))

    def _spectrum(self) -> tf.Tensor:
        """S without the bias of its zero start."""
        return self._sum.value / tf.maximum(self._weight.value, 1e-12)

    def _eigenvalues(self) -> tf.Tensor:
        # S has zeros, which are nothing to divide by until there is damping.
        return tf.where(self._damping.value > 0.0, self._spectrum(), 1.0)


def _right_product(rows: Rows, matrix: tf.Tensor) -> tf.Tensor:
    """ā M, of a matrix `[n, k]`."""
    if not rows.bias:
        return rows.a @ matrix
    return rows.a @ matrix[:-1] + matrix[-1]


def _flat(values: tf.Tensor) -> tf.Tensor:
    """`[N, T, n]` as `[N·T, n]`."""
    return tf.reshape(values, [-1, values.shape[-1]])


def _indexed_squares(calls: Sequence[Rows], size: int) -> tf.Tensor:
    """Σ_i (Σ_t e_it g_itᵀ)² over examples i, `[n, m]`, with e one-hot, of size n."""
    examples = tf.range(tf.shape(calls[0].g)[0])
    # One number for an index of an example, which may have it several times.
    start = size * tf.cast(examples, tf.int64)[:, tf.newaxis]
    numbers = tf.concat([tf.reshape(start + rows.a, [-1]) for rows in calls], axis=0)
    g = tf.concat([_flat(rows.g) for rows in calls], axis=0)
    found, which = tf.unique(numbers)
    gradients = tf.math.unsorted_segment_sum(g, which, tf.size(found))
    return tf.math.unsorted_segment_sum(tf.square(gradients), found % size, size)


def _summed_squares(calls: Sequence[Rows]) -> tf.Tensor:
    """Σ_i (Σ_t a_it g_itᵀ)² over examples i, `[n, m]`, few examples at a time."""
    n, m = calls[0].a.shape[-1], calls[0].g.shape[-1]
    examples = tf.shape(calls[0].g)[0]
    at_once = max(1, LARGEST_ARRAY // (4 * n * m))

    def add(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = tf.minimum(start + at_once, examples)
        gradients = tf.add_n(
            [
                tf.matmul(rows.a[start:end], rows.g[start:end], transpose_a=True)
                for rows in calls
            ]
        )
        return end, total + tf.reduce_sum(tf.square(gradients), axis=0)

    _, total = tf.while_loop(
        lambda start, _: start < examples,
        add,
        (tf.constant(0), tf.zeros([n, m])),
        parallel_iterations=1,
    )
    return total
