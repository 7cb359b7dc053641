"""K-FAC for Keras models: a natural-gradient optimizer that needs nothing else here."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "acktr_tf.kfac needs Keras on the tensorflow backend. Received: "
        f"{keras.config.backend()}. Set KERAS_BACKEND=tensorflow before Python starts."
    )

from acktr_tf.kfac import control
from acktr_tf.kfac.blocks.block import Block
from acktr_tf.kfac.blocks.kronecker import LayerRule
from acktr_tf.kfac.blocks.registry import register_layer
from acktr_tf.kfac.capture import Call, CurvatureTape
from acktr_tf.kfac.fit import FitWithKFAC, Model, Sequential
from acktr_tf.kfac.layers import FreeParameters
from acktr_tf.kfac.likelihoods import (
    Likelihoods,
    NegativeLogLikelihood,
    likelihood_of,
)
from acktr_tf.kfac.lookahead import Lookahead
from acktr_tf.kfac.optimizer import KFAC
from acktr_tf.kfac.sampling import sample_rows
from acktr_tf.kfac.statistics.signals import Signals

__all__ = [
    "KFAC",
    "Block",
    "Call",
    "CurvatureTape",
    "FitWithKFAC",
    "FreeParameters",
    "LayerRule",
    "Likelihoods",
    "Lookahead",
    "Model",
    "NegativeLogLikelihood",
    "Sequential",
    "Signals",
    "control",
    "likelihood_of",
    "register_layer",
    "sample_rows",
]
