"""One layer's Kronecker-factored block of the Fisher matrix.

A block treats its layer's weights as one matrix W `[n, m]`, the kernel with the bias as
its last row; n counts inputs (and the bias), m outputs. Equation numbers are those of
docs/kfac.md.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from acktr_tf.kfac.capture import Captured
from acktr_tf.kfac.factors import (
    Factors,
    bias_factors,
    conv2d_factors,
    dense_factors,
)
from acktr_tf.kfac.layers import Bias
from acktr_tf.kfac.linalg import damped_inverse, pi_correction

AddVariable = Callable[..., keras.Variable]


class KroneckerBlock(abc.ABC):
    """Running factors of one layer, their inverses, and products with them.

    Args:
      layer: A built layer with a kernel or a bias or both.
      add_variable: Makes a variable of the optimizer, as
        `keras.optimizers.Optimizer.add_variable` does.
    """

    def __init__(self, layer: keras.layers.Layer, add_variable: AddVariable) -> None:
        self.layer = layer
        kernel = getattr(layer, "kernel", None)
        bias = layer.bias if getattr(layer, "use_bias", True) else None
        self._variables = [v for v in (kernel, bias) if v is not None]
        self._shapes = [tuple(v.shape) for v in self._variables]
        self.num_outputs = self._shapes[0][-1]
        self._rows = [_product(shape) // self.num_outputs for shape in self._shapes]
        self.num_inputs = sum(self._rows)

        def square(size: int, name: str, initializer: str = "zeros") -> keras.Variable:
            return add_variable(
                shape=(size, size),
                initializer=initializer,
                dtype="float32",
                name=f"{layer.name}_{name}",
            )

        self._sum_a = square(self.num_inputs, "factor_a")
        self._sum_g = square(self.num_outputs, "factor_g")
        self._weight = add_variable(
            shape=(), dtype="float32", name=f"{layer.name}_factor_weight"
        )
        # The identity makes the first steps plain gradient, should an inverse fail.
        self.inverse_a = square(self.num_inputs, "inverse_a", "identity")
        self.inverse_g = square(self.num_outputs, "inverse_g", "identity")

    @property
    def variables(self) -> list[keras.Variable]:
        """The layer's weights that the block stands for: kernel, then bias."""
        return list(self._variables)

    @abc.abstractmethod
    def batch_factors(self, captured: Captured, gradients: tf.Tensor) -> Factors:
        """The factors of one batch, given gradients of the pre-activations."""

    def factors(self) -> Factors:
        """The running factors without the bias of their zero start. Equation (7).

        Zeros before the first update.
        """
        weight = tf.maximum(self._weight.value, 1e-12)
        return Factors(self._sum_a.value / weight, self._sum_g.value / weight)

    def update_factors(
        self, captured: Captured, gradients: tf.Tensor, decay: float
    ) -> None:
        """Moves the running factors towards those of a batch. Equation (7).

            S ← ρ S + (1 − ρ) X,  w ← ρ w + (1 − ρ),  mean = S / w

        A batch whose factors are not finite leaves them as they are. Second moments
        are taken in float32 even if the layer computes in half precision.

        Args:
          captured: The layer's inputs and pre-activations.
          gradients: Of one example's log-likelihood each, with respect to the
            pre-activations.
          decay: ρ.
        """
        captured = Captured(*(tf.cast(x, tf.float32) for x in captured))
        batch = self.batch_factors(captured, tf.cast(gradients, tf.float32))
        finite = tf.reduce_all(
            [tf.math.is_finite(tf.reduce_sum(factor)) for factor in batch]
        )
        one = tf.ones_like(self._weight.value)
        for total, new in [
            (self._sum_a, batch.a),
            (self._sum_g, batch.g),
            (self._weight, one),
        ]:
            moved = decay * total.value + (1.0 - decay) * new
            total.assign(tf.where(finite, moved, total.value))

    def update_inverses(self, damping: float) -> tf.Tensor:
        """Inverts the factors with π-factored Tikhonov damping. Equation (9).

            (A + π √λ I)⁻¹,  (G + (√λ / π) I)⁻¹

        An inverse that cannot be had is left as it was.

        Args:
          damping: λ.

        Returns:
          Scalar int32, factorizations that failed.
        """
        factors = self.factors()
        pi = pi_correction(*factors)
        root = tf.sqrt(tf.constant(damping, pi.dtype))
        inverse_a = damped_inverse(factors.a, pi * root)
        inverse_g = damped_inverse(factors.g, root / pi)
        # Both or neither: the damping of one presumes that of the other.
        succeeded = inverse_a.succeeded & inverse_g.succeeded
        for variable, inverse in [
            (self.inverse_a, inverse_a),
            (self.inverse_g, inverse_g),
        ]:
            variable.assign(tf.where(succeeded, inverse.matrix, variable.value))
        return inverse_a.failures + inverse_g.failures

    def to_matrix(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Kernel and bias, or their gradients, as the block's matrix `[n, m]`."""
        return tf.concat(
            [tf.reshape(tensor, [-1, self.num_outputs]) for tensor in tensors], axis=0
        )

    def from_matrix(self, matrix: tf.Tensor) -> list[tf.Tensor]:
        """The reverse of `to_matrix`."""
        parts = tf.split(matrix, self._rows, axis=0)
        return [
            tf.reshape(part, shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def multiply_inverse(self, matrix: tf.Tensor) -> tf.Tensor:
        """The inverse block times `matrix` `[n, m]`: A⁻¹ V G⁻¹. Equation (10)."""
        return self.inverse_a.value @ matrix @ self.inverse_g.value

    def multiply(self, matrix: tf.Tensor) -> tf.Tensor:
        """The block, without damping, times `matrix` `[n, m]`: A V G. Equation (2)."""
        factors = self.factors()
        return factors.a @ matrix @ factors.g

    def to_dense(self) -> tf.Tensor:
        """The block A ⊗ G, without damping, `[n·m, n·m]`, of the flattened matrix."""
        factors = self.factors()
        size = self.num_inputs * self.num_outputs
        return tf.reshape(tf.einsum("ij,kl->ikjl", factors.a, factors.g), [size, size])


class DenseBlock(KroneckerBlock):
    """The block of a `keras.layers.Dense` on inputs `[N, in]`."""

    def batch_factors(self, captured: Captured, gradients: tf.Tensor) -> Factors:
        """See `factors.dense_factors`."""
        if captured.inputs.shape.rank != 2:
            raise ValueError(
                f"Dense layer `{self.layer.name}` must be called on inputs of shape "
                f"[N, in]. Received: shape={captured.inputs.shape}"
            )
        return dense_factors(captured.inputs, gradients, self.layer.use_bias)


class BiasBlock(KroneckerBlock):
    """The block of a `Bias`, which is exact."""

    def batch_factors(self, captured: Captured, gradients: tf.Tensor) -> Factors:
        """See `factors.bias_factors`."""
        return bias_factors(gradients)


class Conv2DBlock(KroneckerBlock):
    """The block of a `keras.layers.Conv2D` on inputs `[N, H, W, C]`.

    Args:
      layer: See `KroneckerBlock`.
      add_variable: See `KroneckerBlock`.
      positions: See `factors.conv2d_factors`.
    """

    def __init__(
        self, layer: keras.layers.Layer, add_variable: AddVariable, positions: str
    ) -> None:
        super().__init__(layer, add_variable)
        self._positions = positions

    def batch_factors(self, captured: Captured, gradients: tf.Tensor) -> Factors:
        """See `factors.conv2d_factors`."""
        return conv2d_factors(captured.inputs, gradients, self.layer, self._positions)


def make_blocks(
    model: keras.layers.Layer, add_variable: AddVariable, conv_positions: str
) -> list[KroneckerBlock]:
    """A block for every layer of `model` that has trainable weights.

    Args:
      model: A built model.
      add_variable: See `KroneckerBlock`.
      conv_positions: See `factors.conv2d_factors`.

    Raises:
      ValueError: The model is not built, or has trainable weights that are not
        supported; the message names them.
    """
    if not model.built:
        raise ValueError(
            f"Model `{model.name}` has no weights yet: build it, or call it on a "
            "batch, before it is attached."
        )
    blocks = [
        _make_block(layer, add_variable, conv_positions)
        for layer in _leaf_layers(model)
        if layer.trainable_variables
    ]
    covered = {id(variable) for block in blocks for variable in block.variables}
    missing = [v.path for v in model.trainable_variables if id(v) not in covered]
    if missing:
        raise ValueError(
            "KFAC supports weights that are the kernel or the bias of a Dense, a "
            f"Conv2D or a Bias layer. Received: {', '.join(missing)}"
        )
    return blocks


def _make_block(
    layer: keras.layers.Layer, add_variable: AddVariable, conv_positions: str
) -> KroneckerBlock:
    if layer.variable_dtype != "float32":
        raise ValueError(
            f"Layer `{layer.name}` must have float32 weights. Received: "
            f"{layer.variable_dtype}"
        )
    # Exactly these types: a subclass may compute something else.
    if type(layer) is keras.layers.Dense:
        return DenseBlock(layer, add_variable)
    if type(layer) is Bias:
        return BiasBlock(layer, add_variable)
    if type(layer) is keras.layers.Conv2D:
        if layer.groups == 1 and layer.data_format == "channels_last":
            return Conv2DBlock(layer, add_variable, conv_positions)
        raise ValueError(
            f"Conv2D layer `{layer.name}` must have groups=1 and "
            "data_format='channels_last'. Received: "
            f"groups={layer.groups}, data_format={layer.data_format!r}"
        )
    raise ValueError(
        f"Layer `{layer.name}` of type {type(layer).__name__} has trainable weights "
        "but is of a kind that KFAC does not support. Supported: Dense, Conv2D, Bias. "
        "Set `trainable = False` on it to train the others."
    )


def _leaf_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    inner = getattr(layer, "layers", None)
    if not inner:
        return [layer]
    leaves: dict[int, Any] = {}
    for child in inner:
        leaves.update({id(leaf): leaf for leaf in _leaf_layers(child)})
    return list(leaves.values())


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
