"""What an optimizer says of its last step, against NumPy in float64."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.kfac import KFAC, control
from kfac import twins


def stepped(
    steps: int = 5, after: Callable[[KFAC], None] = lambda optimizer: None, **arguments
) -> tuple[KFAC, list[list[np.ndarray]]]:
    """An optimizer after some steps, and the last gradients and steps.

    `after` is called after each step.
    """
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="first"),
            keras.layers.Dense(2, name="last"),
        ],
        name="net",
    )
    optimizer = KFAC(
        **{
            "damping": 0.01,
            "inverse_update_period": 3,
            "stagger_inverses": False,
            **arguments,
        }
    )
    optimizer.attach(model)
    weights = model.trainable_variables
    for number in range(steps):
        x = tf.constant(twins.inputs(16, 4, seed=number))
        with optimizer.curvature_tape() as tape:
            likelihood = tf.reduce_sum(model(x) * tf.sign(x[:, :2]), axis=1)
        optimizer.update_curvature(tape, likelihood)
        gradients = [twins.inputs(*w.shape, seed=number) for w in weights]
        before = [w.numpy() for w in weights]
        optimizer.apply([tf.constant(g) for g in gradients], weights)
        steps_taken = [b - w.numpy() for b, w in zip(before, weights, strict=True)]
        after(optimizer)
    return optimizer, [gradients, steps_taken]


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.float64(array).ravel() for array in arrays])


def test_norms_and_the_cosine_are_those_of_the_step_taken():
    optimizer, (gradients, steps) = stepped()
    found = optimizer.diagnostics()
    g, v = flat(gradients), flat(steps)
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(g), rtol=1e-5)
    np.testing.assert_allclose(found["step_norm"], np.linalg.norm(v), rtol=1e-3)
    cosine = g @ v / np.linalg.norm(g) / np.linalg.norm(v)
    np.testing.assert_allclose(found["cosine"], cosine, rtol=1e-3)


def test_the_predicted_kl_is_that_of_the_blocks():
    optimizer, (_, steps) = stepped()
    expected = 0.0
    for number, block in enumerate(optimizer.blocks):
        kernel, bias = steps[2 * number : 2 * number + 2]
        v = np.concatenate([kernel, bias[np.newaxis]]).ravel()
        expected += 0.5 * v @ np.float64(block.to_dense()) @ v
    np.testing.assert_allclose(
        optimizer.diagnostics()["predicted_kl"], expected, rtol=1e-3
    )


def test_the_age_is_that_of_the_oldest_inverse():
    ages = []
    stepped(8, lambda optimizer: ages.append(optimizer.diagnostics()["inverse_age"]))
    # Made at updates 0, 1, 2, then 3, 6, ...
    assert [float(age) for age in ages] == [0, 0, 0, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("inverse", ["cholesky", "eigen", "ekfac"])
def test_condition_numbers_are_those_of_the_damped_blocks(inverse):
    optimizer, _ = stepped(inverse=inverse)
    found = optimizer.diagnostics()
    for block in optimizer.blocks:
        a, g = (np.float64(factor) for factor in block.factors())
        pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
        np.testing.assert_allclose(found[f"pi/{block.layer.path}"], pi, rtol=1e-4)
        if inverse == "cholesky":
            damped = [a + pi * 0.1 * np.eye(len(a)), g + 0.1 / pi * np.eye(len(g))]
            expected = np.prod([np.linalg.cond(factor) for factor in damped])
        elif inverse == "eigen":
            dense = np.kron(a, g)
            expected = np.linalg.cond(dense + 0.01 * np.eye(len(dense)))
        else:
            spectrum = np.float64(block.inverse.eigenvalues()) + 0.01
            expected = spectrum.max() / spectrum.min()
        np.testing.assert_allclose(
            found[f"condition/{block.layer.path}"], expected, rtol=1e-2
        )


def test_all_of_it_is_scalars_also_in_a_graph():
    optimizer, _ = stepped()
    eager = optimizer.diagnostics()
    graph = tf.function(optimizer.diagnostics)()
    assert eager.keys() == graph.keys()
    for name, value in graph.items():
        assert value.shape == (), name
        np.testing.assert_allclose(value, eager[name], rtol=1e-5)


def test_a_step_not_taken_has_no_length():
    optimizer, _ = stepped()
    weights = optimizer.curvature.variables
    optimizer.apply([tf.fill(w.shape, np.float32("nan")) for w in weights], weights)
    found = optimizer.diagnostics()
    assert float(found["step_norm"]) == 0.0
    assert float(found["cosine"]) == 0.0
    assert int(found["skipped_steps"]) == 1
    assert all(np.isfinite(float(value)) for value in found.values())


def test_statistics_that_are_not_finite_are_counted_by_layer():
    optimizer, _ = stepped()
    before = int(optimizer.rejected_statistics)
    model = keras.Sequential([keras.Input((4,)), *optimizer.layers])
    for bad in (1.0, np.nan, np.inf):
        x = twins.inputs(16, 4)
        x[0, 0] = bad
        with optimizer.curvature_tape() as tape:
            likelihood = tf.reduce_sum(model(tf.constant(x)), axis=1)
        optimizer.update_curvature(tape, likelihood)
    # tanh of infinity is one, with a slope of zero: the last layer sees nothing bad.
    assert before == 0
    assert int(optimizer.rejected_statistics) == 2 + 1


def test_accumulated_gradients_have_diagnostics_too():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = KFAC(gradient_accumulation_steps=2)
    optimizer.attach(model)
    weights = model.trainable_variables
    for number in range(3):
        optimizer.apply([tf.ones_like(w) for w in weights], weights)
        control.adapt_radius(optimizer, tf.constant(0.001), 0.001)
        assert int(optimizer.step_number) == number + 1
    assert float(optimizer.diagnostics()["inverse_age"]) == 2.0
