"""Conjugate gradients with the exact Fisher matrix, beside dense ones in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from gymnasium.spaces import Box, Discrete

from acktr_tf.algorithms.conjugate_gradient import (
    ConjugateGradient,
    conjugate_gradient,
    fisher_product,
)
from acktr_tf.algorithms.losses import policy_kl
from acktr_tf.algorithms.optimizers import make_kfac
from acktr_tf.algorithms.steppers import NaturalGradient
from acktr_tf.config import configure
from acktr_tf.config.first_order import LearningRateSettings
from acktr_tf.config.kfac import KFACSettings
from acktr_tf.policies.actor_critic import ActorCritic

tfd = tfp.distributions


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def unflat(vector, like):
    sizes = np.cumsum([np.size(part) for part in like])[:-1]
    return [
        tf.constant(piece.reshape(part.shape), part.dtype)
        for piece, part in zip(np.split(vector, sizes), like, strict=True)
    ]


def gaussian_matrix(parameters):
    """Fisher matrix of N(m, e^{2s}) in (m, s): diag(e^{-2s}, 2)."""
    _, log_std = np.split(parameters, 2)
    return np.diag(np.concatenate([np.exp(-2.0 * log_std), np.full(len(log_std), 2.0)]))


def categorical_matrix(logits):
    """Fisher matrix of a softmax in its logits: diag(p) − p pᵀ."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return np.diag(p) - np.outer(p, p)


def gaussian(parameters):
    mean, log_std = tf.split(parameters, 2, axis=-1)
    return tfd.MultivariateNormalDiag(mean, tf.exp(log_std))


def categorical(parameters):
    return tfd.Categorical(logits=parameters)


class Problem:
    """A small network in float64, its outputs' distribution, and its dense Fisher."""

    def __init__(self, distribution, matrix, layers, inputs):
        keras.utils.set_random_seed(3)
        self.network = keras.Sequential(
            [keras.Input(inputs.shape[1:], dtype="float64"), *layers]
        )
        self.inputs = tf.constant(inputs)
        self.distribution = distribution
        self._matrix = matrix

    @property
    def variables(self):
        return self.network.trainable_variables

    def divergence(self, old, new):
        kl = self.distribution(old).kl_divergence(self.distribution(new))
        return tf.reduce_mean(kl)

    def fisher(self):
        """E[Jᵀ M J], with the Jacobian of each example by itself."""
        total = 0.0
        for row in self.inputs:
            with tf.GradientTape(persistent=True) as tape:
                outputs = self.network(row[tf.newaxis])[0]
            jacobian = np.concatenate(
                [
                    np.reshape(part, (outputs.shape[0], -1))
                    for part in tape.jacobian(
                        # One by one: to trace a vectorized one takes a second.
                        outputs,
                        self.variables,
                        experimental_use_pfor=False,
                    )
                ],
                axis=1,
            )
            total = total + jacobian.T @ self._matrix(outputs.numpy()) @ jacobian
        return total / len(self.inputs)


def dense(units, activation=None):
    return keras.layers.Dense(
        units, activation, dtype="float64", bias_initializer="normal"
    )


def problem(kind):
    random = np.random.default_rng(0)
    if kind == "convolution":
        layers = [
            keras.layers.Conv2D(2, 2, activation="tanh", dtype="float64"),
            keras.layers.Flatten(dtype="float64"),
            dense(3),
        ]
        inputs = random.normal(size=(5, 4, 4, 1))
        return Problem(categorical, categorical_matrix, layers, inputs)
    layers = [dense(5, "tanh"), dense(4)]
    inputs = random.normal(size=(7, 3))
    if kind == "gaussian":
        return Problem(gaussian, gaussian_matrix, layers, inputs)
    return Problem(categorical, categorical_matrix, layers, inputs)


