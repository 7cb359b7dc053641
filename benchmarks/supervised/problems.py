"""The problems: data, network, loss, and how long to train."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from acktr_tf import kfac
from supervised.data import Data

OUTPUTS = "outputs"  # Name of the last layer, which Muon has to leave to AdamW.


class Examples(NamedTuple):
    """What a network is given and what it should say.

    Attributes:
      inputs: `[N, ...]`, float32 in [0, 1].
      targets: `[N, ...]`: the inputs themselves, or classes.
    """

    inputs: np.ndarray
    targets: np.ndarray


class Problem(NamedTuple):
    """A problem.

    Attributes:
      what: In a few words.
      data: Name of its data.
      network: Makes the layers from an input to the outputs, which are logits.
      reconstructs: Whether targets are the inputs; else they are classes.
      batch: Examples an update.
      updates: Of a run; of K-FAC's a part.
      xla: Whether XLA compiles the update of the other optimizers: whichever is faster
        (K-FAC inverts outside of it).
      updates_bar: Of Adam's updates, the part that K-FAC may need to reach its loss.
      seconds_bar: Of Adam's time, likewise; None for no bar.
    """

    what: str
    data: str
    network: Callable[[keras.KerasTensor], keras.KerasTensor]
    reconstructs: bool
    batch: int
    updates: int
    xla: bool
    updates_bar: float
    seconds_bar: float | None = None

    @property
    def loss(self) -> keras.losses.Loss:
        """Mean over the batch, and over pixels, as Keras takes it."""
        if self.reconstructs:
            return keras.losses.BinaryCrossentropy(from_logits=True)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def examples(self, data: Data) -> tuple[Examples, Examples]:
        """Those to train with, and those held out."""
        pairs = [
            (data.pictures, data.labels),
            (data.held_out_pictures, data.held_out_labels),
        ]
        return tuple(self._examples(*pair) for pair in pairs)  # type: ignore[return-value]

    def _examples(self, pictures: np.ndarray, labels: np.ndarray) -> Examples:
        inputs = pictures.astype(np.float32) / 255.0
        if self.reconstructs:
            inputs = inputs.reshape(len(inputs), -1)
            return Examples(inputs, inputs)
        return Examples(inputs[..., None], labels)

    def model(self, examples: Examples) -> keras.Model:
        """A new model, with weights of Keras' global seed."""
        inputs = keras.Input(examples.inputs.shape[1:])
        return kfac.Model(inputs, self.network(inputs))

    def least_loss(self, examples: Examples) -> float:
        """What the loss cannot go below: the entropy of the targets, in nats."""
        if not self.reconstructs:
            return 0.0
        p = examples.targets.astype(np.float64)
        q = 1.0 - p
        entropy = np.where((p > 0.0) & (q > 0.0), -p * np.log(p + (p == 0.0)), 0.0)
        entropy += np.where((p > 0.0) & (q > 0.0), -q * np.log(q + (q == 0.0)), 0.0)
        return float(entropy.mean())


# Networks ---------------------------------------------------------------------------
def autoencoder(
    *sizes: int, pixels: int = 784
) -> Callable[[keras.KerasTensor], keras.KerasTensor]:
    """Encoder with layers of these sizes, of which the last is the code, and back.

    Units are tanh as in Martens & Grosse (2015), where Hinton & Salakhutdinov (2006)
    have logistic ones; the code is linear as in both. Weights begin as Keras' default
    has them, Glorot's uniform.
    """
    *encoder, code = sizes

    def network(x: keras.KerasTensor) -> keras.KerasTensor:
        for size in encoder:
            x = keras.layers.Dense(size, activation="tanh")(x)
        x = keras.layers.Dense(code)(x)
        for size in reversed(encoder):
            x = keras.layers.Dense(size, activation="tanh")(x)
        return keras.layers.Dense(pixels, name=OUTPUTS)(x)

    return network


def convolutions(
    strides: Sequence[int], hidden: int, classes: int
) -> Callable[[keras.KerasTensor], keras.KerasTensor]:
    """Three 3x3 convolutions (16, 32, 32 channels), a dense layer, and the classes."""

    def network(x: keras.KerasTensor) -> keras.KerasTensor:
        for channels, stride in zip((16, 32, 32), strides, strict=True):
            x = keras.layers.Conv2D(
                channels, 3, stride, padding="same", activation="relu"
            )(x)
        x = keras.layers.Flatten()(x)
        x = keras.layers.Dense(hidden, activation="relu")(x)
        return keras.layers.Dense(classes, name=OUTPUTS)(x)

    return network


def residual(classes: int) -> Callable[[keras.KerasTensor], keras.KerasTensor]:
    """A small ResNet (He et al. 2016): stages of 16, 24 and 32 channels.

    Each stage is a block of two 3x3 convolutions with BatchNormalization; the second
    and the third halve the picture, and have a 1x1 convolution beside their block.
    BatchNormalization's running mean has a momentum of 0.9, not Keras' 0.99: it is
    evaluated from the first update on, and runs are short.
    """

    def normal(x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.BatchNormalization(momentum=0.9)(x)

    def convolution(
        x: keras.KerasTensor, channels: int, size: int, stride: int
    ) -> keras.KerasTensor:
        # The offset of the normalization that follows is its bias.
        layer = keras.layers.Conv2D(
            channels, size, stride, padding="same", use_bias=False
        )
        return normal(layer(x))

    def network(x: keras.KerasTensor) -> keras.KerasTensor:
        x = keras.layers.ReLU()(convolution(x, 16, 3, 1))
        for channels, stride in ((16, 1), (24, 2), (32, 2)):
            short = x if stride == 1 else convolution(x, channels, 1, stride)
            x = keras.layers.ReLU()(convolution(x, channels, 3, stride))
            x = keras.layers.Add()([convolution(x, channels, 3, 1), short])
            x = keras.layers.ReLU()(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.layers.Dense(classes, name=OUTPUTS)(x)

    return network


# Table ------------------------------------------------------------------------------
PROBLEMS = {
    "curves": Problem(
        what="deep autoencoder of random curves, 784-400-200-100-50-25-6 and back",
        data="curves",
        network=autoencoder(400, 200, 100, 50, 25, 6),
        reconstructs=True,
        batch=500,
        updates=6_000,
        xla=True,
        updates_bar=0.2,
        seconds_bar=0.5,
    ),
    "frames": Problem(
        what="deep autoencoder of frames of eight Atari games, 784-500-250-100-30 "
        "and back",
        data="frames",
        network=autoencoder(500, 250, 100, 30),
        reconstructs=True,
        batch=500,
        updates=5_000,
        xla=True,
        updates_bar=0.2,
        seconds_bar=0.5,
    ),
    "games": Problem(
        what="which of eight Atari games a piece of a frame is of, three convolutions",
        data="patches",
        network=convolutions((1, 2, 1), 64, 8),
        reconstructs=False,
        batch=256,
        updates=1_500,
        xla=False,
        updates_bar=0.5,
    ),
    "resnet": Problem(
        what="the games' problem, residual network with BatchNormalization",
        data="patches",
        network=residual(8),
        reconstructs=False,
        batch=128,
        updates=1_500,
        xla=True,
        updates_bar=0.5,
    ),
    "digits": Problem(
        what="handwritten digits, three convolutions",
        data="digits",
        network=convolutions((1, 2, 1), 64, 10),
        reconstructs=False,
        batch=128,
        updates=1_000,
        xla=False,
        updates_bar=0.5,
    ),
}
