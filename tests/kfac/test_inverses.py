"""Inverses beside dense solutions in float64, and EKFAC's spectrum."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import kfac as oracle

from acktr_tf.kfac import KFAC
from acktr_tf.kfac.blocks.block import Block
from acktr_tf.kfac.inverses import (
    INVERSES,
    BlockInverse,
    CholeskyInverse,
    EigenInverse,
    EKFACInverse,
)
from acktr_tf.kfac.statistics.factors import Factors
from acktr_tf.kfac.statistics.signals import Signals
from kfac import twins
from kfac.pairwise import pairwise

DENSE, DIAGONAL = 2, 1
"""Axes of a factor."""
SIDES = [(DENSE, DENSE), (DIAGONAL, DENSE), (DENSE, DIAGONAL)]
SIDES_IDS = ["dense", "embedding", "diagonal"]


def add_array(name: str, shape: tuple[int, ...], initializer: str) -> keras.Variable:
    return keras.Variable(
        shape=shape, initializer=initializer, dtype="float32", name=name
    )


def make(kind: type[BlockInverse], sides: tuple[int, int], n=4, m=3):
    return kind((n,) * sides[0], (m,) * sides[1], add_array)


def factor(side: int, size: int, seed: int) -> np.ndarray:
    """One with eigenvalues between 0.1 and 2, which float32 inverts well."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.1, 2.0, size)
    if side == DIAGONAL:
        return np.float32(values)
    q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return np.float32(q * values @ q.T)


def dense(value: np.ndarray) -> np.ndarray:
    return np.diag(np.float64(value)) if value.ndim == 1 else np.float64(value)


def invert(inverse: BlockInverse, a: np.ndarray, g: np.ndarray, damping: float) -> int:
    arrays, succeeded, failures = inverse.invert(a, g, damping)
    inverse.set_inverse(
        [tf.constant(array) for array in arrays], tf.constant(succeeded)
    )
    return failures


def solved(kind: type[BlockInverse], sides, damping: float, seed: int = 0):
    """An inverse of random factors, these, a matrix, and the inverse times it."""
    inverse = make(kind, sides)
    a, g = factor(sides[0], 4, seed), factor(sides[1], 3, seed + 1)
    assert invert(inverse, a, g, damping) == 0
    matrix = twins.inputs(4, 3, seed=seed + 2)
    return a, g, matrix, inverse.multiply(tf.constant(matrix)).numpy()


def bases(inverse: EigenInverse) -> tuple[np.ndarray, np.ndarray]:
    """Q_A and Q_G in float64; of a diagonal side the axes."""
    q_a, q_g = (
        np.eye(values.shape[0]) if q is None else np.float64(q.value)
        for q, values in zip(inverse.vectors, inverse.values, strict=True)
    )
    return q_a, q_g


