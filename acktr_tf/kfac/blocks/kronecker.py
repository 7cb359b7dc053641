"""Kronecker-factored blocks, and the rule that makes one from a layer.

The matrix W `[n, m]` of a block is the kernel with the bias as its last row, or the
scale and the offset of a normalization as one row. n counts inputs (and the bias), m
outputs. Equation numbers are those of docs/kfac.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac.blocks.block import AddVariable, Block, all_finite
from acktr_tf.kfac.capture import Call, CurvatureTape
from acktr_tf.kfac.factor_matrices import (
    left_multiply,
    mean_eigenvalue,
    right_multiply,
    to_dense,
)
from acktr_tf.kfac.inverses import INVERSES, BlockInverse, Inversion
from acktr_tf.kfac.linalg import Array, pi_correction
from acktr_tf.kfac.settings import KFACSettings
from acktr_tf.kfac.statistics.factors import Factors, factors_of
from acktr_tf.kfac.statistics.moments import Moments, conv_moments, moments
from acktr_tf.kfac.statistics.patches import patch_bytes
from acktr_tf.kfac.statistics.signals import Signals

MAX_CHUNK_EXAMPLES = 2**30
"""Largest number of examples per chunk; twice as many are no int32."""


@dataclass(frozen=True)
class LayerRule:
    """Rule by which the weights of a layer type get a Kronecker-factored block A ⊗ G.

    The weights are one matrix W `[n, m]`, whose gradient for one example is the sum of
    ā_t g_tᵀ over the positions t at which the layer applies them. A is the second
    moment of ā, and G that of g. The block is exact if each example has one position,
    and ā and g are independent, for instance because one of them is constant.

    The function `signals(layer, call, gradients)` returns ā and g. It is given

    - the layer;
    - one `Call` of it, with inputs `[N, ...]`, floating-point inputs as float32;
    - the gradients of the examples' log-likelihoods with respect to `call.outputs`, in
      float32 and of the same shape. `call.outputs` is what the layer gives to its
      `activation`, if it has that attribute; otherwise what it returns.

    It returns `Signals(a, g, bias)`: `a` of shape `[N, T, n]`, and `g` of shape
    `[N, T, m]`, for N examples at T positions (for a dense layer on vectors T is 1). If
    `bias` is True, ā has a 1 after the elements of `a`, which is then `[N, T, n - 1]`.
    For one-hot ā, `a` may be their indices, `[N, T]` integers. It is called in a graph,
    where N may be unknown.

    The rule of `keras.layers.Dense`, if its inputs were always `[N, n]`:

        def signals(layer, call, gradients):
            return Signals(call.inputs[:, None], gradients[:, None], layer.use_bias)


        rule = LayerRule(signals, weights=("kernel", "bias"))

    Args:
      signals: See above.
      weights: Names of the layer's attributes that hold the weights; an attribute that
        is None is left out. They must be all its trainable weights.
      axis: 0 if W has the weights one below the other, each reshaped to `[-1, m]` with
        the last axis of the first weight as m: kernel, then bias. 1 if W is one row
        `[1, m]` that has all elements of the weights one after the other.
      diagonal_a: Whether only the diagonal of A is kept, as it is for one-hot ā.
      is_convolution: Whether the layer has the attributes of a convolution of Keras, so
        that `patch_stride` and `max_patch_bytes` hold for it. `signals` must then be
        `conv_signals`.
      required: Attribute of the layer → the only value of it that is supported.
    """

    signals: Callable[..., Signals]
    weights: tuple[str, ...] = ("kernel", "bias")
    axis: int = 0
    diagonal_a: bool = False
    is_convolution: bool = False
    required: Mapping[str, Any] = field(default_factory=dict)


class KroneckerBlock(Block):
    """Block A ⊗ G of second moments of a layer's inputs and output gradients.

    Args:
      layer: A built layer.
      rule: Rule of the layer's type.
      settings: Settings of the optimizer.
      add_variable: See `Block`.

    Attributes:
      num_inputs: n.
      num_outputs: m.
      inverse: Inverse of the block.
      narrowed: Name of each factor wider than `max_factor_dim`, of which only the
        diagonal is kept for that reason → its dimension.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        rule: LayerRule,
        settings: KFACSettings,
        add_variable: AddVariable,
    ) -> None:
        self._rule = rule
        self._settings = settings
        weights = [getattr(layer, name, None) for name in rule.weights]
        variables = [weight for weight in weights if weight is not None]
        self._shapes = [tuple(variable.shape) for variable in variables]
        sizes = [math.prod(shape) for shape in self._shapes]
        if rule.axis == 0:
            self.num_outputs = self._shapes[0][-1]
            self._lengths = [size // self.num_outputs for size in sizes]
            self.num_inputs = sum(self._lengths)
        else:
            self._lengths = sizes
            self.num_inputs, self.num_outputs = 1, sum(sizes)
        n, m = self.num_inputs, self.num_outputs
        limit = settings.max_factor_dim or max(n, m)
        dims = {"G": m} if rule.diagonal_a else {"A": n, "G": m}
        self.narrowed = {name: dim for name, dim in dims.items() if dim > limit}
        self._diagonal_a = rule.diagonal_a or "A" in self.narrowed
        self._diagonal_g = "G" in self.narrowed
        shape_a = (n,) if self._diagonal_a else (n, n)
        shape_g = (m,) if self._diagonal_g else (m, m)
        super().__init__(layer, variables, {"a": shape_a, "g": shape_g}, add_variable)
        kind: type[BlockInverse] = INVERSES[settings.inverse]
        self.inverse = kind(shape_a, shape_g, self.add_array)
        self.inverse_arrays = self.inverse.arrays

    # Statistics ---------------------------------------------------------------------
    def differentiated_tensors(self, tape: CurvatureTape) -> list[tf.Tensor]:
        """Returns the outputs of each of the layer's calls.

        Args:
          tape: See `Block.differentiated_tensors`.
        """
        return [call.outputs for call in tape.calls(self.layer)]

    def statistics(
        self,
        tape: CurvatureTape,
        gradients: Sequence[tf.Tensor],
        examples: tf.Tensor,
        step: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Computes A and G, and the inverse's extra statistics.

        Args:
          tape: See `Block.statistics`.
          gradients: See `Block.statistics`.
          examples: See `Block.statistics`.
          step: See `Block.statistics`.

        Raises:
          ValueError: The inverse needs all rows of an example together, as EKFAC's
            does, and there are not as many rows as examples.
        """
        calls = tape.calls(self.layer)
        # Gradients with respect to an embedding's outputs come as slices.
        found = [tf.convert_to_tensor(gradient) for gradient in gradients]
        limit = self._settings.max_patch_bytes
        if self.inverse.needs_example_gradients:
            for gradient in found:
                self._require_one_row_per_example(gradient, examples)
            sums = self._sums_in_chunks(calls, found, step, limit)
        else:
            # Each call by itself, since it may have another number of rows. A graph may
            # make the chunks of several calls at a time.
            sums = _total(
                [
                    self._sums_in_chunks([call], [gradient], step, limit // len(calls))
                    for call, gradient in zip(calls, found, strict=True)
                ]
            )
        count = tf.cast(examples, tf.float32)
        correlation = self._settings.spatial_correlation
        batch = factors_of(Moments(*sums[:3]), count, correlation)
        return [*batch, *(extra / count for extra in sums[3:])]

    def _require_one_row_per_example(
        self, gradients: tf.Tensor, examples: tf.Tensor
    ) -> None:
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
        """Returns moments and extra statistics, summed over examples and calls."""
        arguments = [
            self._signal_arguments(call, gradient, step)
            for call, gradient in zip(calls, gradients, strict=True)
        ]
        if self._rule.is_convolution and not self.inverse.needs_example_gradients:
            return _total(
                [
                    conv_moments(
                        *each,
                        diagonal_a=self._diagonal_a,
                        diagonal_g=self._diagonal_g,
                    )
                    for each in arguments
                ]
            )
        signals = [self._rule.signals(*each) for each in arguments]
        sums = _total(
            [
                moments(
                    each,
                    self.num_inputs,
                    diagonal_a=self._diagonal_a,
                    diagonal_g=self._diagonal_g,
                )
                for each in signals
            ]
        )
        return [*sums, *self.inverse.extra_statistics(signals)]

    def signals(self, call: Call, gradients: tf.Tensor, step: tf.Tensor) -> Signals:
        """Returns the signals of one call, by the layer's rule.

        Args:
          call: Call of the layer.
          gradients: Gradients with respect to its outputs.
          step: See `statistics`.
        """
        return self._rule.signals(*self._signal_arguments(call, gradients, step))

    def _signal_arguments(
        self, call: Call, gradients: tf.Tensor, step: tf.Tensor
    ) -> tuple[Any, ...]:
        """Returns the arguments of `LayerRule.signals`, in float32."""
        inputs = call.inputs
        if inputs.dtype.is_floating:
            inputs = tf.cast(inputs, tf.float32)
        call, gradients = call._replace(inputs=inputs), tf.cast(gradients, tf.float32)
        if not self._rule.is_convolution:
            return self.layer, call, gradients
        return self.layer, call, gradients, self._settings.patch_stride, step

    def _sums_in_chunks(
        self,
        calls: Sequence[Call],
        gradients: Sequence[tf.Tensor],
        step: tf.Tensor,
        limit: int,
    ) -> list[tf.Tensor]:
        """As `_sums`, of so few rows at a time that their patches fit `limit` bytes."""
        rows = tf.shape(gradients[0])[0]
        chunk = self._chunk_rows(calls, limit)
        if chunk is None:
            return self._sums(calls, gradients, step)

        def add(
            start: tf.Tensor, totals: list[tf.Tensor]
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            end = tf.minimum(start + chunk, rows)
            sums = self._sums(
                [call._replace(inputs=call.inputs[start:end]) for call in calls],
                [gradient[start:end] for gradient in gradients],
                step,
            )
            return end, [t + new for t, new in zip(totals, sums, strict=True)]

        shapes = [*self.factor_shapes, (), *self.inverse.extra_shapes]
        _, totals = tf.while_loop(
            lambda start, _: start < rows,
            add,
            (tf.constant(0), [tf.zeros(shape) for shape in shapes]),
            parallel_iterations=1,
        )
        return totals

    def _chunk_rows(self, calls: Sequence[Call], limit: int) -> int | tf.Tensor | None:
        """Returns how many rows' patches may be held at a time; None for all."""
        if not self._rule.is_convolution:
            return None
        size = sum(patch_bytes(call.inputs, self.layer) for call in calls)
        rows = calls[0].inputs.shape[0]
        if isinstance(size, int):
            chunk = min(max(1, limit // size), MAX_CHUNK_EXAMPLES)
            return None if rows is not None and rows <= chunk else chunk
        return tf.cast(
            tf.clip_by_value(limit / size, 1.0, MAX_CHUNK_EXAMPLES), tf.int32
        )

    def update_running_factors(
        self, statistics: Sequence[tf.Tensor], decay: float
    ) -> tf.Tensor:
        """Updates A and G, and what the inverse learns from its extra statistics.

        Args:
          statistics: See `Block.update_running_factors`.
          decay: See `Block.update_running_factors`.
        """
        finite = all_finite(statistics)
        self._update_means(statistics[:2], decay, finite)
        self.inverse.update_spectrum(statistics[2:], decay, finite)
        return tf.cast(~finite, tf.int32)

    def factors(self) -> Factors:
        """Returns A and G; see `Block.factors`."""
        return Factors(*super().factors())

    # Inverse ------------------------------------------------------------------------
    @property
    def inversion_cost(self) -> float:
        """n³ + m³; of a factor that is a diagonal, n and m."""
        return float(
            sum(shape[0] ** (2 * len(shape) - 1) for shape in self.factor_shapes)
        )

    def invert(self, factors: Sequence[Array], damping: float) -> Inversion:
        """See `Block.invert`."""
        a, g = factors
        return self.inverse.invert(a, g, damping)

    def set_inverse(
        self, arrays: Sequence[tf.Tensor], succeeded: tf.Tensor, step: tf.Tensor
    ) -> None:
        """See `Block.set_inverse`."""
        self.inverse.set_inverse(arrays, succeeded)
        self._set_inverse_step(succeeded, step)

    # Diagnostics --------------------------------------------------------------------
    def pi(self) -> tf.Tensor:
        """Returns π, the split of the damping between the factors. Equation (8)."""

        def pi_of(a: Array, g: Array) -> np.float32:
            return np.float32(pi_correction(mean_eigenvalue(a), mean_eigenvalue(g)))

        pi = tf.numpy_function(pi_of, list(self.factors()), tf.float32)
        pi.set_shape([])
        return pi

    def condition_number(self, damping: tf.Tensor) -> tf.Tensor:
        """Returns the condition number; costs the eigenvalues of both factors.

        Args:
          damping: λ.
        """
        return self.inverse.condition_number(self.factors(), damping)

    def diagnostics(self, damping: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the condition number and π; see `Block.diagnostics`.

        Args:
          damping: λ.
        """
        return {**super().diagnostics(damping), "pi": self.pi()}

    # Products -----------------------------------------------------------------------
    def to_matrix(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns W `[n, m]`; see `Block.to_matrix`.

        Args:
          tensors: One tensor per variable.
        """
        axis = self._rule.axis
        shape = [-1, self.num_outputs] if axis == 0 else [1, -1]
        return tf.concat([tf.reshape(t, shape) for t in tensors], axis=axis)

    def from_matrix(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors of W; see `Block.from_matrix`.

        Args:
          matrix: `[n, m]`.
        """
        parts = tf.split(matrix, self._lengths, axis=self._rule.axis)
        return [
            tf.reshape(part, shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """Returns A V G of a matrix V, without damping. Equation (2).

        Args:
          matrix: V, `[n, m]`.
        """
        a, g = self.factors()
        return right_multiply(left_multiply(a, matrix), g)

    def multiply_inverse(self, matrix: tf.Tensor) -> tf.Tensor:
        """Returns the inverse of the damped block times `matrix`. Equation (10).

        Args:
          matrix: `[n, m]`.
        """
        return self.inverse.multiply(matrix)

    def to_dense(self) -> tf.Tensor:
        """Returns A ⊗ G without damping, `[n·m, n·m]`."""
        a, g = (to_dense(factor) for factor in self.factors())
        size = self.num_inputs * self.num_outputs
        return tf.reshape(tf.einsum("ij,kl->ikjl", a, g), [size, size])


def _total(sums: Sequence[Sequence[tf.Tensor]]) -> list[tf.Tensor]:
    """Returns each statistic, summed over calls."""
    return [tf.add_n(parts) for parts in zip(*sums, strict=True)]
