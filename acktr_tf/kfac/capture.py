"""GradientTape that records the inputs and outputs of layers in one forward pass."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
      inputs: Inputs of the layer, `[N, ...]`.
      outputs: Pre-activations, the inputs of its activation function, `[N, ...]`; the
        outputs of a layer that has no activation function.
      training: Whether the layer was called with `training=True`.
      mask: Mask of the inputs, which Keras passes to layers that take one.
    """

    inputs: tf.Tensor
    outputs: tf.Tensor
    training: bool
    mask: tf.Tensor | None = None


class CurvatureTape(tf.GradientTape):
    """GradientTape that records each layer's inputs and pre-activations.

    Inside the `with` block, call the model once and compute a log-likelihood from its
    outputs. `KFAC.update_curvature` then takes the log-likelihood's gradients with
    respect to the pre-activations. A model may call a layer several times. The layers
    are hooked only while the block is open. The gradients of the loss need another
    tape, which may be open at the same time. `KFAC.curvature_tape()` makes a
    `CurvatureTape`:

        with optimizer.curvature_tape() as tape:
            log_likelihood = ...  # [N], of targets sampled from the model
        optimizer.update_curvature(tape, log_likelihood)

    Args:
      layers: Built layers that return one tensor. A layer with an `activation`
        attribute must apply it last, as Dense and Conv2D do.
      variables: Weights whose own gradients are needed.
    """

    def __init__(
        self,
        layers: Sequence[keras.layers.Layer],
        variables: Sequence[keras.Variable] = (),
    ) -> None:
        super().__init__(persistent=False, watch_accessed_variables=False)
        self._layers = list(layers)
        self._variables = list(variables)
        self._calls: dict[int, list[Call]] = {}
        # Inputs of `activation`, by layer, in calls that have not returned yet.
        self._pre_activations: dict[int, tf.Tensor] = {}
        self._unhooked: list[tuple[keras.layers.Layer, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        for variable in self._variables:
            self.watch(variable.value)
        # Written past Keras' attribute tracking: the hook is no part of the layer.
        for layer in self._layers:
            hooks = {"call": self._recording_call(layer, layer.call)}
            if callable(getattr(layer, "activation", None)):
                hooks["activation"] = self._recording_activation(
                    layer, layer.activation
                )
            own = {name: layer.__dict__[name] for name in hooks.keys() & vars(layer)}
            self._unhooked.append((layer, own))
            layer.__dict__.update(hooks)
        return self

    def __exit__(self, *exception: Any) -> None:
        for layer, own in reversed(self._unhooked):
            for name in ("call", "activation"):
                layer.__dict__.pop(name, None)
            layer.__dict__.update(own)
        self._unhooked.clear()
        super().__exit__(*exception)

    def calls(self, layer: keras.layers.Layer) -> list[Call]:
        """Returns the recorded calls of a layer, in order.

        Args:
          layer: One of the tape's layers.

        Raises:
          ValueError: The layer was not called inside the block.
        """
        if id(layer) not in self._calls:
            raise ValueError(
                f"Layer `{layer.name}` was not called inside the CurvatureTape's "
                "block. Call the whole model there."
            )
        return list(self._calls[id(layer)])

    def _recording_call(
        self, layer: keras.layers.Layer, call: Callable[..., Any]
    ) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            outputs = self._pre_activations.pop(id(layer), None)
            if outputs is None:
                outputs = result
                self.watch(outputs)
            self._calls.setdefault(id(layer), []).append(
                Call(
                    [*args, *kwargs.values()][0],
                    outputs,
                    bool(kwargs.get("training")),
                    kwargs.get("mask"),
                )
            )
            return result

        return record

    def _recording_activation(
        self,
        layer: keras.layers.Layer,
        activation: Callable[[tf.Tensor], tf.Tensor],
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        def record(pre_activation: tf.Tensor) -> tf.Tensor:
            self.watch(pre_activation)
            self._pre_activations[id(layer)] = pre_activation
            return activation(pre_activation)

        return record
