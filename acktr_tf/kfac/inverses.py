"""Inverses of a damped Kronecker-factored block.

Every inverse starts as the identity, so that the first steps are plain gradient steps
if the first inversion fails, and stays as it was if an inversion fails later. Equation
numbers are those of docs/kfac.md.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac.factor_matrices import (
    damped_inverse,
    eigenbasis,
    identity_initializer,
    left_multiply,
    mean_eigenvalue,
    right_multiply,
)
from acktr_tf.kfac.linalg import Array, pi_correction
from acktr_tf.kfac.statistics.factors import Factors
from acktr_tf.kfac.statistics.signals import Signals

MAX_CHUNK_BYTES = 64 * 2**20
"""Bytes of the gradients of single examples that are held at a time."""

AddArray = Callable[[str, tuple[int, ...], str], keras.Variable]
"""Name, shape, initializer → a float32 variable of the optimizer."""


class Inversion(NamedTuple):
    """Outcome of an inversion on the host.

    Attributes:
      arrays: New values of the inverse's variables, float32.
      succeeded: Whether they may be used.
      failures: Number of factorizations that failed on the way.
    """

    arrays: list[Array]
    succeeded: bool
    failures: int


class BlockInverse(abc.ABC):
    """Inverse of a damped block A ⊗ G.

    Args:
      shape_a: Shape of A: `(n, n)`, or `(n,)` if it is diagonal.
      shape_g: Shape of G, likewise.
      add_array: Function that makes a variable.

    Attributes:
      arrays: Variables that `invert` makes new values for.
      extra_shapes: Shapes of what `extra_statistics` returns.
    """

    arrays: list[keras.Variable]
    extra_shapes: Sequence[tuple[int, ...]] = ()

    def __init__(
        self, shape_a: tuple[int, ...], shape_g: tuple[int, ...], add_array: AddArray
    ) -> None:
        self._shapes = (shape_a, shape_g)

    @abc.abstractmethod
    def invert(self, a: Array, g: Array, damping: float) -> Inversion:
        """Inverts the damped block on the host; may be called in any thread.

        Args:
          a: A.
          g: G.
          damping: λ.
        """

    def set_inverse(self, arrays: Sequence[tf.Tensor], succeeded: tf.Tensor) -> None:
        """Puts the outcome of an inversion into force.

        Args:
          arrays: Arrays of an `Inversion`.
          succeeded: Scalar bool; if False, the inverse stays as it is.
        """
        for variable, new in zip(self.arrays, arrays, strict=True):
            variable.assign(tf.where(succeeded, new, variable.value))

    @abc.abstractmethod
    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """Returns the inverse times `matrix` `[n, m]`."""

    # A spectrum that is learnt beside the factors -----------------------------------
    @property
    def needs_example_gradients(self) -> bool:
        """Whether `extra_statistics` needs all signals of an example together."""
        return bool(self.extra_shapes)

    def extra_statistics(self, calls: Sequence[Signals]) -> list[tf.Tensor]:
        """Returns statistics that the inverse needs beside A and G; none by default.

        Args:
          calls: Signals of each call of the layer.

        Returns:
          Sums over the examples.
        """
        return []

    def update_spectrum(
        self, statistics: Sequence[tf.Tensor], decay: float, finite: tf.Tensor
    ) -> None:
        """Updates what is learnt from the extra statistics; nothing by default.

        Args:
          statistics: Means over the examples of `extra_statistics`.
          decay: ρ.
          finite: Scalar bool; if False, the statistics must not be used.

        Raises:
          ValueError: There are statistics that the inverse does not ask for.
        """
        if len(statistics) != len(self.extra_shapes):
            raise ValueError(
                f"{type(self).__name__} needs {len(self.extra_shapes)} extra "
                f"statistics. Received: {len(statistics)}"
            )

    # Condition number -----------------------------------------------------------------
    def condition_number(self, factors: Factors, damping: tf.Tensor) -> tf.Tensor:
        """Returns the largest over the smallest eigenvalue of the damped block.

        Args:
          factors: A and G.
          damping: λ.

        Returns:
          Scalar; nan if the factors are not finite.
        """
        number = tf.numpy_function(
            self._condition_number, [*factors, damping], tf.float32
        )
        number.set_shape([])
        return number

    def _condition_number(self, a: Array, g: Array, damping: np.float32) -> np.float32:
        basis_a, basis_g = eigenbasis(a), eigenbasis(g)
        if not (basis_a.succeeded and basis_g.succeeded):
            return np.float32(math.nan)
        least, most = self._extremes(basis_a.values, basis_g.values, float(damping))
        return np.float32(most / least if least > 0.0 else math.nan)

    def _extremes(
        self, values_a: Array, values_g: Array, damping: float
    ) -> tuple[float, float]:
        """Returns the smallest and the largest eigenvalue of the damped block."""
        return (
            values_a.min() * values_g.min() + damping,
            values_a.max() * values_g.max() + damping,
        )


class CholeskyInverse(BlockInverse):
    """Inverse of the factors with π-factored Tikhonov damping. Equations (8) to (10).

        (A + π √λ I)⁻¹ V (G + (√λ / π) I)⁻¹

    The cross terms of the damping make it heavier than `EigenInverse` with the same λ.
    """

    def __init__(
        self, shape_a: tuple[int, ...], shape_g: tuple[int, ...], add_array: AddArray
    ) -> None:
        super().__init__(shape_a, shape_g, add_array)
        self.arrays = [
            add_array("inverse_a", shape_a, identity_initializer(shape_a)),
            add_array("inverse_g", shape_g, identity_initializer(shape_g)),
        ]

    def invert(self, a: Array, g: Array, damping: float) -> Inversion:
        """See `BlockInverse.invert`."""
        pi = pi_correction(mean_eigenvalue(a), mean_eigenvalue(g))
        root = math.sqrt(damping)
        inverse_a = damped_inverse(a, pi * root)
        inverse_g = damped_inverse(g, root / pi)
        # Both or neither: the damping of one presumes that of the other.
        return Inversion(
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
        inverse_a, inverse_g = (array.value for array in self.arrays)
        return right_multiply(left_multiply(inverse_a, matrix), inverse_g)


class EigenInverse(BlockInverse):
    """Inverse in the factors' eigenbases, with exact Tikhonov damping. Equation (17).

        Q_A [(Q_Aᵀ V Q_G) / (e_A e_Gᵀ + λ)] Q_Gᵀ

    This is (A ⊗ G + λI)⁻¹ itself, which the π-factored damping approximates; the
    released code of Wu et al. 2017 does the same.

    Attributes:
      vectors: Q_A and Q_G; None for a diagonal factor, whose eigenvectors are the axes.
      values: e_A and e_G.
    """

    def __init__(
        self, shape_a: tuple[int, ...], shape_g: tuple[int, ...], add_array: AddArray
    ) -> None:
        super().__init__(shape_a, shape_g, add_array)
        # Zero until the first inverse, when eigenvalues of one make it the identity.
        self._damping = add_array("inverse_damping", (), "zeros")
        self.values = [
            add_array(f"eigenvalues_{name}", shape[:1], "ones")
            for name, shape in zip("ag", self._shapes, strict=True)
        ]
        self.vectors = [
            add_array(f"eigenvectors_{name}", shape, "identity")
            if len(shape) == 2
            else None
            for name, shape in zip("ag", self._shapes, strict=True)
        ]
        self.arrays = [self._damping, *self.values]
        self.arrays += [vectors for vectors in self.vectors if vectors is not None]

    def invert(self, a: Array, g: Array, damping: float) -> Inversion:
        """See `BlockInverse.invert`."""
        bases = [eigenbasis(a), eigenbasis(g)]
        arrays = [np.asarray(damping, a.dtype), *(basis.values for basis in bases)]
        arrays += [
            basis.vectors
            for basis, variable in zip(bases, self.vectors, strict=True)
            if variable is not None
        ]
        return Inversion(
            arrays,
            all(basis.succeeded for basis in bases),
            sum(basis.failures for basis in bases),
        )

    def eigenvalues(self) -> tf.Tensor:
        """Returns the eigenvalues of the block without damping, `[n, m]`."""
        values_a, values_g = (values.value for values in self.values)
        return values_a[:, tf.newaxis] * values_g

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """See `BlockInverse.multiply`."""
        rotated = self._rotate(matrix, back=False)
        scaled = rotated / (self.eigenvalues() + self._damping.value)
        return self._rotate(scaled, back=True)

    def _rotate(self, matrix: tf.Tensor, back: bool) -> tf.Tensor:
        """Returns Q_Aᵀ V Q_G, or rotates back."""
        vectors_a, vectors_g = self.vectors
        if vectors_a is not None:
            matrix = tf.matmul(vectors_a.value, matrix, transpose_a=not back)
        if vectors_g is not None:
            matrix = tf.matmul(matrix, vectors_g.value, transpose_b=back)
        return matrix


class EKFACInverse(EigenInverse):
    """Inverse in the eigenbases, with a spectrum that is learnt (George et al. 2018).

        S ← ρ S + (1 − ρ) E[(Q_Aᵀ ∇W Q_G)²],   Q_A [(Q_Aᵀ V Q_G) / (S + λ)] Q_Gᵀ

    Equation (18): S is the exact diagonal of the Fisher matrix in the basis, which
    e_A e_Gᵀ approximates, and follows every batch between two decompositions. When the
    basis changes by U_A and U_G, S becomes the diagonal of Q diag(S) Qᵀ in the new one,
    (U_Aᵀ)² S U_G², squares taken of each element.
    """

    def __init__(
        self, shape_a: tuple[int, ...], shape_g: tuple[int, ...], add_array: AddArray
    ) -> None:
        super().__init__(shape_a, shape_g, add_array)
        shape = (shape_a[0], shape_g[0])
        self.extra_shapes = [shape]
        self._sum = add_array("spectrum", shape, "zeros")
        self._weight = add_array("spectrum_weight", (), "zeros")

    def update_spectrum(
        self, statistics: Sequence[tf.Tensor], decay: float, finite: tf.Tensor
    ) -> None:
        """Updates the running mean of the squared gradients in the eigenbasis.

        Args:
          statistics: The mean of `squares` over the examples, `[n, m]`, alone.
          decay: ρ.
          finite: See `BlockInverse.update_spectrum`.
        """
        (squares,) = statistics
        for total, new in [(self._sum, squares), (self._weight, 1.0)]:
            moved = decay * total.value + (1.0 - decay) * new
            total.assign(tf.where(finite, moved, total.value))

    def extra_statistics(self, calls: Sequence[Signals]) -> list[tf.Tensor]:
        """Returns the `squares` of the gradients; see `BlockInverse.extra_statistics`.

        Args:
          calls: Signals of each call.
        """
        return [self.squares(calls)]

    def squares(self, calls: Sequence[Signals]) -> tf.Tensor:
        """Returns Σ_i (Q_Aᵀ ∇_i W Q_G)² over examples i, `[n, m]`.

        Args:
          calls: Signals of each call, all of the same examples.
        """
        rotated = [self._rotated_signals(signals) for signals in calls]
        if rotated[0].a.dtype.is_integer:
            return _indexed_squares(rotated, self._shapes[0][0])
        if len(rotated) == 1 and rotated[0].g.shape[1] == 1:
            # At one position ∇W is an outer product, and so are its squares.
            a, g = (tf.square(_flat(side)) for side in rotated[0][:2])
            return tf.matmul(a, g, transpose_a=True)
        return _summed_squares(rotated)

    def condition_number(self, factors: Factors, damping: tf.Tensor) -> tf.Tensor:
        """Returns the condition number of the damped spectrum, scalar.

        Args:
          factors: Not used.
          damping: λ.
        """
        values = self.spectrum() + damping
        return tf.reduce_max(values) / tf.reduce_min(values)

    def _rotated_signals(self, signals: Signals) -> Signals:
        vectors_a, vectors_g = self.vectors
        a = signals.a
        if vectors_a is not None:
            a = _multiply_inputs(signals, vectors_a.value)
        elif signals.bias:
            a = tf.concat([a, tf.ones_like(a[..., :1])], axis=-1)
        g = signals.g if vectors_g is None else signals.g @ vectors_g.value
        return Signals(a, g)

    def set_inverse(self, arrays: Sequence[tf.Tensor], succeeded: tf.Tensor) -> None:
        """See `BlockInverse.set_inverse`."""
        old = [None if q is None else tf.identity(q.value) for q in self.vectors]
        super().set_inverse(arrays, succeeded)
        # U² of each factor: rows are new eigenvectors, columns old ones.
        squares = [
            None
            if new is None
            else tf.square(tf.matmul(new.value, q, transpose_a=True))
            for new, q in zip(self.vectors, old, strict=True)
        ]
        moved = self._sum.value
        if squares[0] is not None:
            moved = squares[0] @ moved
        if squares[1] is not None:
            moved = tf.matmul(moved, squares[1], transpose_b=True)
        self._sum.assign(tf.where(succeeded, moved, self._sum.value))

    def spectrum(self) -> tf.Tensor:
        """Returns S without the bias of its zero start, `[n, m]`."""
        return self._sum.value / tf.maximum(self._weight.value, 1e-12)

    def eigenvalues(self) -> tf.Tensor:
        """Returns S, or ones before the first inversion, `[n, m]`."""
        # S has zeros, by which nothing can be divided until there is damping.
        return tf.where(self._damping.value > 0.0, self.spectrum(), 1.0)


INVERSES: dict[str, type[BlockInverse]] = {
    "cholesky": CholeskyInverse,
    "eigen": EigenInverse,
    "ekfac": EKFACInverse,
}


def _multiply_inputs(signals: Signals, matrix: tf.Tensor) -> tf.Tensor:
    """Returns ā M, of a matrix `[n, k]`."""
    if not signals.bias:
        return signals.a @ matrix
    return signals.a @ matrix[:-1] + matrix[-1]


def _flat(values: tf.Tensor) -> tf.Tensor:
    """Returns `[N, T, n]` as `[N·T, n]`."""
    return tf.reshape(values, [-1, values.shape[-1]])


def _indexed_squares(calls: Sequence[Signals], size: int) -> tf.Tensor:
    """Returns Σ_i (Σ_t e_it g_itᵀ)² over examples i, `[n, m]`, with e one-hot."""
    examples = tf.range(tf.shape(calls[0].g)[0])
    # One number per index and example: an example may have an index several times.
    start = size * tf.cast(examples, tf.int64)[:, tf.newaxis]
    numbers = tf.concat(
        [tf.reshape(start + signals.a, [-1]) for signals in calls], axis=0
    )
    g = tf.concat([_flat(signals.g) for signals in calls], axis=0)
    found, which = tf.unique(numbers)
    gradients = tf.math.unsorted_segment_sum(g, which, tf.size(found))
    return tf.math.unsorted_segment_sum(tf.square(gradients), found % size, size)


def _summed_squares(calls: Sequence[Signals]) -> tf.Tensor:
    """Returns Σ_i (Σ_t a_it g_itᵀ)² over examples i, `[n, m]`, a chunk at a time."""
    n, m = calls[0].a.shape[-1], calls[0].g.shape[-1]
    examples = tf.shape(calls[0].g)[0]
    chunk = max(1, MAX_CHUNK_BYTES // (4 * n * m))

    def add(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = tf.minimum(start + chunk, examples)
        gradients = tf.add_n(
            [
                tf.matmul(signals.a[start:end], signals.g[start:end], transpose_a=True)
                for signals in calls
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
