"""Blocks beside the exact Fisher matrix: equal where theory says so, and only there."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import kfac as oracle

from acktr_tf.kfac import KFAC
from acktr_tf.kfac.blocks.block import Block
from acktr_tf.kfac.blocks.registry import make_blocks
from acktr_tf.kfac.settings import KFACSettings
from kfac import twins

GAUSSIAN = (twins.update_exactly_gaussian, oracle.gaussian_fisher)
ACTOR_CRITIC = (twins.update_exactly_actor_critic, oracle.actor_critic_fisher)


def blocks(
    twin: twins.Twin, x: np.ndarray, likelihood, index: int, **arguments: str
) -> tuple[np.ndarray, np.ndarray]:
    """The package's block, and the exact one."""
    update, output_fisher = likelihood
    optimizer = KFAC(damping=1e-3, **arguments)
    optimizer.attach(twin.model)
    update(optimizer, twin, x)
    exact = oracle.exact_block(twin.network, np.float64(x), output_fisher, index)
    return twin.block(optimizer, index).to_dense().numpy(), exact


def relative_error(
    twin: twins.Twin, x: np.ndarray, likelihood, index: int, **arguments: str
) -> float:
    """Distance of the package's block from the exact one, relative to the latter."""
    return distance(*blocks(twin, x, likelihood, index, **arguments))


def relative_errors(twin: twins.Twin, x: np.ndarray, likelihood) -> list[float]:
    """Those of all blocks, after one update."""
    update, output_fisher = likelihood
    optimizer = KFAC(damping=1e-3)
    optimizer.attach(twin.model)
    update(optimizer, twin, x)
    return [
        distance(
            twin.block(optimizer, index).to_dense().numpy(),
            oracle.exact_block(twin.network, np.float64(x), output_fisher, index),
        )
        for index in range(len(twin.layers))
    ]


def distance(block: np.ndarray, exact: np.ndarray) -> float:
    """Relative to the exact one."""
    return float(np.linalg.norm(block - exact) / np.linalg.norm(exact))


def mlp(activation: str = "tanh", use_bias: bool = True) -> twins.Twin:
    return twins.Twin(
        (3,),
        [
            keras.layers.Dense(4, activation=activation, use_bias=use_bias),
            keras.layers.Dense(3, activation=activation, use_bias=use_bias),
        ],
        [keras.layers.Dense(3, use_bias=use_bias), keras.layers.Dense(1)],
    )


def cnn(kernel_size: int = 2, activation: str = "tanh") -> twins.Twin:
    return twins.Twin(
        (4, 4, 2),
        [keras.layers.Conv2D(3, kernel_size, activation=activation)],
        [keras.layers.Dense(2), keras.layers.Dense(1)],
    )


# Equal ----------------------------------------------------------------------------
@pytest.mark.parametrize("likelihood", [GAUSSIAN, ACTOR_CRITIC])
@pytest.mark.parametrize("use_bias", [False, True])
def test_dense_blocks_of_one_example_are_exact(likelihood, use_bias):
    # With one example ā is a constant, so E[āāᵀ ⊗ ggᵀ] = āāᵀ ⊗ E[ggᵀ].
    errors = relative_errors(mlp(use_bias=use_bias), twins.inputs(1, 3), likelihood)
    assert len(errors) == 4
    assert max(errors) < 1e-5


def test_dense_blocks_of_a_linear_network_with_squared_loss_are_exact():
    # g is a fixed linear map of the noise, the same whatever the inputs.
    errors = relative_errors(mlp(activation="linear"), twins.inputs(8, 3), GAUSSIAN)
    assert max(errors) < 1e-5


def test_heads_with_the_same_distribution_everywhere_have_exact_blocks():
    # Logits that do not depend on the state, as those of a policy at its start: g's
    # distribution is the same for every example.
    twin = twins.Twin((3,), [], [keras.layers.Dense(3), keras.layers.Dense(1)])
    twin.layers[0].kernel.assign(tf.zeros([3, 3]))
    assert max(relative_errors(twin, twins.inputs(8, 3), ACTOR_CRITIC)) < 1e-5


