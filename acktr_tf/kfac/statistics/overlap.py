"""Second moment of a convolution's patches that overlap with the patches below them.

Equation numbers are those of docs/kfac.md.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from acktr_tf.kfac.statistics.patches import pad, positions

MAX_STRIDES_PER_KERNEL = 8
"""Strides per kernel height; the number of operations in the graph grows cubically."""


class _Grid(NamedTuple):
    """A convolution along rows and columns; one along a single axis has one column.

    Attributes:
      strides: Rows and columns of a cell.
      cells: Rows and columns of cells in a patch.
      outputs: Rows and columns of output positions.
    """

    strides: list[int]
    cells: list[int]
    outputs: list[int]


def patches_overlap(inputs: tf.Tensor, layer: Any) -> bool:
    """Returns whether `second_moment` supports a convolution, and saves anything.

    The convolution must have one or two axes of static size and no dilation. Its kernel
    must be a whole number of strides high and wide, and from two to
    `MAX_STRIDES_PER_KERNEL` strides high. There must be at least as many rows of output
    positions as the kernel is strides high.

    Args:
      inputs: `[N, *space, channels]`.
      layer: A Conv1D, Conv2D or Conv3D.
    """
    axes = len(layer.kernel_size)
    pairs = list(zip(layer.kernel_size, layer.strides, strict=True))
    if axes > 2 or max(layer.dilation_rate) > 1 or None in inputs.shape[1:]:
        return False
    if any(size % stride for size, stride in pairs) or pairs[0][0] == pairs[0][1]:
        return False
    grid = _grid(inputs, layer)
    return grid.cells[0] <= min(MAX_STRIDES_PER_KERNEL, grid.outputs[0])


def second_moment(inputs: tf.Tensor, layer: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of p pᵀ and of p over all patches p of the examples.

    A patch is made of strips, each one stride high and as wide as the patch. Strip i of
    the patch at row t is strip 0 of the patch at row t + i. Blocks (i, i + d) with the
    same d therefore sum the same products of strips, except at the first and the last
    rows. The common part is computed once. Equation (21).

    Args:
      inputs: `[N, *space, channels]`, for which `patches_overlap` is true.
      layer: A Conv1D or Conv2D.

    Returns:
      `[n, n]` and `[n]`, n the kernel size times channels, in the kernel's order.
    """
    grid = _grid(inputs, layer)
    strips = _strips(pad(inputs, layer), grid)
    cells, outputs = grid.cells[0], grid.outputs[0]
    blocks: dict[tuple[int, int], tf.Tensor] = {}
    for distance in range(cells):
        # Strip i of a patch is in rows i to i + outputs - 1. All have the middle.
        last = cells - 1 - distance
        middle = _product(
            strips[last:outputs], strips[last + distance : outputs + distance]
        )
        ends = {
            row: _product(strips[row], strips[row + distance])
            for row in (*range(last), *range(outputs, outputs + last))
        }
        for i in range(last + 1):
            rows = (*range(i, last), *range(outputs, outputs + i))
            block = tf.add_n([middle, *(ends[row] for row in rows)])
            blocks[i + distance, i] = tf.transpose(block)
            blocks[i, i + distance] = block
    moment = tf.stack(
        [tf.stack([blocks[i, j] for j in range(cells)]) for i in range(cells)]
    )
    sums = _sums(strips)
    total = tf.stack(
        [tf.reduce_sum(sums[i : i + outputs], axis=0) for i in range(cells)]
    )
    return _in_kernel_order(moment, total, grid)


def _grid(inputs: tf.Tensor, layer: Any) -> _Grid:
    strides, cells, outputs = [1, 1], [1, 1], [1, 1]
    for axis, (size, stride) in enumerate(
        zip(layer.kernel_size, layer.strides, strict=True)
    ):
        strides[axis], cells[axis] = stride, size // stride
        outputs[axis] = positions(inputs.shape[axis + 1], layer, axis)
    return _Grid(strides, cells, outputs)


def _strips(padded: tf.Tensor, grid: _Grid) -> tf.Tensor:
    """Returns the strips at all rows, `[rows, N, columns, w]`.

    Rows come first, so that a slice of them need not be copied. Elements are in the
    order of the cell, then of the row, column and channel in it.
    """
    (high, wide), channels = grid.strides, padded.shape[-1]
    rows, columns = (
        count + cells - 1 for count, cells in zip(grid.outputs, grid.cells, strict=True)
    )
    if padded.shape.rank == 3:
        padded = padded[:, :, tf.newaxis]
    seen = padded[:, : rows * high, : columns * wide]
    cells = tf.reshape(
        tf.transpose(
            tf.reshape(seen, [-1, rows, high, columns, wide * channels]),
            [1, 0, 3, 2, 4],
        ),
        [rows, -1, columns, high * wide * channels],
    )
    shifted = [cells[:, :, j : j + grid.outputs[1]] for j in range(grid.cells[1])]
    return tf.concat(shifted, axis=-1)


def _product(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns the sum of x yᵀ over pairs of strips x and y."""
    width = left.shape[-1]
    return tf.matmul(
        tf.reshape(left, [-1, width]), tf.reshape(right, [-1, width]), transpose_a=True
    )


def _sums(strips: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the strips of each row, `[rows, w]`."""
    rows, width = strips.shape[0], strips.shape[-1]
    flat = tf.reshape(strips, [rows, -1, width])
    # As a product, which is faster than TensorFlow's sum over rows.
    return tf.matmul(tf.ones_like(flat[:, tf.newaxis, :, 0]), flat)[:, 0]


def _in_kernel_order(
    moment: tf.Tensor, total: tf.Tensor, grid: _Grid
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reorders blocks `[i, i', w, w']` and sums `[i, w]` of a patch's strips i."""
    (down, across), high = grid.cells, grid.strides[0]
    inner = moment.shape[-1] // (across * high)
    size = down * high * across * inner
    blocks = tf.reshape(moment, [down, down, across, high, inner, across, high, inner])
    ordered = tf.transpose(blocks, [0, 3, 2, 4, 1, 6, 5, 7])
    sums = tf.reshape(total, [down, across, high, inner])
    return (
        tf.reshape(ordered, [size, size]),
        tf.reshape(tf.transpose(sums, [0, 2, 1, 3]), [size]),
    )
