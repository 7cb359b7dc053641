"""Fisher matrices of losses beside Keras' own losses, differentiated in float64."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from acktr_tf.kfac.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Likelihood,
    Likelihoods,
    NegativeLogLikelihood,
    Sampled,
    likelihood_of,
)

tfd = tfp.distributions
losses = keras.losses

KEY = tf.constant([3, 5])
KEYS, ROWS = 20, 1_000

GAUSSIAN = losses.MeanSquaredError(dtype="float64")
BERNOULLI = losses.BinaryCrossentropy(dtype="float64")
BERNOULLI_LOGITS = losses.BinaryCrossentropy(from_logits=True, dtype="float64")
CATEGORICAL = losses.CategoricalCrossentropy(dtype="float64")
CATEGORICAL_LOGITS = losses.CategoricalCrossentropy(from_logits=True, dtype="float64")

# Loss, and the shape of one example's outputs.
CASES = [
    pytest.param(loss, shape, id=f"{name}-{shape}")
    for name, loss, shapes in [
        ("gaussian", GAUSSIAN, [(), (3,), (2, 2), (2, 1, 2)]),
        ("bernoulli", BERNOULLI, [(), (1,), (3,), (2, 2)]),
        ("bernoulli-logits", BERNOULLI_LOGITS, [(), (1,), (3,), (2, 2)]),
        ("categorical", CATEGORICAL, [(3,), (2, 3), (2, 1, 2)]),
        ("categorical-logits", CATEGORICAL_LOGITS, [(3,), (2, 3), (2, 1, 2)]),
    ]
    for shape in shapes
]


# The oracle -----------------------------------------------------------------------
def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def outputs_for(loss: losses.Loss, *shape: int) -> np.ndarray:
    """Outputs as a model trained by that loss may have them, float64."""
    if loss in (BERNOULLI, CATEGORICAL):
        # Of categories they do not add up to one: Keras divides by their sum.
        return np.random.default_rng(0).uniform(0.2, 0.8, shape)
    return normal(*shape)


def keras_losses(loss: losses.Loss, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keras' loss of each of many rows `[B, ...]` of outputs, for one target."""
    if rows.ndim == 1:
        target, rows = target[None], rows[:, None]
    values = loss.call(np.broadcast_to(target, rows.shape).copy(), rows)
    return np.mean(np.reshape(values, (len(rows), -1)), axis=1)