@pytest.mark.parametrize("likelihood", [GAUSSIAN, ACTOR_CRITIC])
def test_the_conv_block_of_one_example_and_one_position_is_exact(likelihood):
    twin = cnn(kernel_size=4)
    assert relative_error(twin, twins.inputs(1, 4, 4, 2), likelihood, 0) < 1e-5


def test_the_conv_block_of_a_linear_network_with_one_position_is_exact():
    twin = cnn(kernel_size=4, activation="linear")
    assert relative_error(twin, twins.inputs(8, 4, 4, 2), GAUSSIAN, 0) < 1e-5


def test_the_conv_block_is_exact_where_positions_do_not_share_and_are_alike():
    # KFC's assumptions hold: one example of the same patch at each position, and an
    # output for each position, so that gradients of two positions never meet.
    conv = keras.layers.Conv2D(1, 2, 2, use_bias=True)
    flat = keras.layers.Dense(4, use_bias=False)
    twin = twins.Twin((4, 4, 1), [conv], [flat])
    flat.kernel.assign(tf.eye(4))
    patch = twins.inputs(1, 2, 2, 1)
    assert relative_error(twin, np.tile(patch, (1, 2, 2, 1)), GAUSSIAN, 0) < 1e-5


def conv_of_alike_patches() -> tuple[twins.Twin, np.ndarray]:
    """A convolution that sees the same patch at each of its four positions."""
    twin = twins.Twin(
        (4, 4, 1), [keras.layers.Conv2D(2, 2, 2)], [keras.layers.Dense(2)]
    )
    return twin, np.tile(twins.inputs(1, 2, 2, 1), (1, 2, 2, 1))


def test_correlated_conv_blocks_are_exact_where_all_positions_want_the_same():
    twin, x = conv_of_alike_patches()
    dense = twin.layers[1]
    dense.kernel.assign(tf.tile(dense.kernel[:2], [4, 1]))  # A sum over positions.

    assert relative_error(twin, x, GAUSSIAN, 0, spatial_correlation="full") < 1e-5
    # KFC has a fourth of that: there are four positions.
    block, exact = blocks(twin, x, GAUSSIAN, 0, spatial_correlation="none")
    np.testing.assert_allclose(4 * block, exact, rtol=1e-4, atol=1e-5)


def test_correlated_conv_blocks_bound_the_exact_ones_where_kfc_does_not():
    twin, x = conv_of_alike_patches()

    def least_margin(positions: str) -> float:
        block, exact = blocks(twin, x, GAUSSIAN, 0, spatial_correlation=positions)
        margins = np.linalg.eigvalsh(block - exact)
        return float(margins[0] / np.linalg.norm(exact))

    assert least_margin("full") > -1e-6
    assert least_margin("none") < -0.1


# Not equal ------------------------------------------------------------------------
@pytest.mark.parametrize("likelihood", [GAUSSIAN, ACTOR_CRITIC])
def test_blocks_of_a_nonlinear_network_and_several_examples_are_approximate(likelihood):
    # g depends on the inputs through the activations' slopes.
    error = relative_error(mlp(), twins.inputs(8, 3), likelihood, 0)
    assert 0.01 < error < 1.0


def test_the_conv_block_with_several_positions_is_approximate():
    # The exact block has terms of pairs of positions, which KFC leaves out.
    error = relative_error(
        cnn(activation="linear"), twins.inputs(1, 4, 4, 2), GAUSSIAN, 0
    )
    assert 0.05 < error < 1.0


def test_blocks_of_a_trunk_and_a_head_are_not_independent():
    # What block-diagonal curvature leaves out, even where each block is exact.
    twin, x = mlp(), twins.inputs(1, 3)
    exact = oracle.exact_fisher(twin.network, np.float64(x), oracle.gaussian_fisher)
    first = twin.network.layers[0].matrix.size
    assert np.abs(exact[:first, first:]).max() > 0.01 * np.abs(exact).max()


# Approximate as the equations say -------------------------------------------------
@pytest.mark.parametrize("likelihood", [GAUSSIAN, ACTOR_CRITIC])
@pytest.mark.parametrize(
    ("make", "shape"), [(mlp, (5, 3)), (cnn, (5, 4, 4, 2))], ids=["mlp", "cnn"]
)
def test_factors_of_any_network_equal_the_float64_twin(make, shape, likelihood):
    update, output_fisher = likelihood
    twin, x = make(), twins.inputs(*shape)
    optimizer = KFAC()
    optimizer.attach(twin.model)

    update(optimizer, twin, x)

    for index in range(len(twin.layers)):
        expected = oracle.expected_factors(
            twin.network, np.float64(x), output_fisher, index
        )
        actual = twin.block(optimizer, index).factors()
        for factor, same in zip(actual, expected, strict=True):
            np.testing.assert_allclose(factor, same, rtol=1e-4, atol=1e-6)


# Algebra --------------------------------------------------------------------------
def updated_block(twin: twins.Twin, x: np.ndarray, index: int, damping: float):
    optimizer = KFAC(damping=damping)
    optimizer.attach(twin.model)
    twins.update_exactly_gaussian(optimizer, twin, x)
    return twin.block(optimizer, index)


@pytest.mark.parametrize(
    ("make", "shape"), [(mlp, (5, 3)), (cnn, (5, 4, 4, 2))], ids=["mlp", "cnn"]
)
def test_products_are_those_of_the_dense_matrices(make, shape):
    damping = 0.01
    block = updated_block(make(), twins.inputs(*shape), 0, damping)
    matrix = twins.inputs(block.num_inputs, block.num_outputs, seed=3)
    factors = [np.float64(factor) for factor in block.factors()]

    dense = np.kron(*factors)
    np.testing.assert_allclose(block.to_dense(), dense, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        block.multiply(tf.constant(matrix)),
        (dense @ matrix.ravel()).reshape(matrix.shape),
        rtol=1e-4,
        atol=1e-6,
    )
    damped = np.kron(*oracle.damped_factors(*factors, damping))
    np.testing.assert_allclose(
        block.multiply_inverse(tf.constant(matrix)),
        np.linalg.solve(damped, matrix.ravel()).reshape(matrix.shape),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("use_bias", [False, True])
def test_matrices_and_variables_are_the_same_numbers(use_bias):
    layer = keras.layers.Conv2D(3, (2, 1), use_bias=use_bias)
    model = keras.Sequential([keras.Input((4, 4, 2)), layer])
    optimizer = KFAC()
    optimizer.attach(model)
    (block,) = optimizer.blocks
    tensors = [tf.constant(twins.inputs(*v.shape)) for v in layer.weights]

    matrix = block.to_matrix(tensors)

    assert matrix.shape == (block.num_inputs, block.num_outputs) == (4 + use_bias, 3)
    if use_bias:
        np.testing.assert_array_equal(matrix[-1], tensors[1])
    for actual, same in zip(block.from_matrix(matrix), tensors, strict=True):
        np.testing.assert_array_equal(actual, same)


def invert(block: Block, damping: float) -> int:
    """Inverts the block's factors; returns how many factorizations failed."""
    a, g = (factor.numpy() for factor in block.factors())
    inversion = block.invert([a, g], damping)
    arrays = [tf.constant(array) for array in inversion.arrays]
    block.set_inverse(arrays, tf.constant(inversion.succeeded), tf.constant(0.0))
    return inversion.failures


# Faults ---------------------------------------------------------------------------
def poison(block: Block, factor: str, value: float) -> None:
    variable = twins.state_of(block, f"factor_{factor}")
    variable.assign(tf.fill(variable.shape, value))


@pytest.mark.parametrize("factor", ["a", "g"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_a_factor_that_cannot_be_inverted_leaves_both_inverses(factor, value):
    block = updated_block(mlp(), twins.inputs(5, 3), 0, 0.01)
    inverse = block.inverse
    before = inverse.arrays[0].numpy(), inverse.arrays[1].numpy()
    poison(block, factor, value)

    failures = invert(block, 0.01)

    assert failures >= 1
    np.testing.assert_array_equal(inverse.arrays[0], before[0])
    np.testing.assert_array_equal(inverse.arrays[1], before[1])


def test_without_an_inverse_ever_the_block_is_the_identity():
    twin = mlp()
    optimizer = KFAC()
    optimizer.attach(twin.model)
    block = optimizer.blocks[0]
    poison(block, "a", np.nan)
    invert(block, 0.01)
    matrix = tf.constant(twins.inputs(block.num_inputs, block.num_outputs))
    np.testing.assert_array_equal(block.multiply_inverse(matrix), matrix)


def test_no_information_at_all_is_damping_alone():
    # Zero factors, π = 1: the damped block is λI.
    twin = mlp()
    optimizer = KFAC(damping=0.25)
    optimizer.attach(twin.model)
    block = optimizer.blocks[0]
    assert invert(block, 0.25) == 0
    matrix = tf.constant(twins.inputs(block.num_inputs, block.num_outputs))
    np.testing.assert_allclose(block.multiply_inverse(matrix), matrix / 0.25, rtol=1e-5)


# What is supported ----------------------------------------------------------------
def attach(*layers: keras.layers.Layer, shape: tuple[int, ...]) -> KFAC:
    model = keras.Sequential([keras.Input(shape), *layers])
    # Some layers make weights only when they are called.
    model(tf.ones([1, *shape]))
    optimizer = KFAC()
    optimizer.attach(model)
    return optimizer


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            keras.layers.GroupNormalization(1, name="norm"),
            (3,),
            r"`norm` of type GroupNormalization .* Supported: Dense, Conv1D, Conv2D",
        ),
        (
            keras.layers.DepthwiseConv2D(2, name="depthwise"),
            (4, 4, 2),
            r"`depthwise` of type DepthwiseConv2D",
        ),
        (
            keras.layers.Conv2D(4, 2, groups=2, name="grouped"),
            (4, 4, 2),
            r"`grouped` of type Conv2D must have groups=1. Received: groups=2",
        ),
        (
            keras.layers.Dense(2, dtype="float64", name="double"),
            (3,),
            r"`double` must have float32 weights. Received: float64",
        ),
        (
            keras.layers.Dense(2, activation=keras.layers.PReLU(), name="learnt"),
            (3,),
            r"of one of the types Dense, .*, FreeParameters. Received: .*alpha",
        ),
    ],
    ids=["kind", "subclass", "groups", "dtype", "activation"],
)
def test_a_layer_that_is_not_supported_is_named(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        attach(layer, shape=shape)


def test_a_subclass_of_a_supported_layer_is_not_taken_for_it():
    class Doubled(keras.layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    with pytest.raises(ValueError, match=r"of type Doubled"):
        attach(Doubled(2), shape=(3,))


def test_weights_of_the_model_itself_are_refused():
    class WithScale(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.scale = self.add_weight(name="scale")

        def call(self, inputs):
            return self.scale * self.dense(inputs)

    model = WithScale()
    model(tf.ones([1, 3]))
    with pytest.raises(ValueError, match=r"Received: .*scale"):
        KFAC().attach(model)


def test_a_model_without_weights_yet_gets_its_blocks_when_it_has():
    model = keras.Sequential([keras.layers.Dense(2)])
    optimizer = KFAC()
    optimizer.attach(model)
    with pytest.raises(ValueError, match=r"has no curvature yet"):
        _ = optimizer.blocks
    model.build((None, 3))
    optimizer.build(model.trainable_variables)
    assert [block.num_inputs for block in optimizer.blocks] == [4]


def test_a_layer_that_is_not_trained_needs_no_support():
    frozen = keras.layers.LayerNormalization()
    frozen.trainable = False
    optimizer = attach(frozen, keras.layers.Dense(2, name="top"), shape=(3,))
    assert [layer.name for layer in optimizer.layers] == ["top"]


def test_layers_of_nested_models_have_one_block_each():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="inner")])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1, name="outer")(inner(inputs)))
    made = make_blocks(model, KFAC().add_variable, KFACSettings())
    assert [block.layer.name for block in made] == ["inner", "outer"]
