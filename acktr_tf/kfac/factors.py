"""The two Kronecker factors of a layer, estimated from one batch.

With ā a layer's inputs and a 1 for its bias, and g the gradient of one example's
log-likelihood with respect to the layer's pre-activations, the layer's block of the
Fisher matrix is E[(ā āᵀ) ⊗ (g gᵀ)], approximated by A ⊗ G. Equation numbers are those
of docs/kfac.md.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

CONV_POSITIONS = ("uncorrelated", "correlated")


class Factors(NamedTuple):
    """Second moments over one batch.

    Attributes:
      a: `[n, n]`, of the inputs.
      g: `[m, m]`, of the pre-activations' gradients.
    """

    a: tf.Tensor
    g: tf.Tensor


def dense_factors(inputs: tf.Tensor, gradients: tf.Tensor, use_bias: bool) -> Factors:
    """Factors of a dense layer (Martens & Grosse 2015, section 3). Equations (3), (4).

        A = E[ā āᵀ],  G = E[g gᵀ]

    Args:
      inputs: `[N, in]`.
      gradients: `[N, out]`, one example's log-likelihood each.
      use_bias: Whether the layer has a bias, so that ā ends with a 1.

    Returns:
      A `[in (+ 1), in (+ 1)]` and G `[out, out]`.
    """
    batch = tf.cast(tf.shape(inputs)[0], inputs.dtype)
    return Factors(
        _second_moment(_homogeneous(inputs, use_bias)) / batch,
        _second_moment(gradients) / batch,
    )


def bias_factors(gradients: tf.Tensor) -> Factors:
    """Factors of a layer that has a bias and no inputs.

    A dense layer with ā = 1: A = [1] and G = E[g gᵀ], so that A ⊗ G is the Fisher
    matrix of the bias itself and nothing is approximated but the expectation.

    Args:
      gradients: `[N, out]`, one example's log-likelihood each.

    Returns:
      A `[1, 1]` and G `[out, out]`.
    """
    batch = tf.cast(tf.shape(gradients)[0], gradients.dtype)
    a = tf.ones([1, 1], gradients.dtype)
    return Factors(a, _second_moment(gradients) / batch)


def conv2d_factors(
    inputs: tf.Tensor,
    gradients: tf.Tensor,
    layer: keras.layers.Conv2D,
    positions: str = "uncorrelated",
) -> Factors:
    """Factors of a convolution (KFC, Grosse & Martens 2016, 3.1). Equations (5), (6).

        Ω = E[Σ_t ā_t ā_tᵀ],  Γ = (κ/|T|) E[Σ_t g_t g_tᵀ]

    where t runs over the |T| output positions and ā_t is the patch of the inputs that
    position t sees, with a 1 for the bias. κ is 1 if the positions' gradients are taken
    for uncorrelated, as KFC does, and |T| if they are taken for fully correlated, an
    upper bound.

    Args:
      inputs: `[N, H, W, C]`.
      gradients: `[N, H', W', out]`, one example's log-likelihood each.
      layer: The convolution.
      positions: One of `CONV_POSITIONS`.

    Returns:
      Ω `[kh·kw·C (+ 1), kh·kw·C (+ 1)]`, in the order of the flattened kernel, and Γ
      `[out, out]`.
    """
    batch = tf.cast(tf.shape(inputs)[0], inputs.dtype)
    patches = extract_patches(inputs, layer)
    patches = tf.reshape(patches, [-1, patches.shape[-1]])
    gradients = tf.reshape(gradients, [-1, gradients.shape[-1]])
    batch_positions = tf.cast(tf.shape(gradients)[0], gradients.dtype)
    gamma = _second_moment(gradients) / batch_positions
    if positions == "correlated":
        gamma *= batch_positions / batch
    return Factors(_second_moment(_homogeneous(patches, layer.use_bias)) / batch, gamma)


def extract_patches(inputs: tf.Tensor, layer: keras.layers.Conv2D) -> tf.Tensor:
    """The patch of `inputs` `[N, H, W, C]` that each output position of `layer` sees.

    Returns:
      `[N, H', W', kh·kw·C]`, each patch flattened as the kernel is.
    """
    return tf.image.extract_patches(
        inputs,
        sizes=[1, *layer.kernel_size, 1],
        strides=[1, *layer.strides, 1],
        rates=[1, *layer.dilation_rate, 1],
        padding=layer.padding.upper(),
    )


def _homogeneous(rows: tf.Tensor, use_bias: bool) -> tf.Tensor:
    """`rows` `[R, n]` with a 1 at the end of each if there is a bias."""
    if not use_bias:
        return rows
    return tf.concat([rows, tf.ones_like(rows[:, :1])], axis=1)


def _second_moment(rows: tf.Tensor) -> tf.Tensor:
    """The sum of x xᵀ over the rows x of `[R, n]`."""
    return tf.matmul(rows, rows, transpose_a=True)
