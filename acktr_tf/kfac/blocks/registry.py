"""Registry of layer types: which layers have which blocks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from acktr_tf.kfac.blocks.block import AddVariable, Block
from acktr_tf.kfac.blocks.diagonal import DiagonalBlock
from acktr_tf.kfac.blocks.kronecker import KroneckerBlock, LayerRule
from acktr_tf.kfac.layers import FreeParameters
from acktr_tf.kfac.settings import KFACSettings
from acktr_tf.kfac.statistics import signals

_CONVOLUTION = LayerRule(
    signals.conv_signals,
    is_convolution=True,
    required={"groups": 1, "data_format": "channels_last"},
)
_NORMALIZATION = LayerRule(signals.normalization_signals, ("gamma", "beta"), axis=1)
_RULES: dict[type[keras.layers.Layer], LayerRule | type[Block]] = {
    keras.layers.Dense: LayerRule(signals.dense_signals),
    keras.layers.Conv1D: _CONVOLUTION,
    keras.layers.Conv2D: _CONVOLUTION,
    keras.layers.Conv3D: _CONVOLUTION,
    keras.layers.Embedding: LayerRule(
        signals.embedding_signals, ("embeddings",), diagonal_a=True
    ),
    keras.layers.BatchNormalization: replace(
        _NORMALIZATION, required={"synchronized": False, "renorm": False}
    ),
    keras.layers.LayerNormalization: replace(
        _NORMALIZATION, required={"rms_scaling": False}
    ),
    FreeParameters: LayerRule(signals.free_parameter_signals, ("bias",)),
}


def register_layer(
    layer_type: type[keras.layers.Layer],
    rule: LayerRule | type[Block],
    override: bool = False,
) -> None:
    """Registers how the weights of a layer type get a block of the Fisher matrix.

    Layers of exactly this type get the block; subclasses do not, for they may compute
    something else. It holds for optimizers that are attached to a model afterwards.

        kfac.register_layer(MyDense, kfac.LayerRule(my_signals))

    Args:
      layer_type: A subclass of `keras.layers.Layer`.
      rule: A `LayerRule` for a Kronecker-factored block; or a subclass of `Block`
        for a block of another structure, called with the layer, the settings of the
        optimizer and its `add_variable`.
      override: Whether to replace the rule of a type that is registered already.

    Raises:
      ValueError: `layer_type` is no layer type or is registered already, or `rule` is
        neither a rule nor a block type.
    """
    if not _is_subclass(layer_type, keras.layers.Layer):
        raise ValueError(
            "`layer_type` must be a subclass of keras.layers.Layer. "
            f"Received: layer_type={layer_type!r}"
        )
    if not (isinstance(rule, LayerRule) or _is_subclass(rule, Block)):
        raise ValueError(
            "`rule` must be a kfac.LayerRule, or a subclass of Block. "
            f"Received: rule={rule!r}"
        )
    if layer_type in _RULES and not override:
        raise ValueError(
            f"Layer type {layer_type.__name__} is registered already. Set "
            "`override=True` to replace its rule."
        )
    _RULES[layer_type] = rule


def _is_subclass(received: object, base: type) -> bool:
    return isinstance(received, type) and issubclass(received, base)


def make_blocks(
    model: keras.layers.Layer, add_variable: AddVariable, settings: KFACSettings
) -> list[Block]:
    """Makes a block for every layer of `model` that has trainable weights.

    Args:
      model: A built model.
      add_variable: See `Block`.
      settings: Settings of the optimizer.

    Raises:
      ValueError: The model has trainable weights that are not supported; the message
        names them.
    """
    blocks = [
        _make_block(layer, add_variable, settings)
        for layer in _leaf_layers(model)
        if layer.trainable_variables
    ]
    covered = {id(variable) for block in blocks for variable in block.variables}
    missing = [v.path for v in model.trainable_variables if id(v) not in covered]
    if missing:
        raise ValueError(
            "KFAC supports weights that belong to a layer of one of the types "
            f"{_supported_types()}. Received: {', '.join(missing)}"
        )
    return blocks


def _make_block(
    layer: keras.layers.Layer, add_variable: AddVariable, settings: KFACSettings
) -> Block:
    if layer.variable_dtype != "float32":
        raise ValueError(
            f"Layer `{layer.name}` must have float32 weights. Received: "
            f"{layer.variable_dtype}"
        )
    # Exactly the registered types: a subclass may compute something else.
    rule = _RULES.get(type(layer))
    reason = _why_unsupported(layer, rule)
    if isinstance(rule, LayerRule) and not reason:
        return KroneckerBlock(layer, rule, settings, add_variable)
    if rule is not None and not isinstance(rule, LayerRule):
        make: Any = rule
        block: Block = make(layer, settings, add_variable)
        return block
    if settings.fallback is None:
        raise ValueError(
            f'{reason} Set `fallback="diagonal"` on the optimizer for the diagonal of '
            "its Fisher matrix instead, or `trainable = False` on the layer to train "
            "the others; or see `kfac.register_layer`."
        )
    return DiagonalBlock(layer, settings, add_variable)


def _why_unsupported(
    layer: keras.layers.Layer, rule: LayerRule | type[Block] | None
) -> str:
    """Returns why a layer has no Kronecker-factored block; empty if it has."""
    name = f"`{layer.name}` of type {type(layer).__name__}"
    if rule is None:
        return (
            f"Layer {name} has trainable weights but is of a type that KFAC does not "
            f"support. Supported: {_supported_types()}."
        )
    if not isinstance(rule, LayerRule):
        return ""
    for attribute, only in rule.required.items():
        # Not every version of Keras has all attributes.
        value = getattr(layer, attribute, only)
        if value != only:
            return (
                f"Layer {name} must have {attribute}={only!r}. "
                f"Received: {attribute}={value!r}."
            )
    if getattr(layer, "lora_enabled", False):
        return f"Layer {name} has LoRA weights, which KFAC does not support."
    return ""


def _supported_types() -> str:
    return ", ".join(layer_type.__name__ for layer_type in _RULES)


def _leaf_layers(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    inner = getattr(layer, "layers", None)
    # A user's layer may have an attribute of that name that holds anything.
    if type(layer) in _RULES or not inner or not isinstance(inner, list | tuple):
        return [layer]
    if not all(isinstance(child, keras.layers.Layer) for child in inner):
        return [layer]
    leaves: dict[int, Any] = {}
    for child in inner:
        leaves.update({id(leaf): leaf for leaf in _leaf_layers(child)})
    return list(leaves.values())
