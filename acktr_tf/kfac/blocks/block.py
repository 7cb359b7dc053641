"""One layer's block of the Fisher matrix, of whatever structure.

A block computes with its layer's weights, and with their gradients, as one matrix
`[n, m]`; see `Block.to_matrix`. Equation numbers are those of docs/kfac.md.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.inverses import Inversion
from acktr_tf.kfac.linalg import Array

AddVariable = Callable[..., keras.Variable]
"""Makes a variable of the optimizer, as `keras.optimizers.Optimizer.add_variable`."""


class Block(abc.ABC):
    """Running factors of one layer, an inverse, and products with both.

    A factor is a running mean of a statistic of the batch. A block has any number of
    factors, of any shape. A subclass says what its statistics are, how to invert the
    factors on the host, and how to multiply. It must set `inverse_arrays`.

    Args:
      layer: A built layer.
      variables: Weights of the layer that the block is of.
      factor_shapes: Name of each factor → its shape.
      add_variable: See `AddVariable`.

    Attributes:
      layer: The layer.
      state: All variables of the block.
      factor_shapes: Shape of each factor.
      inverse_arrays: Variables that hold the inverse.
    """

    inverse_arrays: Sequence[keras.Variable]

    def __init__(
        self,
        layer: keras.layers.Layer,
        variables: Sequence[keras.Variable],
        factor_shapes: Mapping[str, tuple[int, ...]],
        add_variable: AddVariable,
    ) -> None:
        self.layer = layer
        self.state: list[keras.Variable] = []
        self.factor_shapes = list(factor_shapes.values())
        self._variables = list(variables)
        self._add_variable = add_variable
        self._running_sums = [
            self.add_array(f"factor_{name}", shape, "zeros")
            for name, shape in factor_shapes.items()
        ]
        self._weight = self.add_array("factor_weight", (), "zeros")
        self._inverse_step = self.add_array("inverse_step", (), "zeros")

    def add_array(
        self, name: str, shape: tuple[int, ...], initializer: str
    ) -> keras.Variable:
        """Makes a float32 variable of the block, which is saved with the optimizer.

        Args:
          name: Name of the variable, after the layer's.
          shape: Its shape.
          initializer: Name of a Keras initializer.
        """
        array = self._add_variable(
            shape=shape,
            initializer=initializer,
            dtype="float32",
            aggregation="only_first_replica",
            name=f"{self.layer.name}_{name}",
        )
        self.state.append(array)
        return array

    @property
    def variables(self) -> list[keras.Variable]:
        """Weights of the layer that the block is of, in the order of its matrix."""
        return list(self._variables)

    # Statistics -------------------------------------------------------------------
    @abc.abstractmethod
    def differentiated_tensors(self, tape: CurvatureTape) -> list[tf.Tensor]:
        """Returns the tensors whose gradients `statistics` needs.

        Args:
          tape: Tape that saw the layer's calls.

        Raises:
          ValueError: The layer was not called inside the tape's block.
        """

    @property
    def watched_weights(self) -> list[keras.Variable]:
        """Weights that the tape must watch, if they are differentiated themselves."""
        return []

    @abc.abstractmethod
    def statistics(
        self,
        tape: CurvatureTape,
        gradients: Sequence[tf.Tensor],
        examples: tf.Tensor,
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Computes the statistics of one batch, one per factor.

        They are float32 even if the layer computes in half precision.

        Args:
          tape: Tape that saw the layer's calls.
          gradients: Gradients of the sum of the log-likelihoods with respect to
            `differentiated_tensors`.
          examples: N, the number of log-likelihoods. A layer may be called on another
            number of rows, as in a model that folds positions into the batch.
          step: Number of the update of the factors, scalar integer.

        Returns:
          Means over the examples.
        """

    def update_running_factors(
        self, statistics: Sequence[tf.Tensor], decay: float
    ) -> tf.Tensor:
        """Moves the running factors towards the statistics of a batch. Equation (7).

            S ← ρ S + (1 − ρ) X,  w ← ρ w + (1 − ρ),  mean = S / w

        Statistics that are not finite leave the factors as they are.

        Args:
          statistics: Statistics of the batch.
          decay: ρ.

        Returns:
          Number of batches left out, 0 or 1, scalar int32.
        """
        finite = all_finite(statistics)
        self._update_means(statistics, decay, finite)
        return tf.cast(~finite, tf.int32)

    def _update_means(
        self, statistics: Sequence[tf.Tensor], decay: float, finite: tf.Tensor
    ) -> None:
        one = tf.ones_like(self._weight.value)
        sums = [*zip(self._running_sums, statistics, strict=True), (self._weight, one)]
        for total, new in sums:
            moved = decay * total.value + (1.0 - decay) * new
            total.assign(tf.where(finite, moved, total.value))

    def factors(self) -> Sequence[tf.Tensor]:
        """Returns the running factors without the bias of their zero start.

        Equation (7). They are zeros before the first update.
        """
        weight = tf.maximum(self._weight.value, 1e-12)
        return [total.value / weight for total in self._running_sums]

    # Inverse ------------------------------------------------------------------------
    @property
    @abc.abstractmethod
    def inversion_cost(self) -> float:
        """Relative cost of `invert`, about the cube of the size of its matrices."""

    @abc.abstractmethod
    def invert(self, factors: Sequence[Array], damping: float) -> Inversion:
        """Inverts the damped block on the host; may be called in any thread.

        Args:
          factors: The factors, as NumPy arrays.
          damping: λ.

        Returns:
          New values of `inverse_arrays`. It must not raise if the inversion fails.
        """

    def set_inverse(
        self, arrays: Sequence[tf.Tensor], succeeded: tf.Tensor, step: tf.Tensor
    ) -> None:
        """Puts the outcome of `invert` into force, if it succeeded.

        Args:
          arrays: New values of `inverse_arrays`.
          succeeded: Scalar bool; if False, the inverse stays as it is.
          step: Number of the update whose factors were inverted, scalar float32.
        """
        for variable, new in zip(self.inverse_arrays, arrays, strict=True):
            variable.assign(tf.where(succeeded, new, variable.value))
        self._set_inverse_step(succeeded, step)

    def _set_inverse_step(self, succeeded: tf.Tensor, step: tf.Tensor) -> None:
        kept = self._inverse_step.value
        self._inverse_step.assign(tf.where(succeeded, step, kept))

    @property
    def inverse_step(self) -> tf.Tensor:
        """Number of the update whose factors the inverse is of, scalar float32."""
        return self._inverse_step.value

    # Diagnostics --------------------------------------------------------------------
    @abc.abstractmethod
    def condition_number(self, damping: tf.Tensor) -> tf.Tensor:
        """Returns the condition number of the damped block, scalar.

        Args:
          damping: λ.
        """

    def diagnostics(self, damping: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns scalars that describe the block, by name.

        Args:
          damping: λ.
        """
        return {"condition": self.condition_number(damping)}

    # Products -----------------------------------------------------------------------
    def to_matrix(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the weights, or their gradients, as the block's matrix `[n, m]`.

        By default all weights lie side by side in one row, `[1, m]`.

        Args:
          tensors: One tensor per variable.
        """
        return tf.concat([tf.reshape(tensor, [1, -1]) for tensor in tensors], axis=1)

    def from_matrix(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors of a matrix: the reverse of `to_matrix`.

        Args:
          matrix: `[n, m]`.
        """
        shapes = [tuple(variable.shape) for variable in self._variables]
        parts = tf.split(matrix, [math.prod(shape) for shape in shapes], axis=1)
        return [
            tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)
        ]

    @abc.abstractmethod
    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """Returns the block without damping times `matrix`, as a matrix.

        Args:
          matrix: `[n, m]`.
        """

    @abc.abstractmethod
    def multiply_inverse(self, matrix: tf.Tensor) -> tf.Tensor:
        """Returns the inverse of the damped block times `matrix`. Equation (10).

        Args:
          matrix: `[n, m]`.
        """

    @abc.abstractmethod
    def to_dense(self) -> tf.Tensor:
        """Returns the block without damping `[n·m, n·m]`, for flattened matrices."""


def all_finite(statistics: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns whether all statistics are finite, scalar bool.

    Args:
      statistics: Tensors of any shape.
    """
    return tf.reduce_all(
        [tf.math.is_finite(tf.reduce_sum(each)) for each in statistics]
    )


def block_names(blocks: Sequence[Block]) -> list[str]:
    """Returns a unique name for each block.

    Args:
      blocks: The blocks.

    Returns:
      The path of each block's layer, with a number where another layer has that path.
    """
    taken = {block.layer.path for block in blocks}
    names: list[str] = []
    for block in blocks:
        name, number = block.layer.path, 0
        while name in names or (number and name in taken):
            number += 1
            name = f"{block.layer.path}_{number}"
        names.append(name)
    return names