# Exact damping --------------------------------------------------------------------
@pytest.mark.parametrize("sides", SIDES, ids=SIDES_IDS)
@pytest.mark.parametrize("damping", [1e-2, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_eigen_solves_the_block_with_damping_on_its_diagonal(sides, damping, seed):
    a, g, matrix, product = solved(EigenInverse, sides, damping, seed)
    expected = oracle.damped_solution(np.kron(dense(a), dense(g)), damping, matrix)
    twins.assert_close(product, expected, 1e-5)


@pytest.mark.parametrize("sides", SIDES, ids=SIDES_IDS)
def test_cholesky_solves_the_block_with_damping_in_each_factor(sides):
    a, g, matrix, product = solved(CholeskyInverse, sides, 0.1)
    damped = np.kron(*oracle.damped_factors(dense(a), dense(g), 0.1))
    twins.assert_close(product, oracle.damped_solution(damped, 0.0, matrix), 1e-5)


@pytest.mark.parametrize("sides", SIDES, ids=SIDES_IDS)
def test_damping_in_the_factors_has_cross_terms_which_vanish_with_it(sides):
    # (A + π√λ I) ⊗ (G + √λ/π I) is A ⊗ G + λI and √λ (π I ⊗ G + A ⊗ I / π).
    def distance(damping: float) -> float:
        eigen = solved(EigenInverse, sides, damping)[-1]
        cholesky = solved(CholeskyInverse, sides, damping)[-1]
        return float(np.linalg.norm(cholesky - eigen) / np.linalg.norm(eigen))

    # In proportion to √λ, but for terms of λ and rounding.
    assert distance(1e-1) > 0.1
    assert distance(1e-6) / distance(1e-4) == pytest.approx(0.1, rel=0.1)


def test_a_factor_of_low_rank_is_no_matter_to_eigen():
    # Rounding makes eigenvalues below zero, which must not eat the damping.
    row = twins.inputs(1, 6)
    a, g = row.T @ row, np.float32(np.diag([1.0, 0.0]))
    inverse = make(EigenInverse, SIDES[0], 6, 2)
    invert(inverse, a, g, 1e-3)
    matrix = twins.inputs(6, 2, seed=2)
    expected = oracle.damped_solution(np.kron(dense(a), dense(g)), 1e-3, matrix)
    product = inverse.multiply(tf.constant(matrix))
    # What A leaves of a matrix is lost in the rounding of eA eG, ε tr A, beside λ.
    twins.assert_close(product, expected, 1e-3)


# Starts and faults ----------------------------------------------------------------
@pytest.mark.parametrize("kind", INVERSES.values(), ids=INVERSES)
@pytest.mark.parametrize("sides", SIDES, ids=SIDES_IDS)
def test_every_inverse_starts_as_the_identity(kind, sides):
    matrix = tf.constant(twins.inputs(4, 3))
    np.testing.assert_array_equal(make(kind, sides).multiply(matrix), matrix)


def test_ekfac_is_the_identity_until_a_first_decomposition_succeeds():
    # A spectrum without damping has zeros, and 1 / 0 is no step.
    inverse = make(EKFACInverse, SIDES[0])
    inverse.update_spectrum([tf.zeros([4, 3])], 0.9, tf.constant(True))
    bad = np.full((4, 4), np.nan, np.float32)
    assert invert(inverse, bad, factor(DENSE, 3, 0), 0.1) >= 1

    matrix = tf.constant(twins.inputs(4, 3))
    np.testing.assert_array_equal(inverse.multiply(matrix), matrix)


def state(inverse: BlockInverse) -> list[np.ndarray]:
    arrays = list(inverse.arrays)
    if isinstance(inverse, EKFACInverse):
        arrays += [inverse._sum, inverse._weight]
    return [array.numpy() for array in arrays]


def held(block: Block) -> list[keras.Variable]:
    """The inverse's variables, and those of a spectrum."""
    spectrum = [v for v in block.state if "spectrum" in v.name]
    return [*block.inverse_arrays, *spectrum]


def model_of(layer: keras.layers.Layer, shape: tuple[int, ...], dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    twins.randomize(model)
    return model


def update_factors(optimizer: KFAC, model: keras.Model, x: np.ndarray) -> None:
    with optimizer.curvature_tape() as tape:
        outputs = tf.nest.flatten(model(x))
        log_likelihood = twins.wavy_log_likelihood(outputs)
    optimizer.update_factors(tape, log_likelihood)


@pytest.mark.parametrize(
    ("kind", "layer", "which", "value"),
    pairwise(
        list(INVERSES),
        ["dense", "embedding", "diagonal"],
        ["a", "g"],
        [np.nan, np.inf, -np.inf],
    ),
)
def test_a_factor_that_is_not_finite_leaves_the_inverse_and_is_counted(
    kind, layer, which, value
):
    if layer == "embedding":
        model = model_of(keras.layers.Embedding(5, 3), (2,), "int32")
        x = np.array([[0, 1], [2, 4]])
    else:
        made = keras.layers.Dense(3)
        if layer == "diagonal":
            made = keras.layers.EinsumDense("ni,io->no", 3, bias_axes="o")
        model, x = model_of(made, (2,)), twins.inputs(4, 2)
    optimizer = KFAC(inverse=kind, fallback="diagonal", inverse_update_period=1)
    optimizer.attach(model)
    update_factors(optimizer, model, x)
    optimizer.update_inverses()
    (block,) = optimizer.blocks
    before = [array.numpy() for array in held(block)]
    poisoned = twins.state_of(
        block, "factor_diagonal" if layer == "diagonal" else f"factor_{which}"
    )
    values = poisoned.numpy()
    values.flat[-1] = value
    poisoned.assign(values)
    optimizer.iterations.assign(3)

    optimizer.update_inverses()

    assert optimizer.failed_factorizations >= 1
    assert block.inverse_step == 0  # Of which update it is, too.
    for actual, same in zip(held(block), before, strict=True):
        np.testing.assert_array_equal(actual, same)


# Numbers for people ---------------------------------------------------------------
@pytest.mark.parametrize("sides", SIDES, ids=SIDES_IDS)
@pytest.mark.parametrize("damping", [1e-2, 1.0])
@pytest.mark.parametrize("kind", INVERSES.values(), ids=INVERSES)
def test_the_condition_number_is_that_of_the_dense_damped_block(kind, sides, damping):
    a, g = factor(sides[0], 4, 0), factor(sides[1], 3, 1)
    block = np.kron(dense(a), dense(g)) + damping * np.eye(12)
    inverse = make(kind, sides)
    if kind is CholeskyInverse:
        block = np.kron(*oracle.damped_factors(dense(a), dense(g), damping))
    if kind is EKFACInverse:
        spectrum = np.float32(np.random.default_rng(3).uniform(0, 2, (4, 3)))
        inverse.update_spectrum([tf.constant(spectrum)], 0.9, tf.constant(True))
        block = np.diag(np.float64(spectrum).ravel() + damping)

    found = inverse.condition_number(
        Factors(*map(tf.constant, (a, g))), tf.constant(damping)
    )

    np.testing.assert_allclose(found, np.linalg.cond(block), rtol=1e-5)


@pytest.mark.parametrize("sides", SIDES, ids=SIDES_IDS)
@pytest.mark.parametrize("kind", [CholeskyInverse, EigenInverse])
@pytest.mark.parametrize("which", [0, 1])
def test_the_condition_number_of_factors_that_are_not_finite_is_nan(kind, sides, which):
    factors = [factor(sides[0], 4, 0), factor(sides[1], 3, 1)]
    factors[which].flat[0] = np.nan
    found = make(kind, sides).condition_number(
        Factors(*map(tf.constant, factors)), tf.constant(0.1)
    )
    assert np.isnan(found)


@pytest.mark.parametrize("layer", ["dense", "embedding"])
def test_pi_is_the_root_of_the_ratio_of_mean_eigenvalues(layer):
    if layer == "embedding":
        model = model_of(keras.layers.Embedding(5, 3), (2,), "int32")
        x = np.array([[0, 1], [2, 4]])
    else:
        model, x = model_of(keras.layers.Dense(3), (2,)), twins.inputs(4, 2)
    optimizer = KFAC()
    optimizer.attach(model)
    (block,) = optimizer.blocks
    assert block.pi() == 1.0  # Of no factors yet.

    update_factors(optimizer, model, x)
    a, g = (dense(value.numpy()) for value in block.factors())
    np.testing.assert_allclose(block.pi(), oracle.pi(a, g), rtol=1e-6)
    assert abs(oracle.pi(a, g) - 1) > 0.1

    factor = twins.state_of(block, "factor_g")
    factor.assign(tf.fill(factor.shape, np.nan))
    assert block.pi() == 1.0


# EKFAC ----------------------------------------------------------------------------
def called_twice() -> keras.Model:
    layer = keras.layers.Dense(3, activation="tanh")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(layer(inputs)))
    twins.randomize(model)
    return model


def embedding_called_twice() -> keras.Model:
    layer = keras.layers.Embedding(6, 3)
    one, two = keras.Input((3,), dtype="int32"), keras.Input((2,), dtype="int32")
    model = keras.Model([one, two], [layer(one), layer(two)])
    twins.randomize(model)
    return model


def indices(distinct: bool, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if distinct:
        return np.stack([rng.permutation(6)[:width] for _ in range(4)])
    return rng.integers(0, 3, (4, width))


CASES = {
    "dense": (
        lambda: model_of(keras.layers.Dense(3), (4,)),
        lambda seed: twins.inputs(5, 4, seed=seed),
    ),
    "dense at positions": (
        lambda: model_of(keras.layers.Dense(3, activation="tanh"), (4, 2)),
        lambda seed: twins.inputs(5, 4, 2, seed=seed),
    ),
    "dense twice": (called_twice, lambda seed: twins.inputs(5, 3, seed=seed)),
    "conv": (
        lambda: model_of(keras.layers.Conv2D(3, 2, activation="tanh"), (3, 4, 1)),
        lambda seed: twins.inputs(5, 3, 4, 1, seed=seed),
    ),
    "conv of one position": (
        lambda: model_of(keras.layers.Conv1D(3, 3), (3, 2)),
        lambda seed: twins.inputs(5, 3, 2, seed=seed),
    ),
    "embedding": (
        lambda: model_of(keras.layers.Embedding(6, 3), (3,), "int32"),
        lambda seed: indices(True, 3, seed),
    ),
    "embedding with an index often": (
        lambda: model_of(keras.layers.Embedding(6, 3), (5,), "int32"),
        lambda seed: indices(False, 5, seed),
    ),
    "embedding twice": (
        embedding_called_twice,
        lambda seed: [indices(False, 3, seed), indices(False, 2, seed + 1)],
    ),
    "normalization": (
        lambda: model_of(keras.layers.LayerNormalization(), (4, 2)),
        lambda seed: twins.inputs(5, 4, 2, seed=seed),
    ),
}


# To trace each takes the most of the time, and a graph that is not told how many
# examples there are differs by how positions are counted: in a dense layer, in a
# convolution, and in two calls.
IN_A_GRAPH = ["dense at positions", "conv", "embedding twice"]


@pytest.mark.parametrize(
    ("case", "compiled"),
    [
        *((case, False) for case in CASES),
        *((case, True) for case in IN_A_GRAPH),
        *(
            pytest.param(case, True, marks=pytest.mark.slow)
            for case in CASES
            if case not in IN_A_GRAPH
        ),
    ],
)
def test_the_spectrum_is_a_running_mean_of_squares_and_follows_the_basis(
    case, compiled
):
    decay, damping = 0.3, 0.1
    make_model, draw = CASES[case]
    model = make_model()
    optimizer = KFAC(inverse="ekfac", factor_decay=decay, damping=damping)
    optimizer.attach(model)
    (block,) = optimizer.blocks
    inverse = block.inverse

    def update(x):
        update_factors(optimizer, model, x)

    if compiled:
        # Of any number of examples, as the batches of a data set.
        signature = tf.nest.map_structure(
            lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), draw(0)
        )
        update = tf.function(update, input_signature=[signature], autograph=False)
    total, weight = np.zeros((block.num_inputs, block.num_outputs)), 0.0
    # In the axes, in the basis of one batch, and in that of two.
    for seed in range(3):
        x = draw(seed)
        # Other gradients, so that the bases differ.
        twins.randomize(model, seed)
        q_a, q_g = bases(inverse)
        update(tf.nest.map_structure(tf.constant, x))

        exact = twins.per_example_gradients(model, x, twins.wavy_log_likelihood)
        gradients = twins.block_gradients(block, model, exact)
        new = oracle.spectrum(gradients, q_a, q_g)
        total = decay * total + (1 - decay) * new
        weight = decay * weight + (1 - decay)
        twins.assert_close(inverse.spectrum(), total / weight, 3e-5)
        if seed == 2:
            break

        before = oracle.with_spectrum(total, q_a, q_g)
        optimizer.update_inverses()
        changed = bases(inverse)
        assert np.abs(changed[1] - q_g).max() > 0.03
        total = oracle.spectrum_in(before, *changed)
        twins.assert_close(inverse.spectrum(), total / weight, 3e-5)

    matrix = twins.inputs(*total.shape, seed=9)
    block_now = oracle.with_spectrum(total / weight, *bases(inverse))
    twins.assert_close(
        block.multiply_inverse(tf.constant(matrix)),
        oracle.damped_solution(block_now, damping, matrix),
        1e-4,
    )


def test_few_examples_at_a_time_have_the_same_spectrum(monkeypatch):
    a, g = twins.inputs(7, 3, 4), twins.inputs(7, 3, 3)
    signals = Signals(tf.constant(a), tf.constant(g))
    inverse = make(EKFACInverse, SIDES[0])
    at_once = inverse.squares([signals])
    # Two examples, so that the last one is alone.
    monkeypatch.setattr("acktr_tf.kfac.inverses.MAX_CHUNK_BYTES", 2 * 4 * 4 * 3)
    twins.assert_close(inverse.squares([signals]), at_once.numpy(), 1e-6)


@pytest.mark.parametrize("case", ["dense", "conv of one position"])
def test_of_one_position_no_gradient_of_a_single_example_is_made(case, monkeypatch):
    # The squares of an outer product are one, which takes a product of matrices for all
    # examples; also in a graph that is not told how many there are.
    def refuse(calls):
        raise AssertionError

    monkeypatch.setattr("acktr_tf.kfac.inverses._summed_squares", refuse)
    make_model, draw = CASES[case]
    model, x = make_model(), draw(0)
    optimizer = KFAC(inverse="ekfac")
    optimizer.attach(model)

    @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]])])
    def update(x):
        update_factors(optimizer, model, x)

    update(x)
    assert np.abs(optimizer.blocks[0].inverse.spectrum()).max() > 0


def test_a_batch_that_is_not_finite_leaves_the_spectrum():
    make_model, draw = CASES["dense"]
    model = make_model()
    optimizer = KFAC(inverse="ekfac")
    optimizer.attach(model)
    update_factors(optimizer, model, draw(0))
    before = state(optimizer.blocks[0].inverse)
    bad = draw(1)
    bad[0, 0] = np.inf

    update_factors(optimizer, model, bad)

    for actual, same in zip(state(optimizer.blocks[0].inverse), before, strict=True):
        np.testing.assert_array_equal(actual, same)


def test_ekfac_is_exact_where_the_fisher_matrix_is_diagonal_in_the_basis():
    # Examples along the axes of a basis, each with a length of its own: diagonal, but
    # no Kronecker product, so that eigenvalues e_A e_Gᵀ miss it.
    rng = np.random.default_rng(0)
    q_a, q_g = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (4, 3))
    lengths = rng.uniform(0.3, 2.0, (4, 3))
    pairs = list(np.ndindex(4, 3))
    rows = np.float32([[q_a[:, i] * lengths[i, j]] for i, j in pairs])
    g = np.float32([[q_g[:, j]] for _, j in pairs])
    a_factor, g_factor = (
        np.float32(np.einsum("nti,ntj->ij", x, x) / len(pairs)) for x in (rows, g)
    )
    # All g are of length one, so that G is a multiple of I; with this it has a basis.
    g_factor += np.float32(q_g * [0.1, 0.2, 0.3] @ q_g.T)
    fisher = oracle.second_moment(np.einsum("nti,ntj->nij", np.float64(rows), g))
    matrix = twins.inputs(4, 3)
    expected = oracle.damped_solution(fisher, 0.05, matrix)

    def product(kind: type[BlockInverse]) -> np.ndarray:
        inverse = make(kind, SIDES[0])
        invert(inverse, a_factor, g_factor, 0.05)
        if isinstance(inverse, EKFACInverse):
            squares = inverse.squares([Signals(tf.constant(rows), tf.constant(g))])
            inverse.update_spectrum([squares / len(pairs)], 0.9, tf.constant(True))
        return inverse.multiply(tf.constant(matrix)).numpy()

    twins.assert_close(product(EKFACInverse), expected, 3e-5)
    difference = np.linalg.norm(product(EigenInverse) - expected)
    assert difference > 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("inverse", ["eigen", "ekfac"])
def test_of_one_example_the_inverse_is_that_of_the_exact_damped_block(inverse):
    twin = twins.Twin(
        (3,),
        [keras.layers.Dense(4, activation="tanh")],
        [keras.layers.Dense(3), keras.layers.Dense(1)],
    )
    x, damping = twins.inputs(1, 3), 0.02
    optimizer = KFAC(inverse=inverse, damping=damping, factor_decay=0.0)
    optimizer.attach(twin.model)
    for _ in range(2):  # The second time in the basis of the first.
        twins.update_exactly_gaussian(optimizer, twin, x)
    for index in range(len(twin.layers)):
        block = twin.block(optimizer, index)
        exact = oracle.exact_block(
            twin.network, np.float64(x), oracle.gaussian_fisher, index
        )
        matrix = twins.inputs(block.num_inputs, block.num_outputs, seed=3)
        twins.assert_close(
            block.multiply_inverse(tf.constant(matrix)),
            oracle.damped_solution(exact, damping, matrix),
            1e-4,
        )


def nonlinear_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((5, 4, 2)),
            keras.layers.Conv2D(3, 2, activation="tanh"),
            keras.layers.Conv2D(2, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    twins.randomize(model)
    return model


def test_ekfac_is_nearer_to_the_exact_block_by_all_that_the_spectra_differ():
    # George et al. 2018, proposition 1: of all spectra in a basis, EKFAC's is nearest
    # to the Fisher matrix in the Frobenius norm. It is the matrix's projection, so
    #     ‖F − A ⊗ G‖² = ‖F − Q S Qᵀ‖² + ‖S − e_A e_Gᵀ‖².
    model, x = nonlinear_model(), twins.inputs(12, 5, 4, 2)
    optimizer = KFAC(inverse="ekfac", factor_decay=0.0)
    optimizer.attach(model)
    for _ in range(2):  # Factors and spectrum of the same batch.
        update_factors(optimizer, model, x)
        optimizer.update_inverses()
    exact = twins.per_example_gradients(model, x, twins.wavy_log_likelihood)
    assert len(optimizer.blocks) == 4
    for block in optimizer.blocks:
        fisher = oracle.second_moment(twins.block_gradients(block, model, exact))
        kfac = np.float64(block.to_dense())
        spectrum = np.float64(block.inverse.spectrum())
        q_a, q_g = bases(block.inverse)

        to_kfac = np.linalg.norm(fisher - kfac)
        to_ekfac = np.linalg.norm(fisher - oracle.with_spectrum(spectrum, q_a, q_g))
        between = np.linalg.norm(spectrum - oracle.spectrum_in(kfac, q_a, q_g))

        assert to_ekfac < to_kfac
        assert between > 0.05 * to_kfac
        rounding = 5e-6 * np.linalg.norm(fisher)
        assert to_kfac == pytest.approx(np.hypot(to_ekfac, between), abs=rounding)
