"""The GradientTape hook: a layer's inputs and pre-activations in one forward pass."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf


class Captured(NamedTuple):
    """What one call of a layer computed from.

    Attributes:
      inputs: What the layer was given, `[N, ...]`.
      pre_activation: What it computed before its activation function, `[N, ...]`.
    """

    inputs: tf.Tensor
    pre_activation: tf.Tensor


class CurvatureTape(tf.GradientTape):
    """A GradientTape that remembers each layer's inputs and pre-activations.

    Inside the `with` block, call the model once and compute a log-likelihood from its
    outputs; then `KFAC.update_curvature` takes gradients of that with respect to the
    pre-activations. The hook sits on the layers only while the block is open. Weights
    are not watched: the gradients of the loss want a tape of their own.

        with CurvatureTape(optimizer.layers) as tape:
            log_likelihood = ...  # [N], of targets sampled from the model
        optimizer.update_curvature(tape, log_likelihood)

    Args:
      layers: Layers with an `activation` attribute that they apply last, such as
        Dense and Conv2D.
    """

    def __init__(self, layers: Sequence[keras.layers.Layer]) -> None:
        super().__init__(persistent=False, watch_accessed_variables=False)
        self._layers = list(layers)
        self._inputs: dict[int, tf.Tensor] = {}
        self._pre_activations: dict[int, tf.Tensor] = {}
        self._unhooked: list[tuple[keras.layers.Layer, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        # Written past Keras' attribute tracking: the hook is no part of the layer.
        for layer in self._layers:
            hooks = {
                "activation": self._recording_activation(layer, layer.activation),
                "call": self._recording_call(layer, layer.call),
            }
            own = {name: layer.__dict__[name] for name in hooks.keys() & vars(layer)}
            self._unhooked.append((layer, own))
            layer.__dict__.update(hooks)
        return self

    def __exit__(self, *exception: Any) -> None:
        for layer, own in reversed(self._unhooked):
            del layer.__dict__["activation"], layer.__dict__["call"]
            layer.__dict__.update(own)
        self._unhooked.clear()
        super().__exit__(*exception)

    def captured(self, layer: keras.layers.Layer) -> Captured:
        """What was recorded of `layer`.

        Raises:
          ValueError: The layer was not called inside the block.
        """
        if id(layer) not in self._pre_activations:
            raise ValueError(
                f"Layer `{layer.name}` was not called inside the CurvatureTape's "
                "block. Call the whole model there."
            )
        return Captured(self._inputs[id(layer)], self._pre_activations[id(layer)])

    def _recording_call(
        self, layer: keras.layers.Layer, call: Callable[..., Any]
    ) -> Callable[..., Any]:
        def record(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
            if id(layer) in self._inputs:
                raise ValueError(
                    f"Layer `{layer.name}` is called more than once inside the "
                    "CurvatureTape's block. Accepted: one call of a model that calls "
                    "each of its layers once."
                )
            self._inputs[id(layer)] = inputs
            return call(inputs, *args, **kwargs)

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
