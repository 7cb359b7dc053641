"""Lookahead on two logical CPUs is Lookahead on one; see replicas.py.

By `fit`, with KFAC and with momentum inside, and by a loop of one's own.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from acktr_tf import kfac
from kfac import twins

ROWS, PERIOD = 8, 2

Weights = list[np.ndarray]


def make_model(cls: type[keras.Model]) -> keras.Model:
    model = cls(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )
    twins.randomize(model)
    return model


def fitted(
    cls: type[keras.Model], make_inner: Callable[[], keras.optimizers.Optimizer]
) -> Callable[[tf.distribute.Strategy, int], Weights]:
    def train(strategy: tf.distribute.Strategy, replicas: int) -> Weights:
        with strategy.scope():
            model = make_model(cls)
            # Alone, few steps are quicker than their trace.
            model.compile(
                kfac.Lookahead(make_inner(), PERIOD),
                loss="mse",
                run_eagerly=replicas == 1,
            )
        x = twins.inputs(5 * ROWS, 3)
        model.fit(x, x[:, :2], batch_size=ROWS, shuffle=False, verbose=0)
        return weights_of(model, model.optimizer, replicas)

    return train


def own_loop(strategy: tf.distribute.Strategy, replicas: int) -> Weights:
    with strategy.scope():
        model = make_model(keras.Sequential)
        optimizer = kfac.Lookahead(keras.optimizers.SGD(0.125, 0.5), PERIOD, 0.75)
        optimizer.build(model.trainable_variables)

    def replica_step(x: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x))) / ROWS
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    step = tf.function(lambda values: strategy.run(replica_step, [values]))
    for seed in range(5):
        shards = iter(np.split(twins.inputs(ROWS, 3, seed=seed), replicas))
        values = strategy.experimental_distribute_values_from_function(
            lambda _, shards=shards: tf.constant(next(shards))
        )
        step(values)
    return weights_of(model, optimizer, replicas)


def weights_of(model: keras.Model, optimizer: kfac.Lookahead, replicas: int) -> Weights:
    """Fast and slow ones, after the replicas were seen to agree about them."""
    assert optimizer.iterations.numpy() == 5
    variables = [*model.trainable_variables, *optimizer.slow_weights]
    if replicas > 1:
        for variable in variables:
            first, second = variable.value.values
            np.testing.assert_array_equal(first, second)
    return [variable.numpy() for variable in variables]


def check(mirrored: tf.distribute.Strategy) -> None:
    for train in [
        own_loop,
        fitted(keras.Sequential, lambda: keras.optimizers.SGD(0.1, 0.9)),
        # Targets sampled by two replicas are not those that one of them samples.
        fitted(kfac.Sequential, lambda: kfac.KFAC(fisher="empirical")),
    ]:
        alone = train(tf.distribute.get_strategy(), 1)
        together = train(mirrored, 2)
        for left, right in zip(alone, together, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
