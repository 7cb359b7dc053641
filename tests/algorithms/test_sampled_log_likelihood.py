"""The second moment of the sampled targets' gradient is the joint Fisher matrix."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from kfac import twins
from oracles import kfac as oracle
from oracles.networks import forward, log_softmax

from acktr_tf.algorithms.losses import sampled_log_likelihood
from acktr_tf.kfac import CurvatureTape

ACTIONS = 3
SAMPLES = 6_000
KEY = np.array([3, 5], np.int32)


def log_likelihood_of(outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    distribution = tfp.distributions.Categorical(logits=outputs[:, :-1])
    return sampled_log_likelihood(distribution, outputs[:, -1], key)


def shared_trunk() -> twins.Twin:
    return twins.Twin(
        (2,),
        [keras.layers.Dense(3, activation="tanh")],
        [keras.layers.Dense(ACTIONS), keras.layers.Dense(1)],
    )


def test_the_mean_over_sampled_targets_converges_to_the_exact_joint_fisher():
    # Of all weights together: trunk, policy and value, and what is between them. Each
    # entry is a mean of independent samples with the standard error s/√SAMPLES. Of the
    # 325 different entries the farthest is within 5 standard errors: the chance of more
    # is 2e-4, and the key is fixed.
    twin, x = shared_trunk(), twins.inputs(2, 2)
    rows = np.repeat(x, SAMPLES, axis=0)
    with CurvatureTape(twin.layers) as tape:
        log_likelihood = log_likelihood_of(twin.outputs(rows), tf.constant(KEY))
    calls = [tape.calls(layer)[0] for layer in twin.layers]
    gradients = tape.gradient(log_likelihood, [call.outputs for call in calls])
    per_example = [
        np.einsum("ni,nj->nij", np.c_[c.inputs, np.ones(len(rows))], g)
        for c, g in zip(calls, gradients, strict=True)
    ]
    flat = np.concatenate([p.reshape(len(rows), -1) for p in per_example], axis=1)
    # Mean over the states of what each sample index gives for all of them.
    moments = sum(
        np.einsum("si,sj->sij", part, part)
        for part in flat.reshape(len(x), SAMPLES, -1)
    ) / len(x)

    exact = oracle.exact_fisher(twin.network, np.float64(x), oracle.actor_critic_fisher)
    error = moments.mean(axis=0) - exact
    standard_error = moments.std(axis=0) / np.sqrt(SAMPLES)
    assert np.abs(error / standard_error).max() < 5
    # And the standard errors are small enough for that to say something.
    assert np.linalg.norm(standard_error) < 0.05 * np.linalg.norm(exact)


def test_each_row_is_its_own_example():
    # The gradient of a row with respect to another row's outputs is zero.
    outputs = tf.Variable(twins.inputs(4, ACTIONS + 1))
    with tf.GradientTape() as tape:
        rows = log_likelihood_of(outputs, tf.constant(KEY))
    assert rows.shape == (4,)
    jacobian = tape.jacobian(rows, outputs).numpy()
    for row in range(4):
        others = np.delete(jacobian[row], row, axis=0)
        np.testing.assert_array_equal(others, np.zeros_like(others))
        assert (jacobian[row, row] != 0).all()


def test_the_gradient_is_the_score_of_one_action_and_one_value():
    outputs = tf.Variable(twins.inputs(500, ACTIONS + 1))
    with tf.GradientTape() as tape:
        rows = log_likelihood_of(outputs, tf.constant(KEY))
    gradient = tape.gradient(rows, outputs).numpy()

    p = np.exp(log_softmax(np.float64(outputs[:, :-1])))
    one_hot = gradient[:, :-1] + p
    np.testing.assert_allclose(one_hot, one_hot.round(), atol=1e-5)
    np.testing.assert_allclose(one_hot.sum(axis=1), 1, atol=1e-5)
    # The value's score is its unit-variance noise; four standard errors are allowed.
    noise = gradient[:, -1]
    assert abs(noise.mean()) < 4 / np.sqrt(500)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / 500)


def test_scores_of_action_and_value_have_mean_zero_and_are_uncorrelated():
    logits = tf.Variable(np.tile(twins.inputs(1, ACTIONS + 1), (SAMPLES, 1)))
    with tf.GradientTape() as tape:
        rows = log_likelihood_of(logits, tf.constant(KEY))
    scores = tape.gradient(rows, logits).numpy()
    deviation = scores.std(axis=0) / np.sqrt(SAMPLES)
    assert np.abs(scores.mean(axis=0) / deviation).max() < 4
    cross = scores[:, :-1] * scores[:, -1:]
    assert np.abs(cross.mean(axis=0) / cross.std(axis=0)).max() < 4 / np.sqrt(SAMPLES)


def test_the_key_decides_the_targets():
    outputs = tf.constant(twins.inputs(50, ACTIONS + 1))
    first, again, other = (
        log_likelihood_of(outputs, tf.constant(key, tf.int32))
        for key in ([3, 5], [3, 5], [3, 6])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("index", range(3))
def test_the_exact_fisher_is_the_hessian_of_the_kl(index):
    # The oracle itself, beside finite differences of the KL: F = ∂² KL at the old
    # weights, here along one direction in each layer.
    twin, x = shared_trunk(), np.float64(twins.inputs(2, 2))
    network = twin.network
    matrices = [layer.matrix for layer in network.layers]
    direction = np.random.default_rng(index).normal(size=matrices[index].shape)

    def kl(length: float) -> float:
        moved = list(matrices)
        moved[index] = moved[index] + length * direction
        new = forward(network.with_matrices(moved), x)[0]
        old = forward(network, x)[0]
        log_p, log_q = log_softmax(old[:, :-1]), log_softmax(new[:, :-1])
        policy = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        return float((policy + 0.5 * (old[:, -1] - new[:, -1]) ** 2).mean())

    step = 1e-3
    block = oracle.exact_block(network, x, oracle.actor_critic_fisher, index)
    curvature = (kl(step) + kl(-step)) / step**2
    expected = direction.ravel() @ block @ direction.ravel()
    np.testing.assert_allclose(curvature, expected, rtol=1e-4)
