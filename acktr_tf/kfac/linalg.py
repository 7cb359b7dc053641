"""Damped inverses of Kronecker factors, and what happens when one fails.

Nothing here raises into a run: a factorization that fails is tried again with more
damping, and one that cannot succeed reports that and leaves the last inverse alone.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.linalg import lapack

DAMPING_RAISE = 10.0
MAX_RAISES = 8


Array = npt.NDArray[Any]


class Inverse(NamedTuple):
    """Outcome of a damped inversion.

    Attributes:
      matrix: `[n, n]`, (M + shift I)⁻¹, or zeros if it failed.
      succeeded: Scalar bool.
      failures: Scalar int32, factorizations that failed on the way.
    """

    matrix: tf.Tensor
    succeeded: tf.Tensor
    failures: tf.Tensor


def pi_correction(factor_a: tf.Tensor, factor_g: tf.Tensor) -> tf.Tensor:
    """How damping is split between two factors.

        π = sqrt((tr A / dim A) / (tr G / dim G))

    Martens & Grosse 2015, section 6.3, with the trace norm. Equation (8) of
    docs/kfac.md.

    Args:
      factor_a: `[n, n]`.
      factor_g: `[m, m]`.

    Returns:
      Scalar; 1 where a trace is zero or not finite, so that no damping is lost.
    """
    mean_a = tf.reduce_mean(tf.linalg.diag_part(factor_a))
    mean_g = tf.reduce_mean(tf.linalg.diag_part(factor_g))
    pi = tf.sqrt(mean_a / mean_g)
    usable = tf.math.is_finite(pi) & (pi > 0.0)
    return tf.where(usable, pi, tf.ones_like(pi))


def damped_inverse(matrix: tf.Tensor, shift: tf.Tensor) -> Inverse:
    """(M + shift I)⁻¹ by Cholesky factorization, on the host.

    LAPACK is called directly because it reports failure where TensorFlow's own
    Cholesky raises, and is about twice as fast on a CPU. If the shifted matrix is not
    positive definite in floating point, the shift is raised tenfold, up to eight times.

    Args:
      matrix: `[n, n]`, symmetric positive semidefinite up to rounding.
      shift: Scalar, positive.
    """
    inverse, succeeded, failures = tf.numpy_function(
        _lapack_inverse,
        [matrix, shift],
        [matrix.dtype, tf.bool, tf.int32],
        stateful=False,
    )
    inverse.set_shape(matrix.shape)
    succeeded.set_shape([])
    failures.set_shape([])
    return Inverse(inverse, succeeded, failures)


def _lapack_inverse(
    matrix: Array, shift: np.floating
) -> tuple[Array, np.bool_, np.int32]:
    factorize, invert = lapack.get_lapack_funcs(("potrf", "potri"), (matrix,))
    diagonal = np.arange(len(matrix))
    failures = 0
    if np.isfinite(matrix).all() and np.isfinite(shift):
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
                    return inverse, np.bool_(True), np.int32(failures)
            failures += 1
    else:
        failures = 1
    return np.zeros_like(matrix), np.bool_(False), np.int32(failures)
