"""The loss by hand and by finite differences; samples for the Fisher matrix."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from gymnasium.spaces import Discrete
from oracles import actor_critic as oracle

from acktr_tf.algorithms.losses import (
    actor_critic_loss,
    policy_kl,
    sampled_log_likelihood,
    value_kl,
)
from acktr_tf.algorithms.returns import Batch
from acktr_tf.policies.distributions import CategoricalDistribution, Distribution

Array = npt.NDArray[np.float64]


def distribution(logits: Array | tf.Tensor) -> Distribution:
    logits = tf.convert_to_tensor(logits)
    return CategoricalDistribution(Discrete(logits.shape[1])).distribution(logits)


def test_numbers_by_hand() -> None:
    """Two examples, two actions.

    Probabilities (¼, ¾) and (½, ½); actions 1 and 0; advantages 2 and −1.
      policy  = −½ (2 log ¾ − log ½) = −½ log(9/8)
      value   = ½ · ½ (1² + 3²) = 2.5
      entropy = ½ ((¼ log 4 + ¾ log 4/3) + log 2)
    """
    batch = Batch(
        observation=tf.zeros([2, 1]),
        action=tf.constant([1, 0]),
        advantage=tf.constant([2.0, -1.0], tf.float64),
        target=tf.constant([2.0, 1.0], tf.float64),
    )
    losses = actor_critic_loss(
        distribution(np.log([[0.25, 0.75], [0.5, 0.5]])),
        tf.constant([1.0, -2.0], tf.float64),
        batch,
        entropy_cost=0.1,
        value_cost=0.5,
    )
    entropy = 0.5 * (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + math.log(2))
    assert losses.policy.numpy() == pytest.approx(-0.5 * math.log(9 / 8))
    assert losses.value.numpy() == pytest.approx(2.5)
    assert losses.entropy.numpy() == pytest.approx(entropy)
    assert losses.total.numpy() == pytest.approx(
        -0.5 * math.log(9 / 8) + 0.5 * 2.5 - 0.1 * entropy
    )


def test_the_gradient_equals_finite_differences() -> None:
    random = np.random.default_rng(0)
    n, actions = 5, 3
    batch = Batch(
        tf.zeros([n, 1]),
        tf.constant(random.integers(0, actions, n), tf.int32),
        tf.constant(random.normal(size=n)),
        tf.constant(random.normal(size=n)),
    )
    point = random.normal(size=(n, actions + 1))

    def total(at: tf.Tensor) -> tf.Tensor:
        return actor_critic_loss(
            distribution(at[:, :actions]),
            at[:, actions],
            batch,
            entropy_cost=0.3,
            value_cost=0.7,
        ).total

    variable = tf.Variable(point)
    with tf.GradientTape() as tape:
        loss = total(variable)
    gradient = tape.gradient(loss, variable).numpy()

    expected, step = np.zeros_like(point), 1e-6
    for index in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[index] = step
        expected[index] = (
            total(tf.constant(point + shift)) - total(tf.constant(point - shift))
        ).numpy() / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("actions", [1, 2, 6, 18])
def test_entropy_and_kl_equal_those_of_numpy(actions: int) -> None:
    random = np.random.default_rng(actions)
    old, new = 3.0 * random.normal(size=(2, 7, actions))
    entropy = distribution(old).entropy()
    np.testing.assert_allclose(entropy, oracle.entropy(old), atol=1e-12)
    kl = policy_kl(distribution(old), distribution(new))
    np.testing.assert_allclose(kl, oracle.kl_divergence(old, new).mean(), atol=1e-12)
    assert kl.shape == []


def test_the_uniform_policy_has_the_most_entropy() -> None:
    uniform = distribution(np.zeros((1, 6))).entropy()
    assert uniform.numpy()[0] == pytest.approx(math.log(6))


def test_kl_has_its_direction_and_vanishes_only_where_nothing_moved() -> None:
    """KL((½, ½) ‖ (¼, ¾)) = ½ log 2 + ½ log ⅔, and the other way about it is not."""
    half = distribution(np.log([[0.5, 0.5]]))
    quarter = distribution(np.log([[0.25, 0.75]]))
    there = policy_kl(half, quarter).numpy()
    back = policy_kl(quarter, half).numpy()
    assert there == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert back == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert there != pytest.approx(back)
    # The same distribution by other logits.
    shifted = distribution(np.log([[0.5, 0.5]]) + 3.0)
    assert policy_kl(half, shifted).numpy() == pytest.approx(0.0, abs=1e-15)


def test_value_kl_is_that_of_unit_gaussians() -> None:
    """KL(N(a, 1) ‖ N(b, 1)) = ½ (a − b)²; here the mean of ½·1 and ½·9."""
    old, new = tf.constant([0.0, 2.0]), tf.constant([1.0, -1.0])
    assert value_kl(old, new).numpy() == pytest.approx(2.5)
    assert value_kl(old, old).numpy() == 0.0


# The sampled log-likelihood ---------------------------------------------------------
def output_gradients(
    logits: Array, value: Array, key: tuple[int, int]
) -> tuple[Array, Array]:
    """Gradients of the sampled log-likelihood for logits `[N, n]` and values `[N]`."""
    with tf.GradientTape() as tape:
        inputs = tf.constant(logits), tf.constant(value)
        tape.watch(inputs)
        log_likelihood = sampled_log_likelihood(
            distribution(inputs[0]), inputs[1], tf.constant(key, tf.int32)
        )
    assert log_likelihood.shape == value.shape
    of_logits, of_value = tape.gradient(log_likelihood, inputs)
    return of_logits.numpy(), of_value.numpy()


N = 20_000
PROBABILITIES = np.array([0.5, 0.3, 0.2], np.float32)


@pytest.fixture(scope="module")
def sampled() -> tuple[Array, Array]:
    """Of `N` examples that are all alike, so that rows differ by their draw alone."""
    logits = np.tile(np.log(PROBABILITIES), (N, 1))
    return output_gradients(logits, np.full(N, 7.0, np.float32), (3, 4))


def test_the_second_moment_is_the_fisher_matrix(
    sampled: tuple[Array, Array],
) -> None:
    """diag(p) − p pᵀ for the logits, 1 for the value, and nothing between them."""
    outputs = np.concatenate([sampled[0], sampled[1][:, None]], axis=1)
    expected = np.zeros((4, 4))
    expected[:3, :3] = np.diag(PROBABILITIES) - np.outer(PROBABILITIES, PROBABILITIES)
    expected[3, 3] = 1.0
    # Five standard errors of a mean of N products, each of variance 2 at most.
    np.testing.assert_allclose(
        outputs.T @ outputs / N, expected, atol=5 * math.sqrt(2 / N)
    )
    np.testing.assert_allclose(outputs.mean(axis=0), 0.0, atol=5 / math.sqrt(N))


def test_each_row_draws_for_itself(sampled: tuple[Array, Array]) -> None:
    of_logits, of_value = sampled
    assert len(np.unique(of_value)) > 0.99 * N
    for series in [of_logits[:, 0], of_value]:
        normalised = (series - series.mean()) / series.std()
        for lag in [1, 2, N // 2]:
            correlation = np.mean(normalised[lag:] * normalised[:-lag])
            assert abs(correlation) < 5 / math.sqrt(N - lag)
    # The draw of the action tells nothing of the draw of the value, nor of its size.
    for part in [of_value, of_value**2]:
        assert abs(np.corrcoef(of_logits[:, 0], part)[0, 1]) < 5 / math.sqrt(N)


def test_the_draw_is_decided_by_the_key() -> None:
    logits, value = np.zeros((50, 3), np.float32), np.zeros(50, np.float32)
    first = output_gradients(logits, value, (1, 2))
    again = output_gradients(logits, value, (1, 2))
    other = output_gradients(logits, value, (1, 3))
    for part in range(2):
        assert np.array_equal(first[part], again[part])
        assert not np.array_equal(first[part], other[part])


def test_samples_are_constants_of_the_gradient() -> None:
    """With v = V + ε held fixed, ∂(−½(v − V)²)/∂V = ε; were it not, it would be 0."""
    _, of_value = output_gradients(
        np.zeros((50, 3), np.float32), np.zeros(50, np.float32), (1, 2)
    )
    assert np.all(of_value != 0.0)
