"""Keras layer that converts the bytes of pictures for a network."""

import math
from typing import Any

import keras
import tensorflow as tf

SCALE = 1.0 / 255.0


def _xla_is_everywhere() -> bool:
    """Returns whether XLA compiles for all devices: some GPU builds have no XLA."""
    return tf.test.is_built_with_cuda() or not tf.config.list_physical_devices("GPU")


@keras.saving.register_keras_serializable(package="acktr_tf")
class Pixels(keras.layers.Layer):
    """Converts bytes to floats from 0 to 1, frames and colours together as last axis.

    Convolutions on a CPU take no other order. Where the size of the batch is known
    while tracing, XLA makes one loop of the conversion and gives the same numbers;
    TensorFlow's operations write all the pictures three times. Where the size is not
    known, as in a SavedModel, XLA would compile anew for each size, and is not used.

    Args:
      frames_first: Whether the first axis of a picture counts frames.
      **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, frames_first: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frames_first = frames_first
        self._compiled = tf.function(
            self._convert, jit_compile=_xla_is_everywhere(), autograph=False
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns pictures `[N, height, width, frames · colours]` float32.

        Args:
          inputs: `[N, frames, height, width]` or `[N, frames, height, width, colours]`
            uint8; without frames `[N, height, width, colours]`.
        """
        return (self._compiled if inputs.shape[0] else self._convert)(inputs)

    def _convert(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.frames_first:
            rank = inputs.shape.rank
            inputs = tf.transpose(inputs, [0, 2, 3, 1, *range(4, rank)])
            batch = inputs.shape[0] or -1
            height, width, *channels = inputs.shape[1:]
            inputs = tf.reshape(inputs, [batch, height, width, math.prod(channels)])
        return tf.cast(inputs, tf.float32) * SCALE

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, `(N, height, width, channels)`.

        Args:
          input_shape: Shape of the inputs; N may be None.
        """
        batch, *shape = input_shape
        if self.frames_first:
            frames, height, width, *colours = shape
            shape = [height, width, math.prod([frames, *colours])]
        return (batch, *shape)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the shape and type of the outputs."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "frames_first": self.frames_first}