def targets_of(loss: losses.Loss, output: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """All targets of one example, with their probabilities in the model."""
    if loss is GAUSSIAN:
        return [(1.0, normal(*output.shape, seed=1))]  # Its Hessian has no target.
    if loss in (BERNOULLI, BERNOULLI_LOGITS):
        ones = output if loss is BERNOULLI else 1 / (1 + np.exp(-output))
        flat = np.stack([1 - ones.ravel(), ones.ravel()], axis=1)
        choices = np.array([0.0, 1.0])
    else:
        mass = output if loss is CATEGORICAL else np.exp(output)
        flat = (mass / mass.sum(axis=-1, keepdims=True)).reshape(-1, mass.shape[-1])
        choices = np.eye(mass.shape[-1])
    found = []
    for picks in itertools.product(range(flat.shape[1]), repeat=len(flat)):
        probability = np.prod(
            [row[pick] for row, pick in zip(flat, picks, strict=True)]
        )
        found.append((probability, choices[list(picks)].reshape(output.shape)))
    assert np.isclose(sum(probability for probability, _ in found), 1)
    return found


def exact_fisher(loss: losses.Loss, output: np.ndarray) -> np.ndarray:
    """The expected Hessian of Keras' loss of one example, `[P, P]`.

    By central differences: rounding errs by 1e-16 / h², h² is what truncation errs by.
    """
    step, size = 1e-4, output.size
    moves = step * np.eye(size)
    forth, back = moves[:, None] + moves, moves[:, None] - moves
    rows = output + np.stack([forth, back, -back, -forth]).reshape(-1, *output.shape)
    values = sum(p * keras_losses(loss, y, rows) for p, y in targets_of(loss, output))
    signs = np.array([1, -1, -1, 1]) / (4 * step**2)
    return np.tensordot(signs, values.reshape(4, size, size), axes=1)


def scores(log_likelihood: Callable[..., tf.Tensor], outputs: Any) -> list[np.ndarray]:
    """Gradients `[N, P]` of the sum of log-likelihoods, by each of the outputs."""
    outputs = [tf.convert_to_tensor(each) for each in outputs]
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        values = log_likelihood(outputs)
    assert values.shape == (len(outputs[0]),)
    found = tape.gradient(values, outputs)
    return [np.reshape(each, (len(each), -1)).astype(np.float64) for each in found]


def sampled_scores(
    log_likelihood: Callable[..., tf.Tensor], *output: np.ndarray
) -> np.ndarray:
    """KEYS × ROWS independent ones, of one example's outputs: `[S, P]`."""
    rows = [np.repeat(each[None], ROWS, axis=0) for each in output]
    found = [
        scores(lambda o, key=key: log_likelihood(o, tf.constant([7, key])), rows)
        for key in range(KEYS)
    ]
    return np.concatenate([np.concatenate(each, axis=1) for each in found])


def assert_mean(samples: np.ndarray, expected: np.ndarray) -> None:
    """The mean of independent samples `[S, ...]` is within 4 standard errors.

    The chance that it is not is 6e-5 an entry; the keys are fixed.
    """
    standard_error = samples.std(axis=0) / np.sqrt(len(samples))
    # What does not vary is off by float32's rounding.
    rounding = 1e-6 * np.abs(expected).max(initial=1.0)
    error = np.abs(samples.mean(axis=0) - expected)
    np.testing.assert_array_less(error, 4 * standard_error + rounding)


def assert_second_moment(samples: np.ndarray, expected: np.ndarray) -> None:
    assert_mean(samples, np.zeros(samples.shape[1]))
    products = samples[:, :, None] * samples[:, None]
    assert_mean(products, expected)
    # And there are enough of them for that to say something.
    standard_error = products.std(axis=0) / np.sqrt(len(products))
    assert np.linalg.norm(standard_error) < 0.05 * np.linalg.norm(expected)


# The Fisher matrix of each loss ---------------------------------------------------
@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_the_fisher_product_is_the_expected_hessian_of_keras_mean_loss(loss, shape):
    outputs = outputs_for(loss, 3, *shape)
    left, right = normal(3, *shape, seed=2), normal(3, *shape, seed=3)

    product = likelihood_of(loss).fisher_product(
        *(tf.constant(each) for each in (outputs, left, right)), KEY
    )

    expected = [
        u.ravel() @ exact_fisher(loss, output) @ v.ravel()
        for output, u, v in zip(outputs, left, right, strict=True)
    ]
    np.testing.assert_allclose(product, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_sampled_scores_have_mean_zero_and_the_fisher_matrix_as_second_moment(
    loss, shape
):
    likelihood, output = likelihood_of(loss), outputs_for(loss, *shape)

    samples = sampled_scores(
        lambda o, key: likelihood.sampled_log_likelihood(o[0], key), output
    )

    assert_second_moment(samples, exact_fisher(loss, output))


@pytest.mark.parametrize(("loss", "shape"), CASES)
def test_a_key_decides_the_samples_and_rows_have_samples_of_their_own(loss, shape):
    likelihood = likelihood_of(loss)
    outputs = np.repeat(outputs_for(loss, *shape)[None], 64, axis=0)

    first, again, other = (
        scores(lambda o, k=key: likelihood.sampled_log_likelihood(o[0], k), [outputs])
        for key in (KEY, KEY, KEY + 1)
    )

    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any()
    assert (first[0] != first[0][0]).any()


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (GAUSSIAN, (2,)),
        (BERNOULLI, (2,)),
        (BERNOULLI_LOGITS, (2,)),
        (CATEGORICAL, (3,)),
        (CATEGORICAL_LOGITS, (3,)),
    ],
)
def test_a_second_position_leaves_the_curvature_of_a_mean_as_it_was(loss, shape):
    # A sum over positions would have twice that.
    likelihood, one = likelihood_of(loss), outputs_for(loss, 1, 1, *shape)
    left, right = normal(1, 1, *shape, seed=2), normal(1, 1, *shape, seed=3)

    def product(positions: int) -> float:
        rows = [
            tf.constant(np.repeat(each, positions, axis=1))
            for each in (one, left, right)
        ]
        return float(likelihood.fisher_product(*rows, KEY)[0])

    def second_moment(positions: int) -> float:
        samples = sampled_scores(
            lambda o, key: likelihood.sampled_log_likelihood(o[0], key),
            np.repeat(one[0], positions, axis=0),
        )
        u, v = (np.tile(each.ravel(), positions) for each in (left, right))
        return ((samples @ u) * (samples @ v)).mean()

    assert product(2) == pytest.approx(product(1), rel=1e-12)
    # Far from 2, with a standard error of 0.03 or less.
    assert second_moment(2) / second_moment(1) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("loss", [CATEGORICAL, CATEGORICAL_LOGITS])
