"""The layer that the documentation writes: its block is exact, and it learns."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from paths import REPOSITORY

from acktr_tf import kfac
from acktr_tf.kfac.blocks import registry

PAGE = (REPOSITORY / "docs" / "your_own_layer.md").read_text("utf-8")


@pytest.fixture(scope="module")
def names():
    """The names that the program of the page defines, once it has run."""
    match = re.search(r"<!-- program -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert match
    before = dict(registry._RULES)
    found = {}
    try:
        exec(compile(match[1], "docs/your_own_layer.md", "exec"), found)
        yield found
    finally:
        registry._RULES.clear()
        registry._RULES.update(before)


def test_the_program_of_the_page_learns(names):
    _, accuracy = names["model"].evaluate(names["x"], names["y"], verbose=0)
    assert accuracy > 0.9
    blocks = names["model"].optimizer.blocks
    assert [type(block).__name__ for block in blocks] == ["KroneckerBlock"] * 2


def exact_fisher(model, x, variables):
    """Σ_y p(y) ∇log p(y) ∇log p(y)ᵀ of one example, of weights side by side."""
    with tf.GradientTape() as tape:
        log_p = tf.nn.log_softmax(model(x))[0]
    jacobian = np.concatenate(
        [
            np.reshape(part, (len(log_p), -1)).astype(np.float64)
            for part in tape.jacobian(log_p, variables)
        ],
        axis=1,
    )
    return np.einsum("y,yi,yj->ij", np.exp(np.float64(log_p)), jacobian, jacobian)


def test_its_block_is_the_exact_fisher_matrix_of_one_example(names):
    keras.utils.set_random_seed(1)
    equalized = names["EqualizedDense"]
    model = keras.Sequential([keras.Input((4,)), equalized(5), equalized(3)])
    x = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    optimizer = kfac.KFAC(factor_decay=0.0)
    optimizer.attach(model)
    with optimizer.curvature_tape() as tape:
        # Every target once, weighted so that the mean is the expectation.
        log_p = tf.nn.log_softmax(model(np.repeat(x, 3, axis=0)))
        p = tf.stop_gradient(tf.exp(log_p[0]))
        log_likelihood = tf.sqrt(3.0 * p) * tf.linalg.diag_part(log_p)
    optimizer.update_curvature(tape, log_likelihood)
    for block, layer in zip(optimizer.blocks, model.layers, strict=True):
        expected = exact_fisher(model, x, [layer.kernel, layer.bias])
        np.testing.assert_allclose(block.to_dense(), expected, rtol=1e-4, atol=1e-6)
        assert np.abs(expected).max() > 1e-3


def test_a_wrong_rule_gives_another_matrix(names):
    """Without the scale the block is not the Fisher matrix: the test can fail."""
    signals = names["equalized_signals"]

    class Unscaled(names["EqualizedDense"]):
        pass

    def unscaled(layer, call, gradients):
        found = signals(layer, call, gradients)
        return found._replace(a=found.a / layer.scale)

    kfac.register_layer(Unscaled, kfac.LayerRule(unscaled))
    model = keras.Sequential([keras.Input((4,)), Unscaled(3)])
    x = np.ones((1, 4), np.float32)
    optimizer = kfac.KFAC(factor_decay=0.0)
    optimizer.attach(model)
    with optimizer.curvature_tape() as tape:
        log_p = tf.nn.log_softmax(model(np.repeat(x, 3, axis=0)))
        p = tf.stop_gradient(tf.exp(log_p[0]))
        log_likelihood = tf.sqrt(3.0 * p) * tf.linalg.diag_part(log_p)
    optimizer.update_curvature(tape, log_likelihood)
    layer = model.layers[0]
    expected = exact_fisher(model, x, [layer.kernel, layer.bias])
    assert not np.allclose(optimizer.blocks[0].to_dense(), expected, rtol=0.1)
