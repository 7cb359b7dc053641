"""Schedules at the end of a run, after it, and in runs of any length."""

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.algorithms.optimizers import make_rmsprop
from acktr_tf.algorithms.schedules import schedule_function
from acktr_tf.config.first_order import LearningRateSettings, RMSpropSettings


@pytest.mark.parametrize("total", [1, 2, 3, 15_625, 3_400_000, 2**24])
@pytest.mark.parametrize("initial", [0.7, 4e-4])
def test_a_linear_schedule_is_positive_until_the_end_and_zero_after_it(
    total: int, initial: float
) -> None:
    value = schedule_function(initial, "linear", total)

    def at(updates: int) -> float:
        return float(value(tf.constant(updates, tf.int64)))

    for updates in {0, 1, total // 2, total - 1} - {total}:
        exact = float(Fraction(initial) * (total - updates) / total)
        # Float32 holds the share that is over to 2⁻²⁴.
        assert at(updates) == pytest.approx(exact, rel=1e-6, abs=initial * 2.0**-24)
        assert at(updates) > 0.0
    for updates in (total, total + 1, 2 * total, 2**31 - 1, 2**31, 2**33, 2**62):
        assert at(updates) == 0.0


@pytest.mark.parametrize("updates", [0, 9, 2**31, 2**40])
def test_a_constant_schedule_stays(updates: int) -> None:
    value = schedule_function(0.3, "constant", 10)
    assert float(value(tf.constant(updates, tf.int64))) == np.float32(0.3)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_rmsprop_counts_beyond_an_int32(schedule: str) -> None:
    variable = keras.Variable([1.0, -2.0])
    settings = LearningRateSettings(0.5, schedule)
    optimizer = make_rmsprop(RMSpropSettings(), settings, 2**31 + 8, [variable])
    optimizer.iterations.assign(2**31 + 6)
    rates = []
    for _ in range(4):
        rates.append(float(tf.identity(optimizer.learning_rate)))
        optimizer.apply([tf.constant([1.0, 1.0])], [variable])
    assert int(optimizer.iterations) == 2**31 + 10
    assert np.isfinite(variable.numpy()).all()
    assert rates[2:] == ([0.0, 0.0] if schedule == "linear" else [0.5, 0.5])
    assert min(rates) >= 0.0
