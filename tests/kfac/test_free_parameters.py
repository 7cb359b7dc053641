"""The layer of free parameters, and its block, which is exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from acktr_tf.kfac import KFAC, CurvatureTape, FreeParameters

UNITS = 3
INITIAL = -0.4


def gaussian_model() -> keras.Model:
    """A mean that depends on the input, and a log deviation that does not."""
    inputs = keras.Input((2,))
    mean = keras.layers.Dense(UNITS, name="mean")(inputs)
    log_std = FreeParameters(
        UNITS, keras.initializers.Constant(INITIAL), name="log_std"
    )(inputs)
    return keras.Model(inputs, [mean, log_std])


def log_likelihood(model: keras.Model, inputs: tf.Tensor, noise: tf.Tensor):
    """Of `noise` as drawn from the model: `[N]`."""
    mean, log_std = model(inputs)
    target = tf.stop_gradient(mean + tf.exp(log_std) * noise)
    gaussian = tfp.distributions.MultivariateNormalDiag(mean, tf.exp(log_std))
    return gaussian.log_prob(target)


def block_after(model: keras.Model, inputs: tf.Tensor, noise: tf.Tensor):
    optimizer = KFAC()
    optimizer.attach(model)
    with CurvatureTape(optimizer.layers) as tape:
        likelihood = log_likelihood(model, inputs, noise)
    optimizer.update_factors(tape, likelihood)
    return next(b for b in optimizer.blocks if b.layer.name == "log_std")


def test_outputs_are_the_parameters_whatever_the_inputs() -> None:
    layer = FreeParameters(UNITS, keras.initializers.Constant(INITIAL))
    for shape in [(5, 2), (1, 4, 4, 3)]:
        outputs = layer(np.ones(shape, np.float32))
        np.testing.assert_allclose(outputs, np.full((shape[0], UNITS), INITIAL))
    layer.bias.assign([1.0, 2.0, 3.0])
    assert layer(np.zeros((2, 1))).numpy().tolist() == [[1.0, 2.0, 3.0]] * 2
    assert layer.compute_output_shape((None, 7)) == (None, UNITS)


def test_a_model_with_it_can_be_cloned() -> None:
    model = gaussian_model()
    clone = keras.models.clone_model(model)
    assert clone.get_layer("log_std").get_config() == (
        model.get_layer("log_std").get_config()
    )
    np.testing.assert_allclose(clone.get_layer("log_std").bias, [INITIAL] * UNITS)


def test_its_block_is_the_second_moment_of_its_own_gradient() -> None:
    """Of the same draws: nothing is factored, and nothing left out."""
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(size=(40, 2)), tf.float32)
    noise = tf.constant(random.normal(size=(40, UNITS)), tf.float32)
    model = gaussian_model()
    block = block_after(model, inputs, noise)
    bias = model.get_layer("log_std").bias
    rows = []
    for i in range(40):
        with tf.GradientTape() as tape:
            likelihood = log_likelihood(model, inputs[i : i + 1], noise[i : i + 1])
        rows.append(tape.gradient(likelihood, bias.value).numpy())
    expected = np.mean([np.outer(row, row) for row in rows], axis=0)
    np.testing.assert_allclose(block.to_dense(), expected, rtol=1e-4, atol=1e-5)


def test_the_fisher_matrix_of_a_log_deviation_is_twice_the_identity() -> None:
    """Its gradient is z² − 1 with z a standard normal, of variance 2.

    The mean over the 3³ points of a product of Gauss-Hermite rules, each repeated as
    often as its weight says (1, 4 and 1), is the expectation of polynomials up to the
    fifth degree in each variable.
    """
    points = np.repeat([-np.sqrt(3.0), 0.0, np.sqrt(3.0)], [1, 4, 1])
    noise = np.stack(np.meshgrid(points, points, points), axis=-1).reshape(-1, UNITS)
    inputs = tf.zeros([len(noise), 2])
    block = block_after(gaussian_model(), inputs, tf.constant(noise, tf.float32))
    np.testing.assert_allclose(block.to_dense(), 2.0 * np.eye(UNITS), atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_of_a_bias_alone_is_the_natural_gradient(compiled: bool) -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, FreeParameters(UNITS, name="free")(inputs))
    optimizer = KFAC(learning_rate=0.5, kl_radius=None, momentum=0.0, damping=1e-8)
    optimizer.attach(model)
    random = np.random.default_rng(1)
    gradients = random.normal(size=(50, UNITS)).astype(np.float32)
    weights = model.trainable_variables

    def step() -> None:
        with CurvatureTape(optimizer.layers) as tape:
            # Of which the gradient with respect to row i of the outputs is row i.
            likelihood = tf.reduce_sum(gradients * model(tf.zeros([50, 2])), axis=1)
        optimizer.update_curvature(tape, likelihood)
        optimizer.apply([tf.constant([1.0, -2.0, 0.5])], weights)

    (tf.function(step) if compiled else step)()
    fisher = gradients.astype(np.float64).T @ gradients / 50
    expected = -0.5 * np.linalg.solve(fisher, [1.0, -2.0, 0.5])
    np.testing.assert_allclose(weights[0], expected, rtol=1e-2)