def test_shapes_known_only_in_the_graph_change_nothing(loss):
    likelihoods = Likelihoods(loss)
    outputs = outputs_for(loss, 4, 2, 3)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 3], tf.float64)], autograph=False
    )
    def traced(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        weight = tf.ones(tf.shape(values)[:1])
        gram = likelihoods.fisher_gram(values, [values], KEY, weight)
        return likelihoods.sampled_log_likelihood(values, KEY, weight), gram

    found = traced(outputs)

    values = tf.constant(outputs)
    expected = likelihoods.sampled_log_likelihood(values, KEY)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    gram = likelihoods.fisher_gram(values, [values], KEY)
    np.testing.assert_allclose(found[1], gram, rtol=1e-6, atol=1e-12)


# Which loss is which --------------------------------------------------------------
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", Gaussian()),
        ("MSE", Gaussian()),
        ("mean_squared_error", Gaussian()),
        ("MeanSquaredError", Gaussian()),
        (losses.mean_squared_error, Gaussian()),
        (losses.MeanSquaredError, Gaussian()),
        (losses.MeanSquaredError(), Gaussian()),
        (losses.MeanSquaredError(reduction="mean"), Gaussian()),
        (losses.MeanSquaredError(reduction="mean_with_sample_weight"), Gaussian()),
        ("bce", Bernoulli(from_logits=False)),
        ("binary_crossentropy", Bernoulli(from_logits=False)),
        ("BinaryCrossentropy", Bernoulli(from_logits=False)),
        (losses.binary_crossentropy, Bernoulli(from_logits=False)),
        (losses.BinaryCrossentropy(), Bernoulli(from_logits=False)),
        (losses.BinaryCrossentropy(from_logits=True), Bernoulli(from_logits=True)),
        # Its curvature is the same for any targets.
        (losses.BinaryCrossentropy(label_smoothing=0.1), Bernoulli(from_logits=False)),
        ("categorical_crossentropy", Categorical(from_logits=False)),
        ("CategoricalCrossentropy", Categorical(from_logits=False)),
        (losses.categorical_crossentropy, Categorical(from_logits=False)),
        (losses.CategoricalCrossentropy(), Categorical(from_logits=False)),
        (
            losses.CategoricalCrossentropy(from_logits=True),
            Categorical(from_logits=True),
        ),
        ("sparse_categorical_crossentropy", Categorical(from_logits=False)),
        ("SparseCategoricalCrossentropy", Categorical(from_logits=False)),
        (losses.sparse_categorical_crossentropy, Categorical(from_logits=False)),
        (losses.SparseCategoricalCrossentropy(), Categorical(from_logits=False)),
        (
            losses.SparseCategoricalCrossentropy(from_logits=True),
            Categorical(from_logits=True),
        ),
    ],
)
def test_names_functions_classes_and_instances_have_their_likelihood(loss, expected):
    found = likelihood_of(loss)

    assert type(found) is type(expected)
    outputs = tf.constant([[0.2, 0.7, 0.3]])
    tangent = tf.constant([[1.0, -2.0, 0.5]])
    np.testing.assert_array_equal(
        found.fisher_product(outputs, tangent, tangent, KEY),
        expected.fisher_product(outputs, tangent, tangent, KEY),
    )


class OwnMeanSquaredError(losses.MeanSquaredError):
    """Which may compute anything."""


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mae", r"log-likelihood.*MeanSquaredError.*Received: 'mae'"),
        (losses.Huber(), "log-likelihood.*Received: .*Huber"),
        (lambda y, o: o, "log-likelihood.*Received: .*lambda"),
        (OwnMeanSquaredError(), "log-likelihood.*Received: .*OwnMeanSquaredError"),
        (None, "log-likelihood.*Received: None"),
        ("mean_sqared_error", "mean_sqared_error"),
        (losses.MeanSquaredError(reduction="sum"), "Received: reduction='sum'"),
        (losses.MeanSquaredError(reduction=None), "Received: reduction=None"),
        (losses.MeanSquaredError(reduction="none"), "Received: reduction='none'"),
        (losses.CategoricalCrossentropy(axis=1), "last axis. Received: axis=1"),
        (
            losses.SparseCategoricalCrossentropy(ignore_class=-1),
            "all positions. Received: ignore_class=-1",
        ),
    ],
)
def test_any_other_loss_is_refused_with_the_reason(loss, message):
    with pytest.raises(ValueError, match=message):
        likelihood_of(loss)
    if loss is not None:
        with pytest.raises(ValueError, match=message):
            Likelihoods(loss)


@pytest.mark.parametrize("loss", [None, [None, None], {}, {"a": None}])
def test_no_loss_at_all_is_refused(loss):
    with pytest.raises(ValueError, match="needs a loss"):
        Likelihoods(loss)


