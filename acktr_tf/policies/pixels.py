"""Keras layer that converts pictures and grids for a network."""

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
    """Converts arrays to floats, frames and colours together as last axis.

    Convolutions on a CPU take no other order. Where the size of the batch is known
    while tracing, XLA makes one loop of the conversion and gives the same numbers;
    TensorFlow's operations write all the pictures three times. Where the size is not
    known, as in a SavedModel, XLA would compile anew for each size, and is not used.

    Args:
      height_axis: Axis of a picture that its rows lie along, its columns along the
        next one; all other axes are frames and colours.
      scale: Factor of the numbers: by default bytes become floats from 0 to 1.
      **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, height_axis: int, scale: float = SCALE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height_axis = height_axis
        self.scale = scale
        self._compiled = tf.function(
            self._convert, jit_compile=_xla_is_everywhere(), autograph=False
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns pictures `[N, height, width, frames · colours]` float32.

        Args:
          inputs: `[N, ..., height, width, ...]`, frames and colours on either side.
        """
        return (self._compiled if inputs.shape[0] else self._convert)(inputs)

    def _convert(self, inputs: tf.Tensor) -> tf.Tensor:
        axes = [0, *(1 + axis for axis in self._axes(inputs.shape.rank - 1))]
        output_shape = self.compute_output_shape(inputs.shape)
        if axes != sorted(axes):
            inputs = tf.transpose(inputs, axes)
        if inputs.shape.rank != len(output_shape):
            inputs = tf.reshape(inputs, [output_shape[0] or -1, *output_shape[1:]])
        return tf.cast(inputs, tf.float32) * self.scale

    def _axes(self, rank: int) -> list[int]:
        """Returns the axes of a picture, rows and columns first."""
        rows, columns = self.height_axis, self.height_axis + 1
        others = [axis for axis in range(rank) if axis not in (rows, columns)]
        return [rows, columns, *others]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, `(N, height, width, channels)`.

        Args:
          input_shape: Shape of the inputs; N may be None.
        """
        batch, *shape = input_shape
        height, width, *channels = (shape[axis] for axis in self._axes(len(shape)))
        return (batch, height, width, math.prod(channels))

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the shape and type of the outputs."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "height_axis": self.height_axis,
            "scale": self.scale,
        }
