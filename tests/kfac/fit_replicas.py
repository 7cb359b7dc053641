"""`fit` on two logical CPUs equals `fit` on one with the whole batch; run by the tests.

The empirical Fisher matrix, because sampled targets differ.
"""

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
        )
    x = twins.inputs(EXAMPLES, 5)
    y = np.argmax(x[:, :CLASSES], axis=1)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # One for all: a second one would number its collective operations from the start.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for settings in SETTINGS:
        alone = train(tf.distribute.get_strategy(), **settings)
        together = train(strategy, **settings)
        pairs = zip(alone.get_weights(), together.get_weights(), strict=True)
        for left, right in pairs:
            np.testing.assert_allclose(
                left, right, rtol=1e-4, atol=1e-5, err_msg=str(settings)
            )


if __name__ == "__main__":
    main()
