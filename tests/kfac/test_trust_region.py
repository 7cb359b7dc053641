import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from acktr_tf.kfac.trust_region import (
    RADIUS_CHANGE,
    backtracking_factor,
    kl_controlled_factor,
    predicted_kl,
    step_size,
)


@hypothesis.given(
    learning_rate=st.floats(1e-4, 10.0),
    radius=st.floats(1e-6, 1.0),
    squared_norm=st.floats(1e-6, 1e6),
)
def test_a_step_is_as_long_as_the_learning_rate_and_the_radius_allow(
    learning_rate, radius, squared_norm
):
    eta = float(
        step_size(tf.constant(learning_rate), radius, tf.constant(squared_norm))
    )

    assert eta <= learning_rate * (1 + 1e-6)
    # The step ηΔ has the norm η² ΔᵀFΔ, and half of that is its KL.
    kl = float(predicted_kl(tf.constant(eta**2 * squared_norm)))
    assert kl <= radius * (1 + 1e-5)
    assert math.isclose(eta, learning_rate, rel_tol=1e-6) or math.isclose(
        kl, radius, rel_tol=1e-5
    )


def test_the_radius_bounds_half_of_the_squared_norm():
    # ½ η² 8 = 0.01 at η = 0.05; a bound on η² 8 itself would give 0.0353.
    eta = step_size(tf.constant(1.0), 0.01, tf.constant(8.0))
    np.testing.assert_allclose(eta, 0.05, rtol=1e-6)


@pytest.mark.parametrize("squared_norm", [0.0, -1e-9])
def test_no_direction_leaves_the_learning_rate(squared_norm):
    # Rounding can make the norm of almost nothing negative.
    eta = step_size(tf.constant(0.25), 0.001, tf.constant(squared_norm))
    assert float(eta) == 0.25


def test_the_predicted_kl_of_a_gaussian_is_exact():
    # KL(N(0, I) ‖ N(Δ, I)) = ½|Δ|², with F = I.
    delta = np.array([0.3, -1.2], np.float32)
    kl = predicted_kl(tf.constant(delta @ delta))
    np.testing.assert_allclose(kl, 0.5 * (0.09 + 1.44), rtol=1e-6)


# Equation (14) --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kl", "binding", "expected"),
    [
        (0.0021, True, 1 / RADIUS_CHANGE),
        (0.0021, False, 1 / RADIUS_CHANGE),
        (0.0019, True, 1.0),
        (0.001, True, 1.0),
        (0.00051, True, 1.0),
        (0.00049, True, RADIUS_CHANGE),
        (0.00049, False, 1.0),
        (np.nan, True, 1 / RADIUS_CHANGE),
        (np.inf, True, 1 / RADIUS_CHANGE),
    ],
)
def test_the_radius_follows_a_target_of_the_exact_kl(kl, binding, expected):
    factor = kl_controlled_factor(
        tf.constant(1.0), tf.constant(kl, tf.float32), 0.001, tf.constant(binding)
    )
    np.testing.assert_allclose(factor, expected, rtol=1e-6)


@pytest.mark.parametrize(("kl", "bound"), [(1.0, 1e-4), (0.0, 1e4)])
def test_the_factor_on_the_radius_stays_within_bounds(kl, bound):
    factor = tf.constant(1.0)
    for _ in range(100):
        factor = kl_controlled_factor(factor, tf.constant(kl), 0.001, tf.constant(True))
    np.testing.assert_allclose(factor, bound, rtol=1e-6)


@pytest.mark.parametrize("kl", [0.0101, 0.02, 0.5])
def test_a_step_of_quadratic_kl_is_shortened_to_just_within_the_limit(kl):
    factor = float(backtracking_factor(tf.constant(kl), 0.01))
    assert kl * factor**2 == pytest.approx(0.81 * 0.01, rel=1e-5)


@pytest.mark.parametrize("kl", [1e3, np.inf, np.nan])
def test_whatever_the_kl_a_tenth_of_a_step_is_tried(kl):
    np.testing.assert_allclose(
        backtracking_factor(tf.constant(kl, tf.float32), 0.01), 0.1
    )
