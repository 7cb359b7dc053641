"""Curvature of a model: its block-diagonal Fisher matrix, and products with it."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from acktr_tf.kfac.blocks.block import AddVariable, Block
from acktr_tf.kfac.blocks.registry import make_blocks
from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.replicas import mean_over_replicas
from acktr_tf.kfac.settings import KFACSettings


class Curvature:
    """Fisher matrix of a model, with one block per layer.

    Weights, gradients and steps are lists with one matrix `[n, m]` per block, in the
    order of `blocks`.

    Args:
      model: A built model.
      add_variable: See `Block`.
      settings: Settings of the optimizer.

    Attributes:
      blocks: The blocks.

    Raises:
      ValueError: A layer is not supported; see `registry.make_blocks`.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        add_variable: AddVariable,
        settings: KFACSettings,
    ) -> None:
        self.blocks: list[Block] = make_blocks(model, add_variable, settings)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Layers that have a block."""
        return [block.layer for block in self.blocks]

    @property
    def variables(self) -> list[keras.Variable]:
        """Weights that have a block."""
        return [variable for block in self.blocks for variable in block.variables]

    @property
    def watched_weights(self) -> list[keras.Variable]:
        """Weights whose own gradients the blocks need."""
        return [weight for block in self.blocks for weight in block.watched_weights]

    # Factors ------------------------------------------------------------------------
    def update_factors(
        self,
        tape: CurvatureTape,
        log_likelihood: tf.Tensor,
        decay: float,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Moves the running factors towards the statistics of a batch.

        In a replica of a `tf.distribute` strategy the statistics are means over all
        replicas, each of which must have as many examples.

        Args:
          tape: Closed tape that saw the model's forward pass.
          log_likelihood: `[N]`, computed inside the tape's block.
          decay: ρ.
          step: Number of the update of the factors, scalar integer.

        Returns:
          Number of blocks that were left as they are because the batch's statistics
          were not finite, scalar int32.

        Raises:
          ValueError: A layer was not called inside the tape's block; the log-likelihood
            does not depend on it, or is not `[N]`; or see `Block.statistics`.
        """
        shape = log_likelihood.shape
        if shape.rank not in (None, 1):
            raise ValueError(
                "`log_likelihood` must be [N], one number per example; their sum or "
                f"mean does not tell the examples apart. Received: shape={tuple(shape)}"
            )
        examples = tf.shape(log_likelihood)[0]
        tensors = [block.differentiated_tensors(tape) for block in self.blocks]
        # Summed over examples, so each row holds its example's own gradient.
        gradients = tape.gradient(log_likelihood, tensors)
        for block, found in zip(self.blocks, gradients, strict=True):
            if any(gradient is None for gradient in found):
                raise ValueError(
                    "The log-likelihood does not depend on layer "
                    f"`{block.layer.name}`, or was computed outside the tape's block."
                )
        statistics = [
            block.statistics(tape, found, examples, step)
            for block, found in zip(self.blocks, gradients, strict=True)
        ]
        means = mean_over_replicas(statistics)
        return tf.add_n(
            [
                block.update_running_factors(found, decay)
                for block, found in zip(self.blocks, means, strict=True)
            ]
        )

    # Products -----------------------------------------------------------------------
    def to_matrices(self, tensors: Mapping[int, tf.Tensor]) -> list[tf.Tensor]:
        """Returns weights or gradients as matrices, one per block.

        Args:
          tensors: Id of each variable → its value or gradient.

        Raises:
          ValueError: A variable is missing.
        """
        missing = [v.path for v in self.variables if id(v) not in tensors]
        if missing:
            raise ValueError(
                f"No gradient for {', '.join(missing)}: KFAC steps all layers "
                "together. Pass the gradients of all variables it was attached to."
            )
        return [
            block.to_matrix([tensors[id(v)] for v in block.variables])
            for block in self.blocks
        ]

    def from_matrices(self, matrices: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        """Returns tensors by the id of their variable: the reverse of `to_matrices`.

        Args:
          matrices: One matrix per block.
        """
        return {
            id(variable): tensor
            for block, matrix in zip(self.blocks, matrices, strict=True)
            for variable, tensor in zip(
                block.variables, block.from_matrix(matrix), strict=True
            )
        }

    def multiply_inverse(self, matrices: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the inverse of the damped Fisher matrix times matrices. Eq. (10).

        Args:
          matrices: One matrix per block.
        """
        return [
            block.multiply_inverse(matrix)
            for block, matrix in zip(self.blocks, matrices, strict=True)
        ]

    def squared_norm(self, matrices: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns VᵀFV with the undamped Fisher matrix, scalar.

        Args:
          matrices: V, one matrix per block.
        """
        products = [
            block.multiply(matrix)
            for block, matrix in zip(self.blocks, matrices, strict=True)
        ]
        return inner_product(matrices, products)


def inner_product(left: Sequence[tf.Tensor], right: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the sum of the products of all elements, scalar.

    Args:
      left: Tensors of any shapes.
      right: Tensors of the same shapes.
    """
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(left, right, strict=True)])
