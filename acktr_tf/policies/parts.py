"""Keras layer that cuts one part out of encoded observations."""

import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="acktr_tf")
class ObservationPart(keras.layers.Layer):
    """Cuts one array out of vectors in which the parts of observations lie end to end.

    Args:
      start: Index of its first number in the vector.
      shape: Shape of the array in one observation.
      **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, start: int, shape: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start
        self.shape = tuple(shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the arrays `[N, *shape]` of vectors `[N, size]`."""
        numbers = inputs[:, self.start : self.start + math.prod(self.shape)]
        return tf.reshape(numbers, [inputs.shape[0] or -1, *self.shape])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, `(N, *shape)`."""
        return (input_shape[0], *self.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "start": self.start, "shape": self.shape}
