"""Likelihoods of whole models: outputs, weights, given targets, the quadratic model."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.kfac.likelihoods import Likelihoods, NegativeLogLikelihood
from kfac.likelihood_oracles import (
    CASES,
    CATEGORICAL_LOGITS,
    GAUSSIAN,
    KEY,
    assert_second_moment,
    exact_fisher,
    normal,
    outputs_for,
    poisson,
    sampled_scores,
    scores,
)

losses = keras.losses

# Several outputs ------------------------------------------------------------------
LOGITS, MEANS = normal(3), normal(2, seed=1)


def of_two(loss: Any, weights: Any = None) -> Callable[..., tf.Tensor]:
    """Sampled log-likelihood of two outputs, which are as the losses are."""
    likelihoods = Likelihoods(loss, weights)

    def sampled(outputs: list[tf.Tensor], key: tf.Tensor) -> tf.Tensor:
        named = (
            dict(zip("ab", outputs, strict=True)) if isinstance(loss, dict) else outputs
        )
        return likelihoods.sampled_log_likelihood(named, key)

    return sampled


@pytest.mark.parametrize(
    ("loss", "weights", "expected"),
    [
        ([CATEGORICAL_LOGITS, "mse"], None, (1, 1)),
        ([CATEGORICAL_LOGITS, "mse"], [2, 0.25], (2, 0.25)),
        ((CATEGORICAL_LOGITS, "mse"), (2, None), (2, 1)),
        ({"a": CATEGORICAL_LOGITS, "b": "mse"}, {"b": 0.25, "a": 2}, (2, 0.25)),
        # In another order than the outputs'.
        ({"b": "mse", "a": CATEGORICAL_LOGITS}, {"a": 2, "b": 0.25}, (2, 0.25)),
    ],
)
def test_the_curvature_of_a_weighted_sum_is_that_of_its_terms_and_nothing_between(
    loss, weights, expected
):
    samples = sampled_scores(of_two(loss, weights), LOGITS, MEANS)

    fisher = np.zeros((5, 5))
    fisher[:3, :3] = expected[0] * exact_fisher(CATEGORICAL_LOGITS, LOGITS)
    fisher[3:, 3:] = expected[1] * exact_fisher(GAUSSIAN, MEANS)
    assert_second_moment(samples, fisher)


def test_one_loss_is_that_of_every_output_each_with_samples_of_its_own():
    # As in `compile`.
    samples = sampled_scores(of_two("mse", 3.0), MEANS, MEANS)

    assert_second_moment(samples, 3 * np.kron(np.eye(2), exact_fisher(GAUSSIAN, MEANS)))


def test_an_output_without_a_loss_has_no_curvature():
    outputs = [tf.constant([LOGITS]), tf.constant([MEANS])]
    likelihoods = Likelihoods([None, "mse"], [5.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = likelihoods.sampled_log_likelihood(outputs, KEY)
    first, second = tape.gradient(value, outputs)

    assert first is None
    assert (second.numpy() != 0).all()
    gram = likelihoods.fisher_inner_products(outputs, [outputs], KEY)
    np.testing.assert_allclose(gram, [[2 * (MEANS**2).sum()]], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "weights", "message"),
    [
        (["mse", "mse"], [1.0, -0.5], r"not negative. Received: \[1.0, -0.5\]"),
        ("mse", -1.0, "not negative. Received: -1.0"),
        ("mse", float("nan"), "not negative. Received: nan"),
        (["mse", "mse"], [1.0], r"as the losses. Received: \[1.0\]"),
        (["mse", "mse"], [1.0, 1.0, 1.0], "as the losses"),
        (["mse", "mse"], 2.0, "as the losses"),
        ("mse", [1.0, 1.0], "as the losses"),
        ({"a": "mse", "b": "mse"}, {"a": 1.0}, "as the losses"),
        ({"a": "mse"}, {"b": 1.0}, "as the losses"),
        ({"a": "mse"}, [1.0], "as the losses"),
    ],
)
def test_loss_weights_that_are_negative_or_do_not_fit_are_refused(
    loss, weights, message
):
    with pytest.raises(ValueError, match=message):
        Likelihoods(loss, weights)


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (["mse", "mse"], 1),
        (["mse", "mse"], [1]),
        ({"a": "mse"}, {"b": 1}),
        ({"a": "mse"}, [1]),
        ({"a": "mse", "b": "mse"}, {"b": 1}),
        ({"a": "mse", "b": "mse"}, [1, 1]),
        ([None, "mse"], [1]),
    ],
)
def test_outputs_and_targets_that_do_not_fit_the_losses_are_refused(loss, outputs):
    outputs = keras.tree.map_structure(lambda _: tf.ones([2, 1]), outputs)
    likelihoods = Likelihoods(loss)

    with pytest.raises(ValueError, match=r"as the model's outputs\. Received losses"):
        likelihoods.sampled_log_likelihood(outputs, KEY)
    with pytest.raises(ValueError, match=r"as the model's outputs\. Received losses"):
        likelihoods.fisher_inner_products(outputs, [outputs], KEY)


def test_targets_that_do_not_fit_are_refused():
    pair = [tf.ones([2, 1])] * 2
    with pytest.raises(ValueError, match=r"as the model's targets\. Received losses"):
        Likelihoods(["mse", "mse"]).log_likelihood(pair[:1], pair)


def test_an_output_with_a_mask_is_refused():
    # Its loss is a mean over what of the batch is not masked.
    model = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Embedding(4, 2, mask_zero=True),
            keras.layers.Dense(2),
        ]
    )
    outputs = model(np.array([[1, 2, 0]]))
    with pytest.raises(
        ValueError, match=r"a mask with the output of shape \(1, 3, 2\)"
    ):
        Likelihoods("mse").sampled_log_likelihood(outputs, KEY)


# What `compile` takes -------------------------------------------------------------
def two_heads(as_dictionary: bool) -> keras.Model:
    inputs = keras.Input([3])
    heads = {
        name: keras.layers.Dense(size, name=name)(inputs)
        for name, size in [("a", 2), ("b", 1)]
    }
    return keras.Model(inputs, heads if as_dictionary else list(heads.values()))


Y = {"a": np.float32(normal(4, 2, seed=2)), "b": np.float32(normal(4, 1, seed=3))}


@pytest.mark.parametrize(
    ("as_dictionary", "loss", "weights", "y"),
    [
        (False, "mse", None, [Y["a"], Y["b"]]),
        (False, "mse", 0.5, (Y["a"], Y["b"])),
        (False, ["mse", "mse"], [2.0, 0.5], [Y["a"], Y["b"]]),
        (False, [None, "mse"], [2.0, 0.5], [Y["a"], Y["b"]]),
        (False, {"b": "mse", "a": "mse"}, {"a": 2.0, "b": 0.5}, [Y["a"], Y["b"]]),
        (False, {"b": "mse", "a": "mse"}, {"a": 2.0, "b": 0.5}, Y),
        (True, "mse", None, Y),
        (True, {"b": "mse", "a": "mse"}, {"a": 2.0, "b": 0.5}, Y),
        (True, {"b": "mse"}, {"b": 0.5}, Y),
    ],
)
def test_losses_weights_and_targets_are_read_as_compile_reads_them(
    as_dictionary, loss, weights, y
):
    model, x = two_heads(as_dictionary), np.float32(normal(4, 3))
    model.compile("sgd", loss, loss_weights=weights)
    outputs = model(x)

    likelihoods = Likelihoods(loss, weights, model.output_names)

    found = -tf.reduce_mean(likelihoods.log_likelihood(y, outputs))
    np.testing.assert_allclose(found, model.compute_loss(x, y, outputs), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "in_list", "names"),
    [
        ("mse", False, None),
        ("mse", True, None),
        ("mse", True, ["a"]),
        (["mse"], False, None),
        (["mse"], True, None),
        (["mse"], True, ["a"]),
        ({"a": "mse"}, False, None),
        # What is in a list has no name of its own.
        ({"a": "mse"}, True, ["a"]),
    ],
)
def test_a_single_output_and_its_loss_may_be_in_a_list_or_a_dictionary(
    loss, in_list, names
):
    outputs, y = tf.constant(Y["a"]), tf.zeros([4, 2])
    likelihoods = Likelihoods(loss, None, names)
    expected = -np.mean(Y["a"] ** 2, axis=1)

    found = likelihoods.log_likelihood(y, [outputs] if in_list else outputs)

    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_single_output_may_be_in_a_dictionary_with_one_loss():
    outputs, y = tf.constant(Y["a"]), tf.zeros([4, 2])
    expected = Likelihoods("mse").log_likelihood(y, outputs)

    for target in (y, {"a": y}):
        found = Likelihoods("mse").log_likelihood(target, {"a": outputs})
        np.testing.assert_array_equal(found, expected)


# The empirical Fisher matrix ------------------------------------------------------
PROBABILITIES = np.float32(np.random.default_rng(0).dirichlet([2, 2, 2], size=(4, 2)))
LABELS = np.array([[0, 2], [1, 1], [2, 0], [0, 1]])


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize(
    ("kind", "y", "outputs"),
    [
        (losses.MeanSquaredError, Y["a"], PROBABILITIES[:, 0, :2]),
        (losses.MeanSquaredError, Y["a"][:, 0], PROBABILITIES[:, 0, :1]),
        (losses.MeanSquaredError, Y["a"][:, 0], PROBABILITIES[:, 0, 0]),
        (losses.MeanSquaredError, Y["a"][:, :1], PROBABILITIES[:, 0, 0]),
        (losses.MeanSquaredError, PROBABILITIES[::-1], PROBABILITIES),
        (losses.BinaryCrossentropy, LABELS % 2, PROBABILITIES[:, 0, :2]),
        (losses.BinaryCrossentropy, LABELS[:, 0] % 2, PROBABILITIES[:, 0, :1]),
        (losses.BinaryCrossentropy, LABELS[:, 0] % 2, PROBABILITIES[:, 0, 0]),
        (losses.BinaryCrossentropy, LABELS[..., None] % 2, PROBABILITIES[..., :1]),
        (losses.CategoricalCrossentropy, np.eye(3)[LABELS[:, 0]], PROBABILITIES[:, 0]),
        (
            losses.CategoricalCrossentropy,
            np.eye(3, dtype=np.int32)[LABELS],
            PROBABILITIES,
        ),
        (losses.SparseCategoricalCrossentropy, LABELS[:, 0], PROBABILITIES[:, 0]),
        (losses.SparseCategoricalCrossentropy, LABELS[:, :1], PROBABILITIES[:, 0]),
        (losses.SparseCategoricalCrossentropy, LABELS, PROBABILITIES),
        (losses.SparseCategoricalCrossentropy, LABELS[..., None], PROBABILITIES),
    ],
)
def test_empirical_scores_are_minus_the_gradients_of_keras_loss_of_one_example(
    kind, y, outputs, logits
):
    if kind is losses.MeanSquaredError:
        loss, name = kind(), "mse"
    else:
        loss = kind(from_logits=logits)
        function = {
            losses.BinaryCrossentropy: "binary_crossentropy",
            losses.CategoricalCrossentropy: "categorical_crossentropy",
            losses.SparseCategoricalCrossentropy: "sparse_categorical_crossentropy",
        }
        name = loss if logits else function[kind]

    expected = []
    for target, output in zip(y, outputs, strict=True):
        row = tf.constant(output[None])
        with tf.GradientTape() as tape:
            tape.watch(row)
            value = loss(target[None], row)
        expected.append(np.ravel(tape.gradient(value, row)))

    for given in (loss, name):
        likelihoods = Likelihoods(given)
        [found] = scores(lambda o, k=likelihoods: k.log_likelihood(y, o[0]), [outputs])
        np.testing.assert_allclose(found, -np.array(expected), rtol=1e-6)


def test_empirical_scores_of_a_distribution_are_those_of_its_log_likelihood():
    # ∂ log p / ∂ log λ = y − λ.
    outputs, y = normal(4, 2), np.arange(8).reshape(4, 2)
    likelihoods = Likelihoods(NegativeLogLikelihood(poisson))

    [found] = scores(
        lambda o: likelihoods.log_likelihood(y, o[0]), [np.float32(outputs)]
    )

    np.testing.assert_allclose(found, y - np.exp(outputs), rtol=1e-5)


def test_empirical_scores_of_several_outputs_have_the_losses_weights():
    # One gradient of the whole loss: unlike the others, not the weights' roots.
    outputs = [np.float32(normal(4, 2)), np.float32(normal(4, 1, seed=1))]
    y = [np.zeros((4, 2)), np.zeros((4, 1))]
    likelihoods = Likelihoods(["mse", "mse"], [3.0, 0.5])

    first, second = scores(lambda o: likelihoods.log_likelihood(y, o), outputs)

    np.testing.assert_allclose(first, -3 * outputs[0], rtol=1e-6)
    np.testing.assert_allclose(second, -outputs[1], rtol=1e-6)


# Weights of examples --------------------------------------------------------------
WEIGHTS = np.array([0.0, 0.5, 1.0, 4.0])


def log_likelihoods(loss: Any) -> list[Callable[..., tf.Tensor]]:
    """Of sampled and of given targets: outputs, weights → `[N]`."""
    likelihoods = Likelihoods(loss)
    return [
        lambda o, w: likelihoods.sampled_log_likelihood(o, KEY, w),
        lambda o, w: likelihoods.log_likelihood([Y["a"], Y["b"]], o, w),
    ]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "weight",
    [WEIGHTS, WEIGHTS[:, None], np.float32(WEIGHTS), tf.constant(WEIGHTS)],
)
def test_a_weight_scales_the_second_moment_of_an_example(which, weight):
    log_likelihood = log_likelihoods(["mse", "mse"])[which]
    outputs = [normal(4, 2), normal(4, 1, seed=1)]

    plain = scores(lambda o: log_likelihood(o, None), outputs)
    weighted = scores(lambda o: log_likelihood(o, weight), outputs)

    for one, other in zip(plain, weighted, strict=True):
        np.testing.assert_allclose(
            other[:, :, None] * other[:, None],
            WEIGHTS[:, None, None] * one[:, :, None] * one[:, None],
            rtol=1e-6,
        )


@pytest.mark.parametrize("which", [0, 1])
def test_each_output_may_have_weights_of_its_own(which):
    log_likelihood = log_likelihoods(["mse", "mse"])[which]
    outputs = [normal(4, 2), normal(4, 1, seed=1)]

    plain = scores(lambda o: log_likelihood(o, None), outputs)
    weighted = scores(lambda o: log_likelihood(o, [None, WEIGHTS]), outputs)

    np.testing.assert_allclose(weighted[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(
        weighted[1], np.sqrt(WEIGHTS)[:, None] * plain[1], rtol=1e-6
    )


@pytest.mark.parametrize("which", [0, 1])
def test_weights_of_a_weighted_mean_are_relative_to_their_mean(which):
    mean = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    outputs = [normal(4, 2), normal(4, 1, seed=1)]

    def found(loss: Any, weight: Any) -> list[np.ndarray]:
        log_likelihood = log_likelihoods([loss, loss])[which]
        return scores(lambda o: log_likelihood(o, weight), outputs)

    expected = found("mse", WEIGHTS / WEIGHTS.mean())
    for one, other in zip(found(mean, WEIGHTS), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(found(mean, None), found("mse", None), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("weight", "outputs"),
    [
        # One of each position, where as many would be broadcast, and where not.
        (tf.ones([1, 2]), tf.ones([1, 2, 3])),
        (tf.ones([4, 2]), tf.ones([4, 2, 3])),
        (tf.ones([4, 2, 1]), tf.ones([4, 2, 3])),
        (tf.ones([8]), tf.ones([4, 2, 3])),
        (tf.ones([3]), tf.ones([4, 2])),
        (tf.ones([1]), tf.ones([4, 2])),
        (tf.ones([]), tf.ones([4, 2])),
    ],
)
def test_weights_other_than_one_of_each_example_are_refused(weight, outputs):
    likelihoods = Likelihoods("mse")
    for call in (
        lambda: likelihoods.sampled_log_likelihood(outputs, KEY, weight),
        lambda: likelihoods.log_likelihood(outputs, outputs, weight),
        lambda: likelihoods.fisher_inner_products(outputs, [outputs], KEY, weight),
    ):
        with pytest.raises(ValueError, match="one weight of each example"):
            call()


def test_weights_of_positions_are_refused_even_if_only_the_graph_knows():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3]),
            tf.TensorSpec([None, None]),
        ],
        autograph=False,
    )
    def traced(outputs: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        return Likelihoods("mse").sampled_log_likelihood(outputs, KEY, weight)

    assert traced(tf.ones([4, 2, 3]), tf.ones([4, 1])).shape == (4,)
    for examples in (1, 4):
        with pytest.raises(tf.errors.InvalidArgumentError):
            traced(tf.ones([examples, 2, 3]), tf.ones([examples, 2]))


# The quadratic model --------------------------------------------------------------
SIZES = (3, 4, 3, 2)


def network(weights: list[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    hidden = np.tanh(x @ weights[0])
    return [hidden @ weights[1], hidden @ weights[2]]


def shaped(flat: np.ndarray) -> list[np.ndarray]:
    inputs, units, classes, means = SIZES
    shapes = [(inputs, units), (units, classes), (units, means)]
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    return [p.reshape(s) for p, s in zip(np.split(flat, cuts), shapes, strict=True)]


def jacobians(flat: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Of each output by all weights, `[N, K, P]`: complex steps, exact to rounding."""
    columns = [
        [out.imag / 1e-30 for out in network(shaped(flat + 1e-30j * row), x)]
        for row in np.eye(len(flat))
    ]
    return [np.stack(parts, axis=-1) for parts in zip(*columns, strict=True)]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gram_matrix_is_that_of_jacobians_and_fisher_matrices(named, weighted):
    inputs, units, classes, means = SIZES
    x, flat = normal(5, inputs), 0.5 * normal(units * (inputs + classes + means))
    directions = normal(2, len(flat), seed=1)
    example_weights = np.array([0.0, 1.0, 2.5, 0.3, 1.0]) if weighted else np.ones(5)
    losses_ = {"p": losses.CategoricalCrossentropy(from_logits=True), "v": "mse"}
    weights = {"p": 2.0, "v": 0.25}

    # As training does it, in float32: what directions do to outputs, going forward.
    parameters = [tf.constant(p, tf.float32) for p in shaped(flat)]
    tangents = []
    for direction in directions:
        moves = [tf.constant(d, tf.float32) for d in shaped(direction)]
        with tf.autodiff.ForwardAccumulator(parameters, moves) as accumulator:
            hidden = tf.tanh(tf.constant(x, tf.float32) @ parameters[0])
            found = [hidden @ parameters[1], hidden @ parameters[2]]
        tangents.append([accumulator.jvp(out) for out in found])

    def arranged(values: Any) -> Any:
        return dict(zip("pv", values, strict=True)) if named else list(values)

    gram = Likelihoods(arranged(losses_.values()), arranged(weights.values()))
    gram = gram.fisher_inner_products(
        arranged(found),
        [arranged(each) for each in tangents],
        KEY,
        example_weights if weighted else None,
    )

    fisher = np.zeros((len(flat), len(flat)))
    policy, value = jacobians(flat, x)
    for n, logits in enumerate(network(shaped(flat), x)[0]):
        p = np.exp(logits) / np.exp(logits).sum()
        of_policy = policy[n].T @ (np.diag(p) - np.outer(p, p)) @ policy[n]
        of_value = value[n].T @ (2 / means * np.eye(means)) @ value[n]
        fisher += example_weights[n] / len(x) * (2.0 * of_policy + 0.25 * of_value)
    expected = directions @ fisher @ directions.T
    # Each entry is a sum of about a hundred products.
    np.testing.assert_allclose(gram, expected, rtol=1e-5, atol=1e-6 * expected.max())


@pytest.mark.parametrize(
    "loss",
    [*(case.values[0] for case in CASES[::4]), NegativeLogLikelihood(poisson)],
)
def test_the_gram_matrix_is_symmetric_and_positive_semidefinite(loss):
    outputs = tf.constant(outputs_for(loss, 16, 3), tf.float32)
    # The third direction is the sum of the others: the matrix is singular.
    tangents = [np.float32(normal(16, 3, seed=seed)) for seed in (1, 2)]
    tangents.append(tangents[0] + tangents[1])

    gram = Likelihoods(loss).fisher_inner_products(outputs, tangents, KEY).numpy()

    np.testing.assert_array_equal(gram, gram.T)
    eigenvalues = np.linalg.eigvalsh(np.float64(gram))
    assert eigenvalues[0] > -1e-6 * eigenvalues[-1]
    assert eigenvalues[0] < 1e-6 * eigenvalues[-1]