# Distributions of one's own -------------------------------------------------------
@keras.saving.register_keras_serializable(package="test_likelihoods")
def poisson(outputs: tf.Tensor) -> tfd.Distribution:
    return tfd.Poisson(log_rate=outputs)


@keras.saving.register_keras_serializable(package="test_likelihoods")
def location_and_scale(outputs: tf.Tensor) -> tfd.Distribution:
    return tfd.Normal(outputs[..., 0], tf.exp(outputs[..., 1]))


def test_its_loss_of_a_normal_is_the_squared_error_and_a_constant():
    # −log N(y; μ, ½) = (y − μ)² + ½ log π.
    loss = NegativeLogLikelihood(lambda o: tfd.Normal(o, np.float32(np.sqrt(0.5))))
    y, outputs = np.float32(normal(4, 1)), np.float32(normal(4, 1, seed=1))

    expected = losses.MeanSquaredError()(y, outputs) + 0.5 * np.log(np.pi)
    np.testing.assert_allclose(loss(y, outputs), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_its_loss_of_categories_is_the_sparse_cross_entropy(dtype):
    loss = NegativeLogLikelihood(lambda outputs: tfd.Categorical(logits=outputs))
    y, outputs = np.array([0, 2, 1, 1], dtype), np.float32(normal(4, 3))

    expected = losses.SparseCategoricalCrossentropy(from_logits=True)(y, outputs)
    np.testing.assert_allclose(loss(y, outputs), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_its_loss_of_counts_is_the_sum_over_an_example_and_the_mean_over_the_batch(
    dtype,
):
    y, outputs = np.array([[0, 2, 5], [1, 0, 3]], dtype), normal(2, 3)

    loss = NegativeLogLikelihood(poisson)(y, np.float32(outputs))

    expected = -scipy.stats.poisson.logpmf(y, np.exp(outputs)).sum(axis=1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(("of_y", "of_outputs"), [((4,), (4, 1)), ((4, 1), (4,))])
def test_its_targets_are_not_broadcast_to_all_pairs_of_examples(of_y, of_outputs):
    y, outputs = np.array([0, 2, 1, 5], np.float32), np.float32(normal(4))

    loss = NegativeLogLikelihood(poisson)(y.reshape(of_y), outputs.reshape(of_outputs))

    expected = -scipy.stats.poisson.logpmf(y, np.exp(np.float64(outputs))).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_targets_that_are_no_samples_of_the_distribution_are_refused():
    with pytest.raises(ValueError, match=r"samples.*\(4, 3\). Received: \(4, 2\)"):
        NegativeLogLikelihood(poisson)(np.ones([4, 2]), np.ones([4, 3]))


class Unit:
    """No more of a distribution than is asked for."""

    def __init__(self, mean: tf.Tensor) -> None:
        self.mean = mean

    def log_prob(self, target: tf.Tensor) -> tf.Tensor:
        return -0.5 * tf.square(target - self.mean)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(self.mean)
        return self.mean + tf.random.stateless_normal(shape, seed, dtype=tf.float64)


@pytest.mark.parametrize(
    ("distribution", "output", "fisher"),
    [
        # Of the logarithm of a Poisson's rate: the rate, of what is summed.
        (poisson, np.array([0.3, -0.5]), np.diag(np.exp([0.3, -0.5]))),
        # Of (μ, log σ): 1/σ² and 2.
        (location_and_scale, np.array([0.2, 0.4]), np.diag([np.exp(-0.8), 2])),
        (Unit, np.array([0.2, 0.4]), np.eye(2)),
    ],
)
def test_a_sampled_fisher_product_is_right_on_average(distribution, output, fisher):
    likelihood = likelihood_of(NegativeLogLikelihood(distribution))
    left, right = np.array([1.0, -0.5]), np.array([0.7, -2.0])
    rows = [tf.constant(np.tile(each, (ROWS, 1))) for each in (output, left, right)]

    samples = np.concatenate(
        [likelihood.fisher_product(*rows, tf.constant([7, key])) for key in range(KEYS)]
    )

    assert isinstance(likelihood, Sampled)
    expected = left @ fisher @ right
    assert_mean(samples, expected)
    assert samples.std() / np.sqrt(len(samples)) < 0.05 * expected
    moments = sampled_scores(
        lambda o, key: likelihood.sampled_log_likelihood(o[0], key), output
    )
    assert_second_moment(moments, fisher)


def test_its_config_gives_the_loss_back():
    loss = NegativeLogLikelihood(poisson, reduction="mean", name="counts")

    again = losses.deserialize(losses.serialize(loss))

    assert type(again) is NegativeLogLikelihood
    assert again.distribution is poisson
    assert (again.reduction, again.name) == ("mean", "counts")


@pytest.mark.parametrize("reduction", ["sum", None])
def test_it_has_to_be_a_mean_over_the_batch_too(reduction):
    with pytest.raises(ValueError, match="mean over the batch"):
        likelihood_of(NegativeLogLikelihood(poisson, reduction=reduction))


def test_a_model_is_saved_and_loaded_with_it(tmp_path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", NegativeLogLikelihood(poisson))
    x, y = np.float32(normal(8, 2)), np.arange(8) % 3
    model.fit(x, y, verbose=0)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert loaded.loss.distribution is poisson
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    loaded.fit(x, y, verbose=0)


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
    gram = likelihoods.fisher_gram(outputs, [outputs], KEY)
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
        likelihoods.fisher_gram(outputs, [outputs], KEY)


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
        lambda: likelihoods.fisher_gram(outputs, [outputs], KEY, weight),
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
    gram = gram.fisher_gram(
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

    gram = Likelihoods(loss).fisher_gram(outputs, tangents, KEY).numpy()

    np.testing.assert_array_equal(gram, gram.T)
    eigenvalues = np.linalg.eigvalsh(np.float64(gram))
    assert eigenvalues[0] > -1e-6 * eigenvalues[-1]
    assert eigenvalues[0] < 1e-6 * eigenvalues[-1]


# Half precision -------------------------------------------------------------------
EXTREMES = {
    "gaussian": (losses.MeanSquaredError(), [[0.0, 100.0, -100.0]]),
    "bernoulli": (losses.BinaryCrossentropy(), [[0.0, 1.0, 0.5]]),
    "bernoulli-logits": (
        losses.BinaryCrossentropy(from_logits=True),
        [[-100.0, 100.0, 0.0]],
    ),
    "categorical": (losses.CategoricalCrossentropy(), [[0.0, 1.0, 0.0]]),
    "categorical-logits": (
        losses.CategoricalCrossentropy(from_logits=True),
        [[-100.0, 100.0, 0.0]],
    ),
    "poisson": (NegativeLogLikelihood(poisson), [[-5.0, 5.0, 0.0]]),
}


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
@pytest.mark.parametrize("name", EXTREMES)
def test_results_are_single_and_gradients_finite_whatever_the_precision(name, dtype):
    loss, outputs = EXTREMES[name]
    outputs = tf.constant(np.repeat(outputs, 8, axis=0), dtype)
    likelihoods, y = Likelihoods(loss), tf.one_hot([1] * 8, 3)

    gram = likelihoods.fisher_gram(outputs, [tf.ones_like(outputs)], KEY)
    assert gram.dtype == tf.float32
    assert np.isfinite(gram).all()
    for call in (
        lambda o: likelihoods.sampled_log_likelihood(o, KEY),
        lambda o: likelihoods.log_likelihood(y, o),
        lambda o: likelihood_of(loss).sampled_log_likelihood(o, KEY),
    ):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            values = call(outputs)
        gradient = tape.gradient(values, outputs)
        assert values.dtype == tf.float32
        assert gradient.dtype == dtype
        assert np.isfinite(tf.cast(values, tf.float32)).all()
        assert np.isfinite(tf.cast(gradient, tf.float32)).all()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_rare_events_are_as_rare_in_half_precision(dtype):
    # bfloat16 has 128 uniform numbers: one of 128 would be below any probability.
    outputs = tf.fill([40_000], tf.constant(0.001, dtype))

    [found] = scores(
        lambda o: Bernoulli(from_logits=False).sampled_log_likelihood(o[0], KEY),
        [outputs],
    )

    assert_mean(found > 0, np.array([float(outputs[0])]))


def test_an_example_may_have_more_numbers_than_half_precision_can_count():
    outputs = tf.ones([1, 256, 256, 2], tf.float16)
    product = Gaussian().fisher_product(outputs, outputs, outputs, KEY)
    np.testing.assert_allclose(product, [2.0], rtol=1e-6)


def test_the_likelihood_of_one_s_own_is_given_single_precision():
    class Own(Likelihood):
        def _log_likelihood(self, outputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
            assert outputs.dtype == tf.float32
            return outputs

        def _product(self, *values: tf.Tensor) -> tf.Tensor:
            assert all(value.dtype == tf.float32 for value in values[:3])
            return values[0]

    half = tf.ones([3], tf.float16)
    Own().sampled_log_likelihood(half, KEY)
    Own().fisher_product(half, half, half, KEY)