KINDS = ["gaussian", "categorical", "convolution"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_product_is_that_of_the_dense_fisher_matrix(kind):
    p = problem(kind)
    fisher = p.fisher()
    vector = np.random.default_rng(1).normal(size=len(fisher))
    product = fisher_product(p.variables, p.network, p.divergence, p.inputs)
    found = flat(tf.function(product)(unflat(vector, p.variables)))
    np.testing.assert_allclose(found, fisher @ vector, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_that_of_a_dense_solve(kind):
    p = problem(kind)
    fisher = p.fisher()
    gradient = np.random.default_rng(2).normal(size=len(fisher))
    damping, radius = 0.05, 1e-3
    stepper = ConjugateGradient(
        p.variables,
        p.network,
        p.divergence,
        kl_radius=radius,
        learning_rate=1e3,
        damping=damping,
        max_iterations=500,
        tolerance=1e-13,
    )
    before = flat(p.variables)
    stepper.update_curvature(p.inputs, tf.constant([1, 2]))
    stepper.update_inverses()
    stepper.step(unflat(gradient, p.variables))
    direction = np.linalg.solve(fisher + damping * np.eye(len(fisher)), gradient)
    eta = np.sqrt(2.0 * radius / (direction @ fisher @ direction))
    np.testing.assert_allclose(
        before - flat(p.variables), eta * direction, rtol=1e-8, atol=1e-11
    )
    scalars = {name: float(value) for name, value in stepper.describe().items()}
    assert scalars["predicted_kl"] == pytest.approx(radius, rel=1e-6)
    assert scalars["trust_region_scale"] == pytest.approx(eta / 1e3, rel=1e-6)
    assert 1 < scalars["cg_iterations"] < 500
    assert scalars["cg_residual"] < 1e-12
    assert int(stepper.iterations) == 1


def test_a_step_in_the_radius_has_the_learning_rate():
    p = problem("gaussian")
    gradient = 1e-3 * np.random.default_rng(2).normal(size=len(flat(p.variables)))
    for radius in (None, 1e6):
        before = flat(p.variables)
        stepper = ConjugateGradient(
            p.variables,
            p.network,
            p.divergence,
            kl_radius=radius,
            learning_rate=0.1,
            damping=0.5,
            max_iterations=200,
            tolerance=1e-13,
        )
        fisher = p.fisher()
        stepper.update_curvature(p.inputs, tf.constant([1, 2]))
        stepper.step(unflat(gradient, p.variables))
        direction = np.linalg.solve(fisher + 0.5 * np.eye(len(fisher)), gradient)
        moved = before - flat(p.variables)
        np.testing.assert_allclose(moved, 0.1 * direction, rtol=1e-8, atol=1e-13)
        assert float(stepper.describe()["trust_region_scale"]) == pytest.approx(1.0)


def test_the_predicted_kl_is_the_exact_one_of_a_small_step():
    p = problem("categorical")
    gradient = np.random.default_rng(2).normal(size=len(flat(p.variables)))
    stepper = ConjugateGradient(
        p.variables, p.network, p.divergence, kl_radius=1e-6, learning_rate=1e6
    )
    old = p.network(p.inputs)
    stepper.update_curvature(p.inputs, tf.constant([1, 2]))
    stepper.step(unflat(gradient, p.variables))
    exact = float(p.divergence(old, p.network(p.inputs)))
    assert exact == pytest.approx(1e-6, rel=0.01)
    assert float(stepper.describe()["predicted_kl"]) == pytest.approx(1e-6, rel=1e-5)


def test_few_iterations_leave_a_residual_and_say_so():
    p = problem("gaussian")
    gradient = np.random.default_rng(2).normal(size=len(flat(p.variables)))
    stepper = ConjugateGradient(
        p.variables, p.network, p.divergence, max_iterations=2, damping=1e-4
    )
    stepper.update_curvature(p.inputs, tf.constant([1, 2]))
    stepper.step(unflat(gradient, p.variables))
    assert float(stepper.describe()["cg_iterations"]) == 2
    assert float(stepper.describe()["cg_residual"]) > 1e-3


def test_a_step_is_taken_back_in_part():
    p = problem("gaussian")
    gradient = np.random.default_rng(2).normal(size=len(flat(p.variables)))
    stepper = ConjugateGradient(
        p.variables, p.network, p.divergence, kl_radius=0.01, learning_rate=1e3
    )
    before = flat(p.variables)
    stepper.update_curvature(p.inputs, tf.constant([1, 2]))
    stepper.step(unflat(gradient, p.variables))
    whole = flat(p.variables) - before
    for factor in (0.5, 0.1):
        stepper.backtrack(tf.constant(factor))
    np.testing.assert_allclose(
        flat(p.variables) - before, 0.05 * whole, rtol=1e-6, atol=1e-12
    )
    assert float(stepper.describe()["predicted_kl"]) == pytest.approx(0.01 * 0.05**2)


def test_a_gradient_of_zero_takes_no_step():
    p = problem("gaussian")
    before = flat(p.variables)
    stepper = ConjugateGradient(p.variables, p.network, p.divergence)
    stepper.update_curvature(p.inputs, tf.constant([1, 2]))
    stepper.step([tf.zeros_like(v.value) for v in p.variables])
    np.testing.assert_array_equal(flat(p.variables), before)
    assert float(stepper.describe()["cg_iterations"]) == 0


def test_a_step_without_curvature_is_refused():
    p = problem("gaussian")
    stepper = ConjugateGradient(p.variables, p.network, p.divergence)
    with pytest.raises(ValueError, match="Call `update_curvature` before `step`"):
        stepper.step([tf.zeros_like(v.value) for v in p.variables])


def test_a_good_preconditioner_needs_fewer_products():
    random = np.random.default_rng(0)
    size = 30
    rotation, _ = np.linalg.qr(random.normal(size=(size, size)))
    matrix = rotation @ np.diag(np.geomspace(1e-4, 1.0, size)) @ rotation.T
    target = random.normal(size=size)
    noisy = np.linalg.inv(matrix + 1e-6 * np.eye(size))

    def product(m):
        return lambda vector: [tf.linalg.matvec(tf.constant(m), vector[0])]

    counts = {}
    for name, preconditioner in [("none", np.eye(size)), ("near", noisy)]:
        x, count, residual = conjugate_gradient(
            product(matrix), [tf.constant(target)], 500, 1e-9, product(preconditioner)
        )
        np.testing.assert_allclose(x[0], np.linalg.solve(matrix, target), rtol=1e-4)
        assert float(residual) <= 1e-9
        counts[name] = int(count)
    assert counts["near"] < 0.2 * counts["none"]


# With a policy ------------------------------------------------------------------------
def policy_and_preconditioner(action_space):
    settings = configure(hidden_size=8, network="mlp").policy
    policy = ActorCritic(settings, Box(-1, 1, (4,), np.float32), action_space, seed=0)

    def log_likelihood(rows, key):
        distribution = policy.distribution(policy(rows))
        action = tf.stop_gradient(distribution.sample(seed=key))
        return distribution.log_prob(action)

    kfac = make_kfac(
        KFACSettings(damping=0.01), LearningRateSettings(1.0), 10, policy.policy_network
    )
    return policy, NaturalGradient(kfac, log_likelihood, 1.0)


@pytest.mark.parametrize("space", [Discrete(3), Box(-1, 1, (2,), np.float32)])
def test_kfac_as_the_preconditioner_gives_the_same_step_sooner(space):
    random = np.random.default_rng(0)
    observation = tf.constant(random.normal(size=(200, 4)), tf.float32)
    results = {}
    for name in ("none", "kfac"):
        policy, kfac = policy_and_preconditioner(space)
        variables = kfac.variables
        gradients = [
            tf.constant(np.random.default_rng(1).normal(size=v.shape), tf.float32)
            for v in variables
        ]
        stepper = ConjugateGradient(
            variables,
            policy,
            lambda *outputs, policy=policy: policy_kl(
                *map(policy.distribution, outputs)
            ),
            kl_radius=0.01,
            learning_rate=1e3,
            damping=0.01,
            max_iterations=100,
            tolerance=1e-3,
            preconditioner=kfac if name == "kfac" else None,
        )
        before = flat(variables)
        stepper.update_curvature(observation, tf.constant([1, 2]))
        stepper.update_inverses()
        stepper.step(gradients)
        results[name] = (
            flat(variables) - before,
            float(stepper.describe()["cg_iterations"]),
        )
    plain, conditioned = results["none"], results["kfac"]
    cosine = plain[0] @ conditioned[0]
    cosine /= np.linalg.norm(plain[0]) * np.linalg.norm(conditioned[0])
    assert cosine > 0.999
    assert conditioned[1] < plain[1]


def test_state_goes_into_another_stepper():
    p = problem("gaussian")
    gradient = np.random.default_rng(2).normal(size=len(flat(p.variables)))
    first, second = (
        ConjugateGradient(p.variables, p.network, p.divergence) for _ in range(2)
    )
    first.update_curvature(p.inputs, tf.constant([1, 2]))
    first.step(unflat(gradient, p.variables))
    second.load_state(first.state())
    assert int(second.iterations) == 1
    assert float(second.describe()["predicted_kl"]) == pytest.approx(
        float(first.describe()["predicted_kl"])
    )
    before = flat(p.variables)
    second.backtrack(tf.constant(0.5))
    assert not np.allclose(flat(p.variables), before, atol=0)
