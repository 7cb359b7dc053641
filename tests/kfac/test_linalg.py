import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from oracles import kfac as oracle

from acktr_tf.kfac import linalg
from acktr_tf.kfac.linalg import (
    DAMPING_RAISE,
    MAX_RAISES,
    Inverse,
    damped_inverse,
    eigenbasis,
    pi_correction,
)


def invert(matrix: np.ndarray, shift: float) -> Inverse:
    return damped_inverse(np.float32(matrix), shift)


def second_moment(size: int, samples: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(samples, size))
    return rows.T @ rows / samples


@hypothesis.given(
    size=st.integers(1, 30),
    samples=st.integers(1, 60),
    shift=st.floats(1e-3, 10.0),
    seed=st.integers(0, 1000),
)
def test_damped_inverse_equals_numpy_in_float64(size, samples, shift, seed):
    matrix = second_moment(size, samples, seed)

    inverse = invert(matrix, shift)

    assert bool(inverse.succeeded)
    assert int(inverse.failures) == 0
    expected = np.linalg.inv(matrix + shift * np.eye(size))
    condition = np.linalg.cond(matrix + shift * np.eye(size))
    error = np.abs(inverse.matrix - expected).max() / np.abs(expected).max()
    assert error < 4e-7 * condition * size
    np.testing.assert_array_equal(inverse.matrix, inverse.matrix.T)


def test_float32_error_of_a_large_ill_conditioned_factor_is_as_small_as_can_be():
    # A stable inversion errs by a few times condition × rounding unit: 1e4 × 6e-8.
    size, damping = 600, 1e-4
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = np.float32((basis * np.logspace(0, -8, size)) @ basis.T)
    matrix = (matrix + matrix.T) / 2

    inverse = invert(matrix, damping)

    expected = np.linalg.inv(matrix.astype(np.float64) + damping * np.eye(size))
    assert int(inverse.failures) == 0
    error = np.linalg.norm(inverse.matrix - expected, 2) / np.linalg.norm(expected, 2)
    assert error < 2e-3


def test_an_indefinite_matrix_gets_ten_times_the_damping_until_it_is_positive():
    matrix = np.diag([1.0, -0.05, 2.0])

    inverse = invert(matrix, 0.001)

    # 0.001 and 0.01 leave −0.05 negative; 0.1 does not.
    assert bool(inverse.succeeded)
    assert int(inverse.failures) == 2
    np.testing.assert_allclose(
        inverse.matrix, np.linalg.inv(matrix + 0.1 * np.eye(3)), rtol=1e-5
    )


def test_a_hopeless_matrix_is_reported_and_nothing_is_raised():
    matrix = np.diag([1.0, -1e20])

    inverse = invert(matrix, 0.001)

    assert not bool(inverse.succeeded)
    assert int(inverse.failures) == MAX_RAISES + 1
    assert 0.001 * DAMPING_RAISE**MAX_RAISES < 1e20
    assert np.isfinite(inverse.matrix).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["diagonal", "corner", "shift"])
def test_what_is_not_finite_is_reported_and_nothing_is_raised(bad, where):
    matrix, shift = np.eye(3), 0.1
    if where == "shift":
        shift = bad
    else:
        matrix[0, 0 if where == "diagonal" else 2] = bad

    inverse = invert(matrix, shift)

    assert not bool(inverse.succeeded)
    assert int(inverse.failures) == 1
    assert np.isfinite(inverse.matrix).all()


def test_inverting_leaves_the_matrix_as_it_was():
    matrix = np.float32(np.diag([1.0, -0.05]))
    before = matrix.copy()

    damped_inverse(matrix, 0.001)
    eigenbasis(matrix)

    np.testing.assert_array_equal(matrix, before)


@hypothesis.given(
    size=st.integers(1, 30), samples=st.integers(1, 60), seed=st.integers(0, 1000)
)
def test_an_eigenbasis_makes_the_matrix_again(size, samples, seed):
    matrix = second_moment(size, samples, seed)

    basis = eigenbasis(np.float32(matrix))

    assert basis.succeeded
    assert basis.failures == 0
    assert (basis.values >= 0).all()
    tolerance = 1e-6 * size * np.abs(matrix).max()
    again = (basis.vectors * basis.values) @ basis.vectors.T
    np.testing.assert_allclose(again, matrix, atol=tolerance)
    identity = basis.vectors.T @ basis.vectors
    np.testing.assert_allclose(identity, np.eye(size), atol=1e-5)


def test_rounding_below_zero_is_no_negative_eigenvalue():
    basis = eigenbasis(np.float32(np.diag([1.0, -1e-9])))
    np.testing.assert_array_equal(basis.values, np.float32([0.0, 1.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_eigenbasis_of_what_is_not_finite_is_reported(bad):
    matrix = np.eye(3)
    matrix[0, 0] = bad

    basis = eigenbasis(matrix)

    assert not basis.succeeded
    assert basis.failures == 1
    assert np.isfinite(basis.vectors).all()


def test_a_decomposition_that_fails_is_tried_again_by_another_method(monkeypatch):
    found = linalg.lapack.get_lapack_funcs
    tried = []

    def failing(names, arrays):
        tried.extend(names)
        (routine,) = found(names, arrays)
        if names[0] == "syevd":
            return (lambda *args, **kwargs: (*routine(*args, **kwargs)[:2], 1),)
        return (routine,)

    monkeypatch.setattr(linalg.lapack, "get_lapack_funcs", failing)
    basis = eigenbasis(np.diag([1.0, 2.0]))

    assert tried == ["syevd", "syev"]
    assert (basis.succeeded, basis.failures) == (True, 1)
    np.testing.assert_array_equal(basis.values, [1.0, 2.0])


def test_pi_is_the_root_of_the_ratio_of_mean_diagonals():
    a, g = second_moment(4, 9) * 50, second_moment(3, 9)
    # By hand: sqrt((tr A / 4) / (tr G / 3)).
    expected = np.sqrt((np.trace(a) / 4) / (np.trace(g) / 3))

    pi = pi_correction(np.trace(a) / 4, np.trace(g) / 3)

    np.testing.assert_allclose(pi, expected, rtol=1e-6)
    np.testing.assert_allclose(oracle.pi(a, g), expected)


def test_pi_leaves_the_product_of_the_damped_terms_at_the_damping():
    # π√λ · √λ/π = λ, and relative to the factors' sizes both terms are the same.
    a, g, damping = second_moment(4, 9) * 50, second_moment(3, 9), 0.01
    damped_a, damped_g = oracle.damped_factors(a, g, damping)
    added_a, added_g = (damped_a - a)[0, 0], (damped_g - g)[0, 0]
    np.testing.assert_allclose(added_a * added_g, damping)
    np.testing.assert_allclose(added_a / (np.trace(a) / 4), added_g / (np.trace(g) / 3))


@pytest.mark.parametrize(
    ("a", "g"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (np.nan, 1.0), (np.inf, 1.0)]
)
def test_pi_is_one_where_a_trace_is_zero_or_not_finite(a, g):
    assert pi_correction(a, g) == 1.0


def test_pi_of_factors_of_very_different_size_is_finite():
    assert pi_correction(np.float32(1e38), np.float32(1e-38)) == pytest.approx(1e38)
