"""Memory that K-FAC's state takes for a model, estimated before it is allocated."""

import math
from typing import Any, NamedTuple

import keras

from acktr_tf.kfac.blocks.block import block_names
from acktr_tf.kfac.blocks.registry import make_blocks
from acktr_tf.kfac.settings import KFACSettings

FLOAT32_BYTES = 4


class _ShapeOnly(NamedTuple):
    """Stands in for a variable; has only a shape."""

    shape: tuple[int, ...]


def memory(model: keras.layers.Layer, settings: KFACSettings) -> dict[str, int]:
    """Returns the bytes of the optimizer's state for a model; see `KFAC.memory`.

    Args:
      model: A built model.
      settings: Settings of the optimizer.
    """

    def shape_only(shape: tuple[int, ...], **_: Any) -> Any:
        return _ShapeOnly(tuple(shape))

    blocks = make_blocks(model, shape_only, settings)
    found = {}
    for name, block in zip(block_names(blocks), blocks, strict=True):
        shapes = [tuple(array.shape) for array in block.state]
        if settings.inverse_thread:
            shapes += block.factor_shapes
        found[name] = _bytes(shapes)
    weights = [tuple(v.shape) for block in blocks for v in block.variables]
    found["velocity"] = _bytes(weights)
    found["total"] = sum(found.values())
    return found


def _bytes(shapes: list[tuple[int, ...]]) -> int:
    return FLOAT32_BYTES * sum(math.prod(shape) for shape in shapes)
