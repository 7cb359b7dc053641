"""The two Kronecker factors of a layer's block of the Fisher matrix, from one batch.

The block is E[(ā āᵀ) ⊗ (g gᵀ)], approximated by A ⊗ G. Equation numbers are those of
docs/kfac.md.
"""

from typing import NamedTuple

import tensorflow as tf

from acktr_tf.kfac.statistics.moments import Moments

SPATIAL_CORRELATIONS = ("none", "full")


class Factors(NamedTuple):
    """Kronecker factors A and G of a block.

    Attributes:
      a: Second moment of the inputs, `[n, n]`, or its diagonal `[n]`.
      g: Second moment of the pre-activations' gradients, `[m, m]`, or its diagonal
        `[m]`.
    """

    a: tf.Tensor
    g: tf.Tensor


def factors_of(
    moments: Moments, examples: tf.Tensor, spatial_correlation: str = "none"
) -> Factors:
    """Returns the factors of a layer, from its moments. Equations (5), (6).

        Ω = E[Σ_t ā_t ā_tᵀ],  Γ = (κ/|T|) E[Σ_t g_t g_tᵀ]

    where t runs over the |T| positions of all calls (KFC, Grosse & Martens 2016, 3.1;
    for several calls, Martens, Ba & Johnson 2018, 3.5.1). With one position these are
    equations (3) and (4), A = E[ā āᵀ] and G = E[g gᵀ] (Martens & Grosse 2015, section
    3). κ is 1 if the gradients at different positions are taken for uncorrelated, as
    KFC does, and |T| if they are taken for fully correlated, an upper bound.

    Args:
      moments: Moments summed over all calls.
      examples: Number of examples, scalar.
      spatial_correlation: One of `SPATIAL_CORRELATIONS`.
    """
    a, g = moments.a / examples, moments.g / examples
    if spatial_correlation == "full":
        return Factors(a, g)
    return Factors(a, g / (moments.positions / examples))
