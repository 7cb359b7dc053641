"""Likelihoods of losses beside Keras' own losses, differentiated in float64."""

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
from kfac.likelihood_oracles import (
    BERNOULLI,
    BERNOULLI_LOGITS,
    CASES,
    CATEGORICAL,
    CATEGORICAL_LOGITS,
    GAUSSIAN,
    KEY,
    KEYS,
    ROWS,
    assert_mean,
    assert_second_moment,
    exact_fisher,
    normal,
    outputs_for,
    poisson,
    sampled_scores,
    scores,
)

tfd = tfp.distributions
losses = keras.losses


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
        gram = likelihoods.fisher_inner_products(values, [values], KEY, weight)
        return likelihoods.sampled_log_likelihood(values, KEY, weight), gram

    found = traced(outputs)

    values = tf.constant(outputs)
    expected = likelihoods.sampled_log_likelihood(values, KEY)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    gram = likelihoods.fisher_inner_products(values, [values], KEY)
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

    gram = likelihoods.fisher_inner_products(outputs, [tf.ones_like(outputs)], KEY)
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
