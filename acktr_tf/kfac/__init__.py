"""K-FAC for Keras models: a natural-gradient optimizer that needs nothing else here."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "acktr_tf.kfac needs Keras on the tensorflow backend. Received: "
        f"{keras.config.backend()}. Set KERAS_BACKEND=tensorflow before Python starts."
    )

from acktr_tf.kfac.capture import CurvatureTape
from acktr_tf.kfac.layers import Bias
from acktr_tf.kfac.likelihoods import (
    Likelihoods,
    NegativeLogLikelihood,
    likelihood_of,
)
from acktr_tf.kfac.lookahead import Lookahead
from acktr_tf.kfac.optimizer import KFAC
from acktr_tf.kfac.training import Model, Sequential, Trainer

__all__ = [
    "KFAC",
    "Bias",
    "CurvatureTape",
    "Likelihoods",
    "Lookahead",
    "Model",
    "NegativeLogLikelihood",
    "Sequential",
    "Trainer",
    "likelihood_of",
]
