"""The patch of its inputs that each output position of a convolution sees."""

import itertools
from typing import Any

import tensorflow as tf


def extract_patches(
    inputs: tf.Tensor, layer: Any, every: int = 1, offset: tf.Tensor | int = 0
) -> tf.Tensor:
    """The patch of the inputs that each output position of a convolution sees.

    Args:
      inputs: `[N, *space, channels]`.
      layer: A Conv1D, Conv2D or Conv3D.
      every: Only one position in so many along each axis.
      offset: From which one on, a scalar integer whose digits in base `every` are the
        numbers of the first one along each axis; of an axis with fewer positions the
        last. So `every` to the power of the axes in a row are all positions.

    Returns:
      `[N, *positions, kernel size · channels]`, each patch flattened as the kernel is.
    """
    if every == 1 and len(layer.kernel_size) == 2:
        return tf.image.extract_patches(
            inputs,
            sizes=[1, *layer.kernel_size, 1],
            strides=[1, *layer.strides, 1],
            rates=[1, *layer.dilation_rate, 1],
            padding=layer.padding.upper(),
        )
    return _sliced_patches(inputs, layer, every, offset)


def positions(length: Any, layer: Any, axis: int) -> Any:
    """How many output positions an axis of the inputs has.

    Args:
      length: Of that axis, an int or a scalar tensor.
      layer: A convolution.
      axis: The spatial axis, from 0.
    """
    stride = layer.strides[axis]
    if layer.padding in ("same", "causal"):
        return -(-length // stride)
    return (length - _extent(layer, axis) - 1) // stride + 1


def _extent(layer: Any, axis: int) -> int:
    """From the first element of a kernel to its last."""
    return int((layer.kernel_size[axis] - 1) * layer.dilation_rate[axis])


def pad(inputs: tf.Tensor, layer: Any) -> tf.Tensor:
    """Inputs with the zeros around them that the layer's padding stands for."""
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
    inputs: tf.Tensor, layer: Any, every: int, offset: tf.Tensor | int
) -> tf.Tensor:
    """As `extract_patches`, for any number of axes: a slice for each kernel element."""
    shape = tf.shape(inputs)
    axes = range(len(layer.kernel_size))
    starts, counts = [], []
    for axis in axes:
        count = positions(shape[axis + 1], layer, axis)
        first = tf.minimum(offset // every**axis % every, count - 1)
        starts.append(first * layer.strides[axis])
        counts.append((count - 1 - first) // every + 1)
    padded = pad(inputs, layer)
    slices = []
    for element in itertools.product(*map(range, layer.kernel_size)):
        window: list[slice] = [slice(None)]
        for axis in axes:
            step = layer.strides[axis] * every
            first = starts[axis] + element[axis] * layer.dilation_rate[axis]
            window.append(slice(first, first + (counts[axis] - 1) * step + 1, step))
        slices.append(padded[tuple(window)])
    return tf.concat(slices, axis=-1)


def patch_bytes(inputs: tf.Tensor, layer: Any) -> int | tf.Tensor:
    """Bytes of one example's patches in float32.

    Args:
      inputs: `[N, *space, channels]`.
      layer: A convolution.

    Returns:
      An int, or a scalar float32 tensor where the size of the inputs is not known.
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
