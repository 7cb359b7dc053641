"""A layer of free parameters, for which Keras has none."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="acktr_tf")
class FreeParameters(keras.layers.Layer):
    """Free parameters as a layer: its outputs do not depend on its inputs.

    It is a dense layer with a bias and no inputs, so that its block of the Fisher
    matrix is exact. One use is a Gaussian's log standard deviation that ignores the
    state.

    Args:
      units: Number of outputs.
      bias_initializer: Initializer of the outputs.
      **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self, units: int, bias_initializer: Any = "zeros", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.bias_initializer = keras.initializers.get(bias_initializer)
        # Applied last, where a `CurvatureTape` looks for the pre-activations.
        self.activation = keras.activations.linear

    def build(self, input_shape: Any) -> None:
        """Makes the parameters `[units]`.

        Args:
          input_shape: Any shape, since the parameters do not depend on it.
        """
        self.bias = self.add_weight(
            shape=(self.units,), initializer=self.bias_initializer, name="bias"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the parameters `[N, units]`, once per row of the inputs.

        Args:
          inputs: `[N, ...]`; only N matters.
        """
        rows = tf.shape(inputs)[0]
        value = tf.convert_to_tensor(self.bias)
        return self.activation(tf.broadcast_to(value, [rows, self.units]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns `(N, units)`.

        Args:
          input_shape: `(N, ...)`; N may be None.
        """
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }
