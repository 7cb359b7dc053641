"""One layer's block of the Fisher matrix.

A block treats its layer's weights as one matrix W `[n, m]`: the kernel with the bias as
its last row, or the scale and the offset of a normalization as one row. n counts inputs
(and the bias), m outputs. Equation numbers are those of docs/kfac.md.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac import factors
from acktr_tf.kfac.capture import Call, CurvatureTape
from acktr_tf.kfac.factors import Factors, Rows
from acktr_tf.kfac.inverses import (
    BlockInverse,
    CholeskyInverse,
    EigenInverse,
    EKFACInverse,
)
from acktr_tf.kfac.linalg import Array, pi_correction
from acktr_tf.kfac.patches import patch_bytes
from acktr_tf.kfac.sides import DenseSide, DiagonalSide, Side

AddVariable = Callable[..., keras.Variable]

INVERSES: dict[str, type[BlockInverse]] = {
    "cholesky": CholeskyInverse,
    "eigen": EigenInverse,
    "ekfac": EKFACInverse,
}

MOST_AT_ONCE = 2**30
"""Examples; twice as many are no int32."""


class Options(NamedTuple):
    """What all blocks of an optimizer have in common.

    Attributes:
      inverse: One of `INVERSES`.
      conv_positions: One of `factors.CONV_POSITIONS`.
      patch_period: Of the positions of a convolution, one in so many along each axis
        has its patch in A; another one in each update.
      max_patch_bytes: Of patches held at a time; more are made in pieces.
      fallback: "diagonal" for a `DiagonalBlock` where there is no other, or None.
      thread: Whether blocks are inverted in a thread.
      stagger_inverses: Whether blocks are inverted at steps of their own; not in a
        thread.
    """

    inverse: str = "cholesky"
    conv_positions: str = "uncorrelated"
    patch_period: int = 1
    max_patch_bytes: int = 256 * 2**20
    fallback: str | None = None
    thread: bool = False
    stagger_inverses: bool = False


class Kind(NamedTuple):
    """How weights of a kind of layer make a block.

    Attributes:
      rows: What they see in a call; see `factors`.
      weights: Names of the layer's attributes that hold them.
      axis: Along which they are laid side by side in W.
      diagonal_a: Whether A is diagonal.
      has_patches: Whether it is a convolution, whose rows are larger than its inputs.
      required: Attribute → the one value of it that is supported.
    """

    rows: Callable[..., Rows]
    weights: tuple[str, ...] = ("kernel", "bias")
    axis: int = 0
    diagonal_a: bool = False
    has_patches: bool = False
    required: Mapping[str, Any] = MappingProxyType({})


class Block(abc.ABC):
    """Running factors of one layer, an inverse, and products with them.

    Args:
      layer: A built layer.
      variables: Its weights.
      axis: Along which they are laid side by side in W.
      sides: A's and G's, made for n and m.
      inverse: What inverts it.
      add_variable: Makes a variable of the optimizer, as
        `keras.optimizers.Optimizer.add_variable` does.

    Attributes:
      layer: The layer.
      num_inputs: n.
      num_outputs: m.
      state: All variables of the block.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        variables: Sequence[keras.Variable],
        axis: int,
        sides: tuple[type[Side], type[Side]],
        inverse: type[BlockInverse],
        add_variable: AddVariable,
    ) -> None:
        self.layer = layer
        self._variables = list(variables)
        self._axis = axis
        self._shapes = [tuple(variable.shape) for variable in variables]
        sizes = [math.prod(shape) for shape in self._shapes]
        if axis == 0:
            self.num_outputs = self._shapes[0][-1]
            self._lengths = [size // self.num_outputs for size in sizes]
            self.num_inputs = sum(self._lengths)
        else:
            self._lengths = sizes
            self.num_inputs, self.num_outputs = 1, sum(sizes)

        self.state: list[keras.Variable] = []

        def add_array(
            name: str, shape: tuple[int, ...], initializer: str
        ) -> keras.Variable:
            array = add_variable(
                shape=shape,
                initializer=initializer,
                dtype="float32",
                aggregation="only_first_replica",
                name=f"{layer.name}_{name}",
            )
            self.state.append(array)
            return array

        self._side_a = sides[0](self.num_inputs)
        self._side_g = sides[1](self.num_outputs)
        self._sum_a = add_array("factor_a", self._side_a.shape, "zeros")
        self._sum_g = add_array("factor_g", self._side_g.shape, "zeros")
        self._weight = add_array("factor_weight", (), "zeros")
        self._inverse = inverse(self._side_a, self._side_g, add_array)
        self._inverse_step = add_array("inverse_step", (), "zeros")

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of A and of G: diagonals have one axis."""
        return self._side_a.shape, self._side_g.shape

    @property
    def variables(self) -> list[keras.Variable]:
        """The layer's weights that the block stands for, in the order of W."""
        return list(self._variables)

    # Factors --------------------------------------------------------------------
    @abc.abstractmethod
    def sources(self, tape: CurvatureTape) -> list[tf.Tensor]:
        """What `statistics` wants gradients with respect to.

        Raises:
          ValueError: The layer was not called inside the tape's block.
        """

    @abc.abstractmethod
    def statistics(
        self,
        tape: CurvatureTape,
        gradients: Sequence[tf.Tensor],
        examples: tf.Tensor,
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """What a batch says of the block: A, G and, for EKFAC, its squares.

        Second moments are taken in float32 even if the layer computes in half
        precision.

        Args:
          tape: Saw the layer's calls.
          gradients: Of the log-likelihoods' sum, with respect to `sources`.
          examples: N, of how many log-likelihoods; a model may call a layer on another
            number of rows, as one that folds positions into the batch does.
          step: Number of the update of the factors, scalar integer.

        Returns:
          Means over the examples.

        Raises:
          ValueError: With EKFAC, which needs the rows of an example together: there
            are not as many rows as examples.
        """

    def accept(self, statistics: Sequence[tf.Tensor], decay: float) -> tf.Tensor:
        """Moves the running factors towards those of a batch. Equation (7).

            S ← ρ S + (1 − ρ) X,  w ← ρ w + (1 − ρ),  mean = S / w

        A batch whose statistics are not finite leaves them as they are.

        Args:
          statistics: Of the batch.
          decay: ρ.

        Returns:
          How many batches it left out, 0 or 1, scalar int32.
        """
        finite = tf.reduce_all(
            [tf.math.is_finite(tf.reduce_sum(each)) for each in statistics]
        )
        one = tf.ones_like(self._weight.value)
        a, g, *observed = statistics
        for total, new in [(self._sum_a, a), (self._sum_g, g), (self._weight, one)]:
            moved = decay * total.value + (1.0 - decay) * new
            total.assign(tf.where(finite, moved, total.value))
        if isinstance(self._inverse, EKFACInverse):
            self._inverse.observe(observed[0], decay, finite)
        return tf.cast(~finite, tf.int32)

    def factors(self) -> Factors:
        """The running factors without the bias of their zero start. Equation (7).

        Zeros before the first update.
        """
        weight = tf.maximum(self._weight.value, 1e-12)
        return Factors(self._sum_a.value / weight, self._sum_g.value / weight)

    # Inverse --------------------------------------------------------------------
    @property
    def inverse(self) -> BlockInverse:
        """What inverts the block."""
        return self._inverse

    def solve(self, a: Array, g: Array, damping: float) -> list[Array]:
        """Inverts the damped block on the host; may be called in any thread.

        Args:
          a: A.
          g: G.
          damping: λ.

        Returns:
          The arrays that `accept_solution` wants, all float32.
        """
        arrays, succeeded, failures = self._inverse.solve(a, g, float(damping))
        return [
            *arrays,
            np.array(succeeded, np.float32),
            np.array(failures, np.float32),
        ]

    @property
    def solution_shapes(self) -> list[tuple[int, ...]]:
        """Of what `solve` returns."""
        return [*(tuple(array.shape) for array in self._inverse.arrays), (), ()]

    def accept_solution(
        self, solution: Sequence[tf.Tensor], step: tf.Tensor
    ) -> tf.Tensor:
        """Puts what `solve` returned into force, if it succeeded.

        Args:
          solution: What it returned.
          step: Number of the update whose factors it was given, scalar float32.

        Returns:
          How many factorizations failed, scalar int32; see `linalg`.
        """
        *arrays, succeeded, failures = solution
        self._inverse.accept(arrays, succeeded > 0.0)
        kept = self._inverse_step.value
        self._inverse_step.assign(tf.where(succeeded > 0.0, step, kept))
        return tf.cast(failures, tf.int32)

    @property
    def inverse_step(self) -> tf.Tensor:
        """Number of the update whose factors the inverse is of, scalar float32."""
        return self._inverse_step.value

    def pi(self) -> tf.Tensor:
        """How damping is split between the factors, scalar. Equation (8)."""
        pi = tf.numpy_function(self._pi, list(self.factors()), tf.float32)
        pi.set_shape([])
        return pi

    def _pi(self, a: Array, g: Array) -> np.float32:
        sides = self._side_a.mean_eigenvalue(a), self._side_g.mean_eigenvalue(g)
        return np.float32(pi_correction(*sides))

    def condition_number(self, damping: tf.Tensor) -> tf.Tensor:
        """Of the damped block, scalar. It costs the eigenvalues of both factors.

        Args:
          damping: λ.
        """
        return self._inverse.condition_number(self.factors(), damping)

    # Matrices -------------------------------------------------------------------
    def to_matrix(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The weights, or their gradients, as the block's matrix `[n, m]`."""
        shape = [-1, self.num_outputs] if self._axis == 0 else [1, -1]
        return tf.concat([tf.reshape(t, shape) for t in tensors], axis=self._axis)

    def from_matrix(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """The reverse of `to_matrix`."""
        parts = tf.split(matrix, self._lengths, axis=self._axis)
        return [
            tf.reshape(part, shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def multiply_inverse(self, matrix: tf.Tensor) -> tf.Tensor:
        """The inverse of the damped block times `matrix` `[n, m]`. Equation (10)."""
        return self._inverse.multiply(matrix)

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """The block, without damping, times `matrix` `[n, m]`: A V G. Equation (2)."""
        running = self.factors()
        return self._side_g.right(self._side_a.left(running.a, matrix), running.g)

    def to_dense(self) -> tf.Tensor:
        """The block A ⊗ G, without damping, `[n·m, n·m]`, of the flattened matrix."""
        running = self.factors()
        a, g = self._side_a.dense(running.a), self._side_g.dense(running.g)
        size = self.num_inputs * self.num_outputs
        return tf.reshape(tf.einsum("ij,kl->ikjl", a, g), [size, size])


class KroneckerBlock(Block):
    """A block A ⊗ G of second moments of a layer's inputs and outputs' gradients.

    Args:
      layer: A built layer.
      kind: What its weights see.
      options: Those of the optimizer.
      add_variable: See `Block`.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kind: Kind,
        options: Options,
        add_variable: AddVariable,
    ) -> None:
        self._kind = kind
        self._options = options
        weights = [getattr(layer, name, None) for name in kind.weights]
        sides = (DiagonalSide if kind.diagonal_a else DenseSide, DenseSide)
        super().__init__(
            layer,
            [weight for weight in weights if weight is not None],
            kind.axis,
            sides,
            INVERSES[options.inverse],
            add_variable,
        )

    def sources(self, tape: CurvatureTape) -> list[tf.Tensor]:
        """The outputs of each of the layer's calls."""
        return [call.outputs for call in tape.calls(self.layer)]

    def statistics(
        self,
        tape: CurvatureTape,
        gradients: Sequence[tf.Tensor],
        examples: tf.Tensor,
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """See `Block.statistics`."""
        calls = tape.calls(self.layer)
        # Of an embedding they come as slices.
        found = [tf.convert_to_tensor(gradient) for gradient in gradients]
        limit = self._options.max_patch_bytes
        if isinstance(self._inverse, EKFACInverse):
            for gradient in found:
                self._require_a_row_each(gradient, examples)
            sums = self._sums_in_pieces(calls, found, step, limit)
        else:
            # Each call by itself: it may have another number of rows. A graph may
            # make the pieces of several at a time.
            sums = _total(
                [
                    self._sums_in_pieces([call], [gradient], step, limit // len(calls))
                    for call, gradient in zip(calls, found, strict=True)
                ]
            )
        moments = factors.Moments(*sums[:3])
        count = tf.cast(examples, tf.float32)
        batch = factors.factors_of(moments, count, self._options.conv_positions)
        return [*batch, *(observed / count for observed in sums[3:])]

    def _require_a_row_each(self, gradients: tf.Tensor, examples: tf.Tensor) -> None:
        received, expected = gradients.shape[0], tf.get_static_value(examples)
        message = (
            'inverse="ekfac" needs a row of each layer for each example. Received: '
            f"layer `{self.layer.name}`, called on another number of rows than there "
            'are log-likelihoods. inverse="eigen" and "cholesky" take any.'
        )
        if received is None or expected is None:
            tf.debugging.assert_equal(tf.shape(gradients)[0], examples, message)
        elif received != expected:
            raise ValueError(message)

    def _sums(
        self, calls: Sequence[Call], gradients: Sequence[tf.Tensor], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """Moments and, for EKFAC, squares, summed over examples and calls."""
        seen = [
            self._seen(call, gradient, step)
            for call, gradient in zip(calls, gradients, strict=True)
        ]
        if self._kind.has_patches and not isinstance(self._inverse, EKFACInverse):
            return _total([factors.conv_moments(*each) for each in seen])
        rows = [self._kind.rows(*each) for each in seen]
        sums = _total([factors.moments(each, self.num_inputs) for each in rows])
        if isinstance(self._inverse, EKFACInverse):
            sums.append(self._inverse.squares(rows))
        return sums

    def _seen(
        self, call: Call, gradients: tf.Tensor, step: tf.Tensor
    ) -> tuple[Any, ...]:
        """The arguments of `Kind.rows`, in float32."""
        inputs = call.inputs
        if inputs.dtype.is_floating:
            inputs = tf.cast(inputs, tf.float32)
        call, gradients = call._replace(inputs=inputs), tf.cast(gradients, tf.float32)
        if not self._kind.has_patches:
            return self.layer, call, gradients
        return self.layer, call, gradients, self._options.patch_period, step

    def _sums_in_pieces(
        self,
        calls: Sequence[Call],
        gradients: Sequence[tf.Tensor],
        step: tf.Tensor,
        limit: int,
    ) -> list[tf.Tensor]:
        """As `_sums`, of so many rows at a time that patches need `limit` bytes."""
        rows = tf.shape(gradients[0])[0]
        at_once = self._rows_at_once(calls, limit)
        if at_once is None:
            return self._sums(calls, gradients, step)

        def add(
            start: tf.Tensor, totals: list[tf.Tensor]
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            end = tf.minimum(start + at_once, rows)
            piece = self._sums(
                [call._replace(inputs=call.inputs[start:end]) for call in calls],
                [gradient[start:end] for gradient in gradients],
                step,
            )
            return end, [t + new for t, new in zip(totals, piece, strict=True)]

        shapes = [self._side_a.shape, self._side_g.shape, ()]
        if isinstance(self._inverse, EKFACInverse):
            shapes.append((self.num_inputs, self.num_outputs))
        _, totals = tf.while_loop(
            lambda start, _: start < rows,
            add,
            (tf.constant(0), [tf.zeros(shape) for shape in shapes]),
            parallel_iterations=1,
        )
        return totals

    def _rows_at_once(
        self, calls: Sequence[Call], limit: int
    ) -> int | tf.Tensor | None:
        """How many rows' patches may be held at a time; None for all."""
        if not self._kind.has_patches:
            return None
        size = sum(patch_bytes(call.inputs, self.layer) for call in calls)
        rows = calls[0].inputs.shape[0]
        if isinstance(size, int):
            at_once = min(max(1, limit // size), MOST_AT_ONCE)
            return None if rows is not None and rows <= at_once else at_once
        return tf.cast(tf.clip_by_value(limit / size, 1.0, MOST_AT_ONCE), tf.int32)


class DiagonalBlock(Block):
    """The diagonal of a layer's Fisher matrix, for layers that have no other block.

    With s the gradient of the sum of N log-likelihoods of sampled targets, E[s²] is the
    sum of the squares of the examples' own gradients: these have mean zero and are
    independent. So s² / N needs no gradient of a single example. Damping is exact.

    Args:
      layer: A built layer.
      add_variable: See `Block`.
    """

    def __init__(self, layer: keras.layers.Layer, add_variable: AddVariable) -> None:
        super().__init__(
            layer,
            layer.trainable_variables,
            1,
            (DenseSide, DiagonalSide),
            EigenInverse,
            add_variable,
        )

    def sources(self, tape: CurvatureTape) -> list[tf.Tensor]:
        """The weights themselves."""
        return [variable.value for variable in self._variables]

    def statistics(
        self,
        tape: CurvatureTape,
        gradients: Sequence[tf.Tensor],
        examples: tf.Tensor,
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """See `Block.statistics`."""
        found = [tf.convert_to_tensor(gradient) for gradient in gradients]
        squares = tf.square(tf.cast(self.to_matrix(found), tf.float32))
        return [tf.ones([1, 1]), squares[0] / tf.cast(examples, tf.float32)]


def paths(blocks: Sequence[Block]) -> list[str]:
    """A name for each: its layer's path, with a number where that is another's, too."""
    taken = {block.layer.path for block in blocks}
    found: list[str] = []
    for block in blocks:
        name, number = block.layer.path, 0
        while name in found or (number and name in taken):
            number += 1
            name = f"{block.layer.path}_{number}"
        found.append(name)
    return found


def _total(moments: Sequence[Sequence[tf.Tensor]]) -> list[tf.Tensor]:
    """Each of them, summed over calls."""
    return [tf.add_n(parts) for parts in zip(*moments, strict=True)]
