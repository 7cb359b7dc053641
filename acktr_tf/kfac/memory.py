"""How much memory K-FAC takes for a model, before it takes it."""

import math
from typing import Any, NamedTuple

import keras

from acktr_tf.kfac.blocks import Options, paths
from acktr_tf.kfac.kinds import make_blocks

FLOAT32 = 4
"""Bytes of a number."""


class _Promise(NamedTuple):
    """Of a variable nothing but the shape."""

    shape: tuple[int, ...]


def memory(model: keras.layers.Layer, options: Options) -> dict[str, int]:
    """Bytes of the optimizer's state for a model; see `KFAC.memory`.

    Args:
      model: A built model.
      options: Those of the optimizer.
    """

    def promise(shape: tuple[int, ...], **_: Any) -> Any:
        return _Promise(tuple(shape))

    blocks = make_blocks(model, promise, options)
    found = {}
    for path, block in zip(paths(blocks), blocks, strict=True):
        shapes = [tuple(array.shape) for array in block.state]
        if options.thread:
            shapes += block.factor_shapes
        found[path] = _bytes(shapes)
    weights = [tuple(v.shape) for block in blocks for v in block.variables]
    found["velocity"] = _bytes(weights)
    found["total"] = sum(found.values())
    return found


def _bytes(shapes: list[tuple[int, ...]]) -> int:
    return FLOAT32 * sum(math.prod(shape) for shape in shapes)
