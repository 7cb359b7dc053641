"""Factors of which only the diagonal is kept, because they are wide."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import kfac as oracle

from acktr_tf.kfac import KFAC
from acktr_tf.kfac.blocks.kronecker import KroneckerBlock
from acktr_tf.kfac.memory import estimate_memory
from kfac import twins

# Layer, shape of an input, whether A and G are wide at a limit of 5: n, m beside it.
CASES = {
    "inputs and bias, 7 and 3": (lambda: keras.layers.Dense(3), (6,), (True, False)),
    "inputs, 6 and 3": (
        lambda: keras.layers.Dense(3, use_bias=False),
        (6,),
        (True, False),
    ),
    "inputs of a sequence, 7 and 2": (
        lambda: keras.layers.Dense(2, activation="tanh"),
        (3, 6),
        (True, False),
    ),
    "outputs, 4 and 6": (lambda: keras.layers.Dense(6), (3,), (False, True)),
    "both, 7 and 6": (lambda: keras.layers.Dense(6), (2, 6), (True, True)),
    # Its patches overlap: without the limit they would not be made.
    "patches, 9 and 2": (
        lambda: keras.layers.Conv2D(2, 2, activation="tanh"),
        (4, 5, 2),
        (True, False),
    ),
    "filters, 5 and 7": (
        lambda: keras.layers.Conv1D(7, 2, activation="tanh"),
        (4, 2),
        (False, True),
    ),
    "scale and offset, 1 and 8": (
        lambda: keras.layers.LayerNormalization(),
        (3, 4),
        (False, True),
    ),
}
LIMIT = 5
# Of which inverses that are no product of the factors' inverses are made.
SIDES = [
    "inputs and bias, 7 and 3",
    "inputs of a sequence, 7 and 2",
    "outputs, 4 and 6",
    "both, 7 and 6",
]
EXAMPLES = 6


def attached(case: str, **settings) -> tuple[keras.Model, KFAC, KroneckerBlock]:
    make, shape, _ = CASES[case]
    model = keras.Sequential([keras.Input(shape), make(), keras.layers.Flatten()])
    twins.randomize(model)
    optimizer = KFAC(**{"max_factor_dim": LIMIT, **settings})
    optimizer.attach(model)
    (block,) = optimizer.blocks
    assert isinstance(block, KroneckerBlock)
    return model, optimizer, block


def update_factors(optimizer: KFAC, model: keras.Model, x: np.ndarray) -> None:
    with optimizer.curvature_tape() as tape:
        outputs = tf.nest.flatten(model(x))
        log_likelihood = twins.wavy_log_likelihood(outputs)
    optimizer.update_factors(tape, log_likelihood)


def inputs(case: str, seed: int = 1) -> np.ndarray:
    # Of unequal size, so that no diagonal is a multiple of the identity.
    x = twins.inputs(EXAMPLES, *CASES[case][1], seed=seed)
    return x * np.linspace(0.5, 2.0, x.shape[-1], dtype=np.float32)


@functools.cache
def whole_factors(case: str) -> tuple[np.ndarray, np.ndarray]:
    """A and G with nothing left out, of a block that has no limit."""
    model, optimizer, block = attached(case, max_factor_dim=None)
    update_factors(optimizer, model, inputs(case))
    a, g = (np.float64(factor) for factor in block.factors())
    assert a.shape == (block.num_inputs,) * 2
    assert g.shape == (block.num_outputs,) * 2
    return a, g


def dense_with_diagonals(case: str) -> tuple[np.ndarray, np.ndarray]:
    """A and G as matrices, those that are wide without what is off the diagonal."""
    a, g = (
        np.diag(np.diag(factor)) if wide else factor
        for factor, wide in zip(whole_factors(case), CASES[case][2], strict=True)
    )
    return a, g


@pytest.mark.parametrize("case", CASES)
def test_a_wide_factor_is_the_diagonal_of_the_whole_one_and_so_is_the_block(case):
    damping, wide_sides = 0.04, CASES[case][2]
    model, optimizer, block = attached(case, damping=damping)

    update_factors(optimizer, model, inputs(case))
    optimizer.update_inverses()

    names = [name for name, wide in zip("AG", wide_sides, strict=True) if wide]
    assert list(block.narrowed) == names
    whole, dense = whole_factors(case), dense_with_diagonals(case)
    for factor, all_of_it, expected, wide in zip(
        block.factors(), whole, dense, wide_sides, strict=True
    ):
        assert len(factor.shape) == (1 if wide else 2)
        assert not wide or np.abs(all_of_it - expected).max() > 1e-3
        twins.assert_close(factor, np.diag(expected) if wide else expected, 1e-5)
    fisher = np.kron(*dense)
    twins.assert_close(block.to_dense(), fisher, 1e-5)
    matrix = twins.inputs(*map(len, dense), seed=5)
    product = (fisher @ np.float64(matrix).ravel()).reshape(matrix.shape)
    twins.assert_close(block.multiply(tf.constant(matrix)), product, 1e-5)
    # π is that of the whole factors, which have the same traces.
    assert oracle.pi(*dense) == pytest.approx(oracle.pi(*whole))
    damped_a, damped_g = oracle.damped_factors(*dense, damping)
    expected = np.linalg.solve(damped_a, np.float64(matrix)) @ np.linalg.inv(damped_g)
    twins.assert_close(block.multiply_inverse(tf.constant(matrix)), expected, 1e-4)
    condition = np.linalg.cond(damped_a) * np.linalg.cond(damped_g)
    found = block.condition_number(tf.constant(damping))
    np.testing.assert_allclose(found, condition, rtol=1e-3)


def test_the_diagonal_is_the_second_moment_of_each_input_and_of_the_bias():
    model, optimizer, block = attached(SIDES[0])
    x = inputs(SIDES[0])
    update_factors(optimizer, model, x)
    expected = [*(np.float64(x) ** 2).mean(axis=0), 1.0]
    twins.assert_close(block.factors().a, expected, 1e-6)


@pytest.mark.parametrize("case", SIDES)
def test_eigen_inverts_the_damped_block_with_that_side_diagonal(case):
    damping = 0.04
    model, optimizer, block = attached(case, damping=damping, inverse="eigen")
    update_factors(optimizer, model, inputs(case))
    optimizer.update_inverses()
    a, g = dense_with_diagonals(case)
    matrix = twins.inputs(len(a), len(g), seed=5)
    twins.assert_close(
        block.multiply_inverse(tf.constant(matrix)),
        oracle.damped_solution(np.kron(a, g), damping, matrix),
        1e-4,
    )


@pytest.mark.parametrize("case", SIDES)
def test_the_spectrum_of_ekfac_is_that_of_gradients_in_the_axes_of_that_side(case):
    damping = 0.1
    model, optimizer, block = attached(
        case, damping=damping, inverse="ekfac", factor_decay=0.0
    )
    update_factors(optimizer, model, inputs(case))
    optimizer.update_inverses()
    x = inputs(case, seed=2)

    update_factors(optimizer, model, x)

    q_a, q_g = (
        np.eye(size) if q is None else np.float64(q.value)
        for q, size in zip(
            block.inverse.vectors, (block.num_inputs, block.num_outputs), strict=True
        )
    )
    for q, wide in zip((q_a, q_g), CASES[case][2], strict=True):
        assert not wide or np.array_equal(q, np.eye(len(q)))
    exact = twins.per_example_gradients(model, x, twins.wavy_log_likelihood)
    gradients = twins.block_gradients(block, model, exact)
    spectrum = oracle.spectrum(gradients, q_a, q_g)
    twins.assert_close(block.inverse.spectrum(), spectrum, 3e-5)
    matrix = twins.inputs(*spectrum.shape, seed=9)
    twins.assert_close(
        block.multiply_inverse(tf.constant(matrix)),
        oracle.damped_solution(
            oracle.with_spectrum(spectrum, q_a, q_g), damping, matrix
        ),
        1e-4,
    )


def test_a_factor_as_wide_as_the_limit_is_whole():
    _, _, block = attached("inputs, 6 and 3", max_factor_dim=6)
    assert not block.narrowed
    assert [len(factor.shape) for factor in block.factors()] == [2, 2]


def test_an_embedding_is_not_said_to_be_narrowed():
    layer = keras.layers.Embedding(9, 3, name="words")
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layer])
    optimizer = KFAC(max_factor_dim=4)
    optimizer.attach(model)
    assert optimizer.blocks[0].narrowed == {}
    assert estimate_memory(model, optimizer.settings).diagonals == {}


def test_by_default_no_square_of_a_wide_layer_is_ever_made():
    n, m = 9000, 8193
    model = keras.Sequential([keras.Input((n,)), keras.layers.Dense(2, name="in")])
    model.add(keras.layers.Dense(m, name="out"))
    optimizer = KFAC()
    optimizer.attach(model)
    assert max(math.prod(v.shape) for v in optimizer.variables) == n * 2

    @tf.function(input_signature=[tf.TensorSpec([4, n])], autograph=False)
    def update(x):
        update_factors(optimizer, model, x)

    operations = update.get_concrete_function().graph.get_operations()
    sizes = [
        output.shape.num_elements()
        for operation in operations
        for output in operation.outputs
        if output.shape.is_fully_defined()
    ]
    assert max(sizes) == 4 * n


def test_a_diagonal_takes_its_turn_at_the_cost_of_a_diagonal():
    _, _, block = attached("inputs and bias, 7 and 3")
    assert block.inversion_cost == 7 + 3**3
