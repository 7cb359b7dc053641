"""Diagonal blocks, for layers whose weights have no Kronecker-factored block."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac.blocks.block import AddVariable, Block
from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.inverses import Inversion
from acktr_tf.kfac.linalg import Array
from acktr_tf.kfac.settings import KFACSettings


class DiagonalBlock(Block):
    """Diagonal of a layer's Fisher matrix, with exact damping.

    With s the gradient of the sum of N log-likelihoods of sampled targets, E[s²] is the
    sum of the squares of the examples' own gradients: these have mean zero and are
    independent. So s² / N needs no gradient of a single example.

    Args:
      layer: A built layer.
      settings: Settings of the optimizer; not used.
      add_variable: See `Block`.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        settings: KFACSettings,
        add_variable: AddVariable,
    ) -> None:
        variables = layer.trainable_variables
        self._size = sum(math.prod(variable.shape) for variable in variables)
        shapes = {"diagonal": (self._size,)}
        super().__init__(layer, variables, shapes, add_variable)
        # Ones make the inverse the identity until the first inversion.
        self._damped = self.add_array("damped_diagonal", (self._size,), "ones")
        self.inverse_arrays = [self._damped]

    def differentiated_tensors(self, tape: CurvatureTape) -> list[tf.Tensor]:
        """Returns the weights themselves.

        Args:
          tape: See `Block.differentiated_tensors`.
        """
        return [variable.value for variable in self._variables]

    @property
    def watched_weights(self) -> list[keras.Variable]:
        """All weights of the layer."""
        return self.variables

    def statistics(
        self,
        tape: CurvatureTape,
        gradients: Sequence[tf.Tensor],
        examples: tf.Tensor,
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Computes s² / N; see `Block.statistics`.

        Args:
          tape: See `Block.statistics`.
          gradients: s, by weight.
          examples: N.
          step: See `Block.statistics`.
        """
        found = [tf.convert_to_tensor(gradient) for gradient in gradients]
        squares = tf.square(tf.cast(self.to_matrix(found), tf.float32))
        return [squares[0] / tf.cast(examples, tf.float32)]

    @property
    def inversion_cost(self) -> float:
        """Cost of a dense matrix of that size, which puts large layers first."""
        return float(1 + self._size**3)

    def invert(self, factors: Sequence[Array], damping: float) -> Inversion:
        """Adds the damping; see `Block.invert`.

        Args:
          factors: The diagonal.
          damping: λ.
        """
        (diagonal,) = factors
        if not np.isfinite(diagonal).all():
            return Inversion([np.zeros_like(diagonal)], False, 1)
        damped = np.maximum(diagonal, 0.0) + np.asarray(damping, diagonal.dtype)
        return Inversion([damped], True, 0)

    def condition_number(self, damping: tf.Tensor) -> tf.Tensor:
        """Returns the largest over the smallest element of the damped diagonal.

        Args:
          damping: λ.

        Returns:
          Scalar; nan if the diagonal is not finite.
        """
        (diagonal,) = self.factors()
        damped = tf.maximum(diagonal, 0.0) + damping
        number = tf.reduce_max(damped) / tf.reduce_min(damped)
        finite = tf.reduce_all(tf.math.is_finite(diagonal))
        return tf.where(finite, number, float("nan"))

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """See `Block.multiply`."""
        return matrix * self.factors()[0]

    def multiply_inverse(self, matrix: tf.Tensor) -> tf.Tensor:
        """See `Block.multiply_inverse`."""
        return matrix / self._damped.value

    def to_dense(self) -> tf.Tensor:
        """Returns the diagonal matrix."""
        return tf.linalg.diag(self.factors()[0])
