"""One update on two logical CPUs equals the same update on one; see replicas.py.

Each replica takes the gradient of its half of the batch; Keras sums them, and KFAC
preconditions the sum. Curvature is updated outside of the replicas.
"""

import keras
import numpy as np
import tensorflow as tf

from acktr_tf.kfac import KFAC, CurvatureTape
from kfac import twins

UPDATES = 3
ROWS = 8


def train(strategy: tf.distribute.Strategy, replicas: int) -> list[np.ndarray]:
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4, activation="tanh"),
                keras.layers.Dense(2),
            ]
        )
        twins.randomize(model)
        optimizer = KFAC(damping=0.01, inverse_update_period=2)
        optimizer.attach(model)

    def replica_step(x: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x))) / ROWS
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    step = tf.function(lambda values: strategy.run(replica_step, [values]))
    for seed in range(UPDATES):
        x = twins.inputs(ROWS, 3, seed=seed)
        with CurvatureTape(optimizer.layers) as tape:
            likelihood = tf.reduce_sum(np.sign(x[:, :2]) * model(x), axis=1)
        optimizer.update_curvature(tape, likelihood)
        shards = iter(np.split(x, replicas))
        values = strategy.experimental_distribute_values_from_function(
            lambda _, shards=shards: tf.constant(next(shards))
        )
        step(values)
    return [v.numpy() for v in model.trainable_variables]


def check(mirrored: tf.distribute.Strategy) -> None:
    alone = train(tf.distribute.get_strategy(), 1)
    together = train(mirrored, 2)
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
