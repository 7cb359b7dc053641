"""The patch of the inputs behind each output position of a convolution."""

import itertools
from typing import Any

import tensorflow as tf


def extract_patches(
    inputs: tf.Tensor, layer: Any, stride: int = 1, offset: tf.Tensor | int = 0
) -> tf.Tensor:
    """Returns the patch of the inputs behind each output position of a convolution.

    Args:
      inputs: `[N, *space, channels]`.
      layer: A Conv1D, Conv2D or Conv3D.
      stride: Distance along each axis of the positions whose patches are taken.
      offset: First of these positions, a scalar integer whose digits in base `stride`
        are its indices along the axes; along an axis with fewer positions, the last
        one. So as many offsets in a row as `stride` to the power of the number of axes
        cover all positions.

    Returns:
      `[N, *positions, kernel size · channels]`, each patch flattened as the kernel is.
    """
    if stride == 1 and len(layer.kernel_size) == 2:
        return tf.image.extract_patches(
            inputs,
            sizes=[1, *layer.kernel_size, 1],
            strides=[1, *layer.strides, 1],
            rates=[1, *layer.dilation_rate, 1],
            padding=layer.padding.upper(),
        )
    return _sliced_patches(inputs, layer, stride, offset)


def positions(length: Any, layer: Any, axis: int) -> Any:
    """Returns the number of output positions along an axis of the inputs.

    Args:
      length: Length of that axis, an int or a scalar tensor.
      layer: A convolution.
      axis: The spatial axis, from 0.
    """
    step = layer.strides[axis]
    if layer.padding in ("same", "causal"):
        return -(-length // step)
    return (length - _extent(layer, axis) - 1) // step + 1


def _extent(layer: Any, axis: int) -> int:
    """Returns the distance from the first element of a kernel to its last."""
    return int((layer.kernel_size[axis] - 1) * layer.dilation_rate[axis])


def pad(inputs: tf.Tensor, layer: Any) -> tf.Tensor:
    """Returns the inputs with the zeros around them that the layer's padding adds.

    Args:
      inputs: `[N, *space, channels]`.
      layer: A convolution.
    """
    shape = tf.shape(inputs)
    paddings = []
    for axis in range(len(layer.kernel_size)):
        length, extent = inputs.shape[axis + 1], _extent(layer, axis)
        before, after = 0, 0
        if layer.padding == "same":
            known = shape[axis + 1] if length is None else length
            steps = (positions(known, layer, axis) - 1) * layer.strides[axis]
            missing = steps + extent + 1 - known
            total = tf.maximum(missing, 0) if length is None else max(missing, 0)
            before, after = total // 2, total - total // 2
        elif layer.padding == "causal":
            before = extent
        paddings.append([before, after])
    return tf.pad(inputs, [[0, 0], *paddings, [0, 0]])


def _sliced_patches(
    inputs: tf.Tensor, layer: Any, stride: int, offset: tf.Tensor | int
) -> tf.Tensor:
    """As `extract_patches`, for any number of axes: one slice per kernel element."""
    shape = tf.shape(inputs)
    axes = range(len(layer.kernel_size))
    starts, counts = [], []
    for axis in axes:
        count = positions(shape[axis + 1], layer, axis)
        first = tf.minimum(offset // stride**axis % stride, count - 1)
        starts.append(first * layer.strides[axis])
        counts.append((count - 1 - first) // stride + 1)
    padded = pad(inputs, layer)
    slices = []
    for element in itertools.product(*map(range, layer.kernel_size)):
        window: list[slice] = [slice(None)]
        for axis in axes:
            step = layer.strides[axis] * stride
            first = starts[axis] + element[axis] * layer.dilation_rate[axis]
            window.append(slice(first, first + (counts[axis] - 1) * step + 1, step))
        slices.append(padded[tuple(window)])
    return tf.concat(slices, axis=-1)


def patch_bytes(inputs: tf.Tensor, layer: Any) -> int | tf.Tensor:
    """Returns the bytes of one example's patches in float32.

    Args:
      inputs: `[N, *space, channels]`.
      layer: A convolution.

    Returns:
      An int, or a scalar float32 tensor if the size of the inputs is not static.
    """
    size: Any = 4 * inputs.shape[-1]
    for axis, length in enumerate(inputs.shape[1:-1]):
        known = tf.shape(inputs)[axis + 1] if length is None else length
        count = positions(known, layer, axis)
        if length is None:
            size, count = tf.cast(size, tf.float32), tf.cast(count, tf.float32)
        elif isinstance(size, tf.Tensor):
            count = float(count)
        size *= layer.kernel_size[axis] * count
    return size
