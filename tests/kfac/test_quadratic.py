"""The step that minimizes a quadratic model, and the damping that follows it."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from oracles import kfac as oracle

from acktr_tf.kfac.damping import MAX_FACTOR, MIN_FACTOR, levenberg_marquardt_damping
from acktr_tf.kfac.quadratic import quadratic_step


def step(curvature: np.ndarray, slope: np.ndarray) -> np.ndarray:
    arguments = (tf.constant(x, tf.float32) for x in (curvature, slope))
    return quadratic_step(*arguments).numpy()


def value(curvature: np.ndarray, slope: np.ndarray, w: np.ndarray) -> np.ndarray:
    """½ wᵀKw − bᵀw of weights `[..., 2]`."""
    return 0.5 * np.einsum("...i,ij,...j", w, curvature, w) - w @ slope


def gram(cosine: float, lengths: tuple[float, float]) -> np.ndarray:
    """The products of two directions of those lengths, with that angle."""
    root = np.diag(np.float64(lengths))
    return np.float32(root @ [[1.0, cosine], [cosine, 1.0]] @ root)


# Of near-dependent directions a float32 has lost what tells them apart.
@hypothesis.given(
    cosine=st.floats(-0.99, 0.99),
    # The products of float32 numbers like these underflow, or overflow.
    exponents=st.tuples(st.integers(-14, 14), st.integers(-14, 14)),
    slope=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_two_directions_get_the_weights_that_solve_the_two_equations(
    cosine, exponents, slope
):
    lengths = (10.0 ** exponents[0], 10.0 ** exponents[1])
    curvature, b = gram(cosine, lengths), np.float32(np.multiply(slope, lengths))

    w = step(curvature, b)

    # In units of the directions' lengths, so that one scale holds for both.
    least, exact = oracle.quadratic_step(np.float64(curvature), np.float64(b))
    largest = np.abs(exact * lengths).max() + 1e-6
    # 1 − cos² has an error of ε, and is at least 0.0199.
    np.testing.assert_allclose(
        np.float64(w) * lengths / largest, exact * lengths / largest, atol=3e-5
    )
    assert value(curvature, b, np.float64(w)) >= least - 1e-6 * (1 + abs(least))


def test_no_other_weights_on_a_grid_have_a_lower_value():
    curvature, slope = np.array([[2.0, 0.7], [0.7, 0.5]]), np.array([1.0, -0.4])
    w = step(curvature, slope)
    axis = np.linspace(-4, 4, 401)
    others = np.stack(np.meshgrid(axis, axis), axis=-1)
    values = value(curvature, slope, others)

    assert value(curvature, slope, w) <= values.min() + 1e-6
    # And the best of the grid, whose points are 0.02 apart, is near to it.
    best = others[np.unravel_index(values.argmin(), values.shape)]
    np.testing.assert_allclose(w, best, atol=0.05)


def test_of_a_quadratic_loss_the_step_lands_on_the_minimum_of_the_plane():
    # h(θ) = ½ θᵀHθ: the slope along −d is gᵀd with g = Hθ.
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    hessian, theta = root @ root.T, rng.normal(size=5)
    directions = rng.normal(size=(2, 5))

    w = step(directions @ hessian @ directions.T, directions @ hessian @ theta)

    after = hessian @ (theta - w @ directions)
    # The gradient that is left has no part along either direction.
    np.testing.assert_allclose(directions @ after, [0, 0], atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-13])
def test_a_second_direction_of_zero_has_no_weight(scale):
    w = step(scale * np.array([[2.0, 0.0], [0.0, 0.0]]), scale * np.array([3.0, 0.0]))
    np.testing.assert_allclose(w, [1.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.3, 1e-3, 1e3])
def test_a_second_direction_that_the_first_has_gets_no_weight(factor):
    # d, and factor · d; its products in float32, so the determinant is rounding.
    curvature = 0.7 * np.outer([1.0, factor], [1.0, factor])
    w = step(curvature, 1.4 * np.array([1.0, factor]))
    np.testing.assert_allclose(w, [2.0, 0.0], rtol=1e-6)


def test_nearly_dependent_directions_get_finite_weights():
    for exponent in range(1, 9):
        w = step(gram(1 - 10.0**-exponent, (1.0, 1.0)), np.array([1.0, 1.0]))
        assert np.isfinite(w).all()


@pytest.mark.parametrize("second", [0.0, 1.0])
def test_without_curvature_of_the_first_direction_there_is_no_step(second):
    # Δ is zero where the gradient is, and then so are both slopes.
    w = step(np.diag([0.0, second]), np.array([0.0, 0.0]))
    np.testing.assert_array_equal(w, [0.0, 0.0])


def test_a_curvature_that_is_not_finite_shows_in_the_weights():
    # So that the optimizer leaves the step out.
    assert not np.isfinite(step(np.full((2, 2), np.nan), np.ones(2))).all()


# Damping --------------------------------------------------------------------------
def adapted(factor: float, change: float, predicted: float, period: int = 5) -> float:
    arguments = (tf.constant(x, tf.float32) for x in (factor, change, predicted))
    return float(levenberg_marquardt_damping(*arguments, period))


LESS, SAME, MORE = (19 / 20) ** 5, 1.0, (20 / 19) ** 5


@pytest.mark.parametrize(
    ("change", "predicted", "expected"),
    [
        # Good: the ratio is above 3/4.
        (-1.0, -1.0, LESS),
        (-0.76, -1.0, LESS),
        (-3.0, -1.0, LESS),
        (-0.76e-20, -1e-20, LESS),
        # Neither, with both ends.
        (-0.75, -1.0, SAME),
        (-0.5, -1.0, SAME),
        (-0.25, -1.0, SAME),
        # Bad.
        (-0.24, -1.0, MORE),
        (0.0, -1.0, MORE),
        (1.0, -1.0, MORE),
        # Not finite: whatever sign the ratio has.
        (np.nan, -1.0, MORE),
        (np.inf, -1.0, MORE),
        (-np.inf, -1.0, MORE),
        # A model that promises nothing, or something worse, is no model: the step was
        # not taken, or is not the minimum.
        (0.0, 0.0, MORE),
        (-1.0, 0.0, MORE),
        (1.0, 1.0, MORE),
        (-1.0, 1.0, MORE),
        (-1.0, np.nan, MORE),
        (-1.0, -np.inf, MORE),
    ],
)
def test_damping_falls_after_good_steps_and_rises_after_bad_ones(
    change, predicted, expected
):
    assert adapted(1.0, change, predicted) == pytest.approx(expected, rel=1e-6)
    assert adapted(20.0, change, predicted) == pytest.approx(20 * expected, rel=1e-6)


@pytest.mark.parametrize("period", [1, 5, 20])
def test_the_less_often_damping_is_adapted_the_more(period):
    assert adapted(1.0, -1.0, -1.0, period) == pytest.approx(0.95**period, rel=1e-6)
    assert adapted(1.0, 1.0, -1.0, period) == pytest.approx(0.95**-period, rel=1e-6)


def test_the_factor_on_damping_has_bounds():
    assert adapted(MIN_FACTOR, -1.0, -1.0) == pytest.approx(MIN_FACTOR)
    assert adapted(MAX_FACTOR, 1.0, -1.0) == pytest.approx(MAX_FACTOR)
    assert adapted(1.01 * MIN_FACTOR, -1.0, -1.0) == pytest.approx(MIN_FACTOR)
    assert adapted(0.99 * MAX_FACTOR, 1.0, -1.0) == pytest.approx(MAX_FACTOR)
