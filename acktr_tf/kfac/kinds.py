"""Which layers have which blocks."""

from collections.abc import Sequence
from typing import Any

import keras

from acktr_tf.kfac import factors
from acktr_tf.kfac.blocks import (
    AddVariable,
    Block,
    DiagonalBlock,
    Kind,
    KroneckerBlock,
    Options,
)
from acktr_tf.kfac.layers import Bias

_CONV = Kind(
    factors.conv_rows,
    has_patches=True,
    required={"groups": 1, "data_format": "channels_last"},
)
_NORMALIZATION = Kind(factors.normalization_rows, ("gamma", "beta"), axis=1)
KINDS: dict[type[keras.layers.Layer], Kind] = {
    keras.layers.Dense: Kind(factors.dense_rows),
    keras.layers.Conv1D: _CONV,
    keras.layers.Conv2D: _CONV,
    keras.layers.Conv3D: _CONV,
    keras.layers.Embedding: Kind(
        factors.embedding_rows, ("embeddings",), diagonal_a=True
    ),
    keras.layers.BatchNormalization: _NORMALIZATION._replace(
        required={"synchronized": False, "renorm": False}
    ),
    keras.layers.LayerNormalization: _NORMALIZATION._replace(
        required={"rms_scaling": False}
    ),
    Bias: Kind(factors.bias_rows, ("bias",)),
}


def make_blocks(
    model: keras.layers.Layer, add_variable: AddVariable, options: Options
) -> list[Block]:
    """A block for every layer of `model` that has trainable weights.

    Args:
      model: A built model.
      add_variable: See `Block`.
      options: See `Options`.

    Raises:
      ValueError: The model has trainable weights that are not supported; the message
        names them.
    """
    blocks = [
        _make_block(layer, add_variable, options)
        for layer in _leaf_layers(model)
        if layer.trainable_variables
    ]
    covered = {id(variable) for block in blocks for variable in block.variables}
    missing = [v.path for v in model.trainable_variables if id(v) not in covered]
    if missing:
        raise ValueError(
            "KFAC supports weights that belong to a layer of one of the kinds "
            f"{_kinds()}. Received: {', '.join(missing)}"
        )
    return blocks


def _make_block(
    layer: keras.layers.Layer, add_variable: AddVariable, options: Options
) -> Block:
    if layer.variable_dtype != "float32":
        raise ValueError(
            f"Layer `{layer.name}` must have float32 weights. Received: "
            f"{layer.variable_dtype}"
        )
    reason = _why_not(layer)
    if not reason:
        # Exactly these types: a subclass may compute something else.
        return KroneckerBlock(layer, KINDS[type(layer)], options, add_variable)
    if options.fallback is None:
        raise ValueError(
            f'{reason} Set `fallback="diagonal"` on the optimizer for the diagonal of '
            "its Fisher matrix instead, or `trainable = False` on the layer to train "
            "the others."
        )
    return DiagonalBlock(layer, add_variable)


def _why_not(layer: keras.layers.Layer) -> str:
    """Why a layer has no Kronecker-factored block; empty if it has."""
    name = f"`{layer.name}` of type {type(layer).__name__}"
    kind = KINDS.get(type(layer))
    if kind is None:
        return (
            f"Layer {name} has trainable weights but is of a kind that KFAC does not "
            f"support. Supported: {_kinds()}."
        )
    for attribute, only in kind.required.items():
        # Not every version of Keras has them all.
        value = getattr(layer, attribute, only)
        if value != only:
            return (
                f"Layer {name} must have {attribute}={only!r}. "
                f"Received: {attribute}={value!r}."
            )
    if getattr(layer, "lora_enabled", False):
        return f"Layer {name} has LoRA weights, which KFAC does not support."
    return ""


def _kinds() -> str:
    return ", ".join(kind.__name__ for kind in KINDS)


def _leaf_layers(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    inner = getattr(layer, "layers", None)
    # A layer of one's own may call anything so.
    if not inner or not isinstance(inner, list | tuple):
        return [layer]
    if not all(isinstance(child, keras.layers.Layer) for child in inner):
        return [layer]
    leaves: dict[int, Any] = {}
    for child in inner:
        leaves.update({id(leaf): leaf for leaf in _leaf_layers(child)})
    return list(leaves.values())
