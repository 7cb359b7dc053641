"""Inversion in a thread: what comes out when, and what a checkpoint makes of it."""

import threading
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.kfac import KFAC
from acktr_tf.kfac.background import BackgroundInverter
from kfac import twins

PERIOD = 3


def doubled(arrays):
    return [2 * array for array in arrays]


def arrays(value: float) -> list[np.ndarray]:
    return [np.full(2, value), np.full(3, value)]


# The thread -----------------------------------------------------------------------
def test_inverses_come_out_one_swap_later():
    inverter = BackgroundInverter(doubled)
    inverter.swap(*arrays(0.0), *arrays(1.0))
    for step in (1.0, 2.0, 3.0):
        inverses = inverter.swap(*arrays(step), *arrays(step + 1))
        np.testing.assert_array_equal(inverses[0], 2 * arrays(step)[0])
        np.testing.assert_array_equal(inverses[1], 2 * arrays(step)[1])


def test_a_swap_does_not_wait_for_the_factors_that_it_queues():
    begun, may_end = threading.Event(), threading.Event()

    def slow(factors):
        if factors[0][0] == 1.0:
            begun.set()
            assert may_end.wait(60)
        return doubled(factors)

    inverter = BackgroundInverter(slow)
    inverter.swap(*arrays(0.0), *arrays(1.0))
    assert begun.wait(60)  # It is under way, and the swap is over.
    may_end.set()
    inverses = inverter.swap(*arrays(1.0), *arrays(2.0))
    np.testing.assert_array_equal(inverses[0], [2.0, 2.0])


def test_factors_that_the_thread_does_not_know_are_inverted_at_once():
    inverter = BackgroundInverter(doubled)
    inverter.swap(*arrays(0.0), *arrays(1.0))
    inverses = inverter.swap(*arrays(7.0), *arrays(8.0))
    np.testing.assert_array_equal(inverses[0], [14.0, 14.0])
    # And goes on from there.
    np.testing.assert_array_equal(
        inverter.swap(*arrays(8.0), *arrays(9.0))[0], [16.0, 16.0]
    )


def test_factors_are_kept_though_their_buffer_is_used_again():
    may_begin = threading.Event()

    def late(factors):
        assert may_begin.wait(60)
        return doubled(factors)

    inverter = BackgroundInverter(late)
    buffer = np.array([1.0])
    may_begin.set()
    inverter.swap(np.array([0.0]), buffer)
    buffer[:] = 5.0
    np.testing.assert_array_equal(inverter.swap(np.array([1.0]), buffer)[0], [2.0])


def test_an_error_in_the_thread_is_not_lost():
    def failing(factors):
        if factors[0][0] == 1.0:
            raise MemoryError("no room")
        return factors

    inverter = BackgroundInverter(failing)
    inverter.swap(*arrays(0.0), *arrays(1.0))
    with pytest.raises(MemoryError, match="no room"):
        inverter.swap(*arrays(1.0), *arrays(2.0))


# The optimizer --------------------------------------------------------------------
class Trained(NamedTuple):
    """What was found after each update of a model of one layer.

    Attributes:
      optimizer: As it is at the end.
      factors: Factor A.
      eigenvalues: Those in force of A.
      ages: Of the inverse.
    """

    optimizer: KFAC
    factors: list[np.ndarray]
    eigenvalues: list[np.ndarray]
    ages: list[float]


def train(steps: int, **arguments) -> Trained:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = KFAC(
        inverse="eigen", inverse_update_period=PERIOD, learning_rate=0.01, **arguments
    )
    optimizer.attach(model)

    @tf.function
    def step(x):
        with optimizer.curvature_tape() as tape:
            likelihood = tf.reduce_sum(model(x) * x[:, :2], axis=1)
        optimizer.update_curvature(tape, likelihood)
        weights = model.trainable_variables
        optimizer.apply([tf.ones_like(w) for w in weights], weights)

    found = Trained(optimizer, [], [], [])
    for number in range(steps):
        step(tf.constant(twins.inputs(8, 4, seed=number)))
        found.factors.append(optimizer.blocks[0].factors().a.numpy())
        found.eigenvalues.append(eigenvalues_in_force(optimizer))
        found.ages.append(number - float(optimizer.blocks[0].inverse_step))
    return found


def eigenvalues_in_force(optimizer: KFAC) -> np.ndarray:
    return optimizer.blocks[0].inverse.arrays[1].numpy()


def test_inverses_are_of_the_factors_of_the_period_before_and_no_older():
    found = train(6 * PERIOD, inverse_thread=True)
    for step, eigenvalues in enumerate(found.eigenvalues):
        due = step // PERIOD * PERIOD
        # In the first period at every step; then of the time before the last one.
        of = step if step < PERIOD else max(due - PERIOD, PERIOD - 1)
        np.testing.assert_allclose(
            eigenvalues,
            np.linalg.eigvalsh(found.factors[of]),
            rtol=1e-4,
            err_msg=str(step),
        )
    assert max(found.ages) == 2 * PERIOD - 1
    assert max(train(6 * PERIOD, inverse_thread=False).ages) == PERIOD - 1


def test_a_factorization_that_fails_in_the_thread_is_counted_and_keeps_the_last():
    optimizer = train(2 * PERIOD, inverse_thread=True).optimizer
    before = eigenvalues_in_force(optimizer)
    block = optimizer.blocks[0]
    factor = twins.state_of(block, "factor_a")
    factor.assign(tf.fill(factor.shape, np.float32("nan")))
    for _ in range(2):  # They are queued, then inverted.
        optimizer.iterations.assign(3 * PERIOD)
        optimizer.update_inverses()
    assert int(optimizer.failed_factorizations) > 0
    after = eigenvalues_in_force(optimizer)
    assert np.isfinite(before).all()
    assert np.isfinite(after).all()
