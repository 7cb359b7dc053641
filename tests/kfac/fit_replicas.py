"""`fit` on two logical CPUs equals `fit` on one with the whole batch; see replicas.py.

The empirical Fisher matrix, because sampled targets differ.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from acktr_tf import kfac
from kfac import twins

EXAMPLES, CLASSES = 64, 3
SETTINGS: list[dict[str, object]] = [
    {},
    {"factor_update_period": 1, "curvature_fraction": 1.0},
    {"factor_update_period": 3},
    {"inverse": "ekfac", "inverse_update_period": 2},
    # Layers take turns.
    {"factor_update_period": 1, "inverse_update_period": 3},
    {"inverse_thread": True, "inverse_update_period": 2},
    {"step_rule": "quadratic", "learning_rate": 1.0, "damping_period": 2},
]
# Each trace of two replicas takes seconds, so that one of the default run has several
# settings at once: every value of every argument above is in one.
FEW: list[dict[str, object]] = [
    {
        "factor_update_period": 1,
        "curvature_fraction": 1.0,
        "inverse": "ekfac",
        "inverse_update_period": 3,
    },
    {
        "inverse_thread": True,
        "inverse_update_period": 2,
        "factor_update_period": 3,
        "step_rule": "quadratic",
        "learning_rate": 1.0,
        "damping_period": 2,
    },
]


def train(strategy: tf.distribute.Strategy, **arguments: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = kfac.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(6, activation="tanh"),
                keras.layers.Dense(CLASSES),
            ]
        )
        model.compile(
            kfac.KFAC(fisher="empirical", **arguments),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # Alone, few steps are quicker than their trace.
            run_eagerly=strategy.num_replicas_in_sync == 1,
        )
    x = twins.inputs(EXAMPLES, 5)
    y = np.argmax(x[:, :CLASSES], axis=1)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


def check(
    mirrored: tf.distribute.Strategy, settings: Sequence[dict[str, object]] = FEW
) -> None:
    for each in settings:
        alone = train(tf.distribute.get_strategy(), **each)
        together = train(mirrored, **each)
        pairs = zip(alone.get_weights(), together.get_weights(), strict=True)
        for left, right in pairs:
            np.testing.assert_allclose(
                left, right, rtol=1e-4, atol=1e-5, err_msg=str(each)
            )


def check_all(mirrored: tf.distribute.Strategy) -> None:
    check(mirrored, SETTINGS)
