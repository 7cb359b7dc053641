"""Damped inverses and eigenbases of symmetric matrices, which may fail but not raise.

All functions run on the host, in NumPy and LAPACK, whose routines report failure where
TensorFlow's raise, and may be called from any thread. Nothing here raises into a run: a
factorization that fails is tried again with more damping. One that cannot succeed
reports that, and the caller keeps the last inverse.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from acktr_tf.kfac.blas import threads_for

DAMPING_RAISE = 10.0
MAX_RAISES = 8

Array = npt.NDArray[Any]
"""A NumPy array of floating-point numbers."""


class Inverse(NamedTuple):
    """Outcome of a damped inversion.

    Attributes:
      matrix: (M + shift I)⁻¹, of M's shape; zeros if it failed.
      succeeded: Whether the inversion succeeded.
      failures: Number of factorizations that failed on the way.
    """

    matrix: Array
    succeeded: bool
    failures: int


class Eigenbasis(NamedTuple):
    """Outcome of an eigendecomposition.

    Attributes:
      values: `[n]`, eigenvalues; zero in place of those that rounding made negative.
      vectors: `[n, n]`, eigenvectors in columns, or zeros if it failed.
      succeeded: Whether the decomposition succeeded.
      failures: Number of decompositions that failed on the way.
    """

    values: Array
    vectors: Array
    succeeded: bool
    failures: int


def pi_correction(mean_a: float, mean_g: float) -> float:
    """Returns π, which splits the damping between two factors.

        π = sqrt((tr A / dim A) / (tr G / dim G))

    Martens & Grosse 2015, section 6.3, with the trace norm. Equation (8) of
    docs/kfac.md.

    Args:
      mean_a: tr A / dim A.
      mean_g: tr G / dim G.

    Returns:
      π; 1 if a trace is zero or not finite, so that no damping is lost.
    """
    # In float64: the ratio of two float32 may be neither.
    a, g = float(mean_a), float(mean_g)
    if not (math.isfinite(a) and math.isfinite(g) and a > 0.0 and g > 0.0):
        return 1.0
    return math.sqrt(a / g)


def damped_inverse(matrix: Array, shift: float) -> Inverse:
    """Returns (M + shift I)⁻¹ by Cholesky factorization.

    If the shifted matrix is not positive definite in floating point, the shift is
    raised tenfold, up to eight times.

    Args:
      matrix: `[n, n]`, symmetric positive semidefinite up to rounding.
      shift: Positive.
    """
    with threads_for(len(matrix)):
        return _damped_inverse(matrix, shift)


def _damped_inverse(matrix: Array, shift: float) -> Inverse:
    factorize, invert = lapack.get_lapack_funcs(("potrf", "potri"), (matrix,))
    diagonal = np.arange(len(matrix))
    failures = 0
    if np.isfinite(matrix).all() and math.isfinite(shift):
        for raises in range(MAX_RAISES + 1):
            # The matrix is symmetric: its transpose is a Fortran array as LAPACK wants.
            shifted = matrix.T.copy(order="F")
            shifted[diagonal, diagonal] += shift * DAMPING_RAISE**raises
            cholesky, info = factorize(shifted, lower=1, overwrite_a=1, clean=1)
            if info == 0:
                lower, info = invert(cholesky, lower=1, overwrite_c=1)
                if info == 0 and np.isfinite(lower).all():
                    inverse = lower + lower.T
                    inverse[diagonal, diagonal] *= 0.5
                    return Inverse(inverse, True, failures)
            failures += 1
    else:
        failures = 1
    return Inverse(np.zeros_like(matrix), False, failures)


def eigenbasis(matrix: Array) -> Eigenbasis:
    """Decomposes M = Q diag(e) Qᵀ by LAPACK's divide and conquer.

    A decomposition that fails is tried again by the slower QR iteration.

    Args:
      matrix: `[n, n]`, symmetric positive semidefinite up to rounding.
    """
    with threads_for(len(matrix)):
        return _eigenbasis(matrix)


def _eigenbasis(matrix: Array) -> Eigenbasis:
    failures = 0
    if np.isfinite(matrix).all():
        for routine in ("syevd", "syev"):
            (decompose,) = lapack.get_lapack_funcs((routine,), (matrix,))
            # The transpose is the same matrix, a Fortran array that LAPACK overwrites.
            values, vectors, info = decompose(
                matrix.T.copy(order="F"), lower=1, overwrite_a=1
            )
            if info == 0 and np.isfinite(vectors).all() and np.isfinite(values).all():
                vectors = np.ascontiguousarray(vectors)
                return Eigenbasis(np.maximum(values, 0.0), vectors, True, failures)
            failures += 1
    else:
        failures = 1
    nothing = np.zeros_like(matrix)
    return Eigenbasis(nothing[0], nothing, False, failures)
