"""`fit` by K-FAC: what it computes, what it saves, and what it refuses."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf import kfac
from kfac import twins

EXAMPLES, CLASSES = 96, 3


def make_model(cls=kfac.Sequential, *between: keras.layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(0)
    return cls(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="tanh"),
            *between,
            keras.layers.Dense(CLASSES),
        ]
    )


def make_data() -> tuple[np.ndarray, np.ndarray]:
    x = twins.inputs(EXAMPLES, 5)
    return x, np.argmax(x[:, :CLASSES], axis=1)


def cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(
    *between: keras.layers.Layer, run_eagerly: bool = True, **arguments
) -> keras.Model:
    """A model that is ready for `fit`, in which few steps are quicker without a graph.

    A graph takes seconds to trace. The tests of what it may make another thing of have
    one: the loop of the documentation, several steps in one execution, periods, rows,
    running means, dropout, and a model that is loaded, or built by its first batch.
    """
    model = make_model(kfac.Sequential, *between)
    model.compile(
        kfac.KFAC(**arguments),
        loss=cross_entropy(),
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
    )
    return model


def fit(model: keras.Model, epochs: int = 2, **arguments) -> keras.callbacks.History:
    x, y = make_data()
    return model.fit(
        x, y, batch_size=32, epochs=epochs, shuffle=False, verbose=0, **arguments
    )


def assert_same_weights(left: keras.Model, right: keras.Model, **tolerance) -> None:
    for a, b in zip(left.get_weights(), right.get_weights(), strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


# What it computes -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("inverse", "graph"), [("cholesky", False), ("eigen", False), ("ekfac", True)]
)
def test_fit_is_the_loop_of_the_documentation(inverse, graph):
    # As the loop does it, factors of the whole of each batch.
    fitted = compiled(
        inverse=inverse,
        inverse_update_period=2,
        factor_update_period=1,
        curvature_fraction=1.0,
        run_eagerly=not graph,
    )
    fit(fitted)

    model = make_model()
    optimizer = kfac.KFAC(
        inverse=inverse, factor_update_period=1, inverse_update_period=2
    )
    optimizer.attach(model)
    loss_of = cross_entropy()
    likelihoods = kfac.Likelihoods(loss_of)

    def step(x, y):
        with optimizer.curvature_tape() as curvature_tape, tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = loss_of(y, outputs)
            log_likelihood = likelihoods.sampled_log_likelihood(
                outputs, optimizer.sampling_key()
            )
        optimizer.update_curvature(curvature_tape, log_likelihood)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    x, y = make_data()
    for _ in range(2):
        for start in range(0, EXAMPLES, 32):
            step(tf.constant(x[start : start + 32]), tf.constant(y[start : start + 32]))
    assert_same_weights(fitted, model, rtol=1e-4, atol=1e-6)


def test_another_optimizer_trains_as_ever():
    ours, theirs = make_model(), make_model(keras.Sequential)
    for model in (ours, theirs):
        model.compile(keras.optimizers.SGD(0.1), loss=cross_entropy(), run_eagerly=True)
        fit(model)
    assert_same_weights(ours, theirs)


def test_the_loss_and_the_metrics_of_an_epoch_are_those_of_keras():
    # With a learning rate of nothing the weights stay, and so does the loss.
    model = compiled(learning_rate=0.0)
    history = fit(model, epochs=1).history
    loss, accuracy = model.evaluate(*make_data(), verbose=0)
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    np.testing.assert_allclose(history["accuracy"], [accuracy], rtol=1e-5)


def test_several_steps_in_one_execution_are_the_same_steps():
    # In one graph, beside steps without any.
    one, many = compiled(), make_model()
    many.compile(kfac.KFAC(), loss=cross_entropy(), steps_per_execution=3)
    for model in (one, many):
        fit(model)
    assert_same_weights(one, many, rtol=1e-4, atol=1e-6)


def test_a_schedule_of_the_learning_rate_is_followed():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.0])
    # Six updates, the last three with a learning rate of nothing and no momentum.
    model = compiled(learning_rate=schedule, momentum=0.0)
    fit(model, epochs=1)
    after_one = model.get_weights()
    fit(model, epochs=1)
    for before, after in zip(after_one, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_callbacks_may_change_the_learning_rate():
    model = compiled(momentum=0.0)
    before = model.get_weights()
    callback = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
    fit(model, callbacks=[callback])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_examples_of_no_weight_have_no_say():
    x, y = make_data()
    weight = np.repeat(np.float32([1.0, 0.0]), 16)
    models = []
    for labels in (y[:32], np.concatenate([y[:16], (y[16:32] + 1) % CLASSES])):
        model = compiled(fisher="empirical")
        model.fit(x[:32], labels, sample_weight=weight, batch_size=32, verbose=0)
        models.append(model)
    assert_same_weights(*models)


def test_curvature_is_that_of_the_weighted_loss():
    x, y = make_data()
    factors = []
    for weight in (1.0, 4.0):
        model = compiled()
        weights = np.full(32, weight, np.float32)
        model.fit(x[:32], y[:32], sample_weight=weights, shuffle=False, verbose=0)
        factors.append(model.optimizer.blocks[1].factors().g)
    np.testing.assert_allclose(factors[1], 4.0 * factors[0], rtol=1e-5)


def rows_of_the_first_step(examples: int, **share) -> np.ndarray:
    """Numbers of the rows that make the factors, with a seed of zero."""
    key = tf.random.experimental.stateless_fold_in(tf.constant([0, 0]), 2)
    return kfac.sample_rows(key, tf.range(examples), **share).numpy()


def assert_same_factors(left: keras.Model, right: keras.Model) -> None:
    pairs = zip(left.optimizer.blocks, right.optimizer.blocks, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one.factors().a, other.factors().a, rtol=1e-5)
        np.testing.assert_allclose(
            one.factors().g, other.factors().g, rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
def test_a_part_of_the_batch_makes_the_factors_of_random_rows(fisher):
    graph = fisher == "empirical"
    part = compiled(curvature_fraction=0.25, fisher=fisher, run_eagerly=not graph)
    x, y = make_data()
    weights = np.linspace(0.5, 2.0, 32, dtype=np.float32)
    part.fit(x[:32], y[:32], 32, sample_weight=weights, shuffle=False, verbose=0)
    rows = rows_of_the_first_step(32, fraction=0.25)
    assert len(set(rows)) == 8
    assert sorted(rows) != list(range(8))
    # The same rows of inputs, targets and weights.
    whole = compiled(curvature_fraction=1.0, fisher=fisher)
    whole.fit(
        x[rows], y[rows], 8, sample_weight=weights[rows], shuffle=False, verbose=0
    )
    assert_same_factors(part, whole)


def test_factors_are_made_once_in_their_period_after_the_first():
    often = compiled(factor_update_period=1)
    seldom = compiled(factor_update_period=3, run_eagerly=False)
    for model in (often, seldom):
        fit(model, epochs=3)
    # Weights of the running means after steps 0 to 8, and after 0 to 3 and 6.
    counts = [
        float(twins.state_of(model.optimizer.blocks[0], "factor_weight"))
        for model in (often, seldom)
    ]
    np.testing.assert_allclose(counts, [1 - 0.99**9, 1 - 0.99**5], rtol=1e-5)


def test_of_a_large_batch_no_more_examples_than_are_needed_make_the_factors():
    x = twins.inputs(200, 5)
    y = np.argmax(x[:, :CLASSES], axis=1)
    some = compiled()
    some.fit(x, y, batch_size=200, shuffle=False, verbose=0)
    rows = rows_of_the_first_step(200, max_rows=128)
    same = compiled(curvature_fraction=1.0)
    same.fit(x[rows], y[rows], batch_size=128, shuffle=False, verbose=0)
    assert_same_factors(some, same)


def test_a_pass_for_the_factors_alone_moves_no_running_mean():
    def moving_mean(**arguments) -> np.ndarray:
        model = compiled(
            keras.layers.BatchNormalization(momentum=0.5),
            learning_rate=0.0,
            **arguments,
        )
        fit(model, epochs=1)
        return model.layers[1].moving_mean.numpy()

    np.testing.assert_allclose(
        moving_mean(curvature_fraction=0.5, run_eagerly=False),
        moving_mean(),
        rtol=1e-5,
    )


def test_the_empirical_fisher_matrix_is_that_of_the_given_targets():
    model = compiled(fisher="empirical")
    x, y = make_data()
    weights = [np.float64(w) for w in model.get_weights()]
    model.fit(x[:32], y[:32], batch_size=32, shuffle=False, verbose=0)
    kernel, bias, last_kernel, last_bias = weights
    logits = np.tanh(x[:32] @ kernel + bias) @ last_kernel + last_bias
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    score = np.eye(CLASSES)[y[:32]] - probability
    expected = score.T @ score / 32
    np.testing.assert_allclose(
        model.optimizer.blocks[1].factors().g, expected, rtol=1e-4, atol=1e-6
    )


def test_the_quadratic_step_of_a_linear_model_is_newtons():
    # Squared error of a linear model is its own quadratic model, and with one output
    # and the Fisher matrix of all examples natural gradient is Newton's step.
    keras.utils.set_random_seed(0)
    model = kfac.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(
        kfac.KFAC(
            learning_rate=1.0,
            kl_radius=None,
            step_rule="quadratic",
            damping=1e-7,
            inverse="eigen",
        ),
        loss="mse",
        run_eagerly=True,
    )
    x = twins.inputs(64, 4)
    y = x @ np.float32([[1.0], [-2.0], [0.5], [3.0]]) + 0.25
    model.fit(x, y, batch_size=64, epochs=1, verbose=0)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel[:, 0], [1.0, -2.0, 0.5, 3.0], atol=1e-3)
    np.testing.assert_allclose(bias, [0.25], atol=1e-3)


def test_damping_falls_where_the_quadratic_model_is_exact():
    model = kfac.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(
        kfac.KFAC(
            learning_rate=1.0,
            kl_radius=None,
            step_rule="quadratic",
            damping=1e-3,
            damping_period=2,
        ),
        loss="mse",
        run_eagerly=True,
    )
    x = twins.inputs(64, 4)
    model.fit(x, x @ np.ones([4, 1], np.float32), batch_size=64, epochs=1, verbose=0)
    # The first step is no second one: it stays.
    np.testing.assert_allclose(model.optimizer.current_damping, 1e-3, rtol=1e-6)
    model.fit(x, twins.inputs(64, 1), batch_size=64, epochs=1, verbose=0)
    np.testing.assert_allclose(
        model.optimizer.current_damping, 1e-3 * 0.95**2, rtol=1e-5
    )


def test_damping_rises_where_the_loss_does():
    # A learning rate that is far too large, without a radius.
    model = compiled(
        learning_rate=300.0, kl_radius=None, momentum=0.0, damping_period=1
    )
    fit(model, epochs=1)
    assert float(model.optimizer.current_damping) > 0.001


def test_dropout_does_not_hide_what_a_step_did_to_the_loss():
    # Of steps so short that the quadratic model is exact.
    model = compiled(
        keras.layers.Dropout(0.5),
        kl_radius=1e-9,
        momentum=0.0,
        damping_period=1,
        run_eagerly=False,
    )
    steps = len(fit(model, epochs=2).epoch) * -(-len(make_data()[0]) // 32)
    assert int(model.optimizer.iterations) == steps
    np.testing.assert_allclose(
        model.optimizer.current_damping, 0.001 * 0.95**steps, rtol=1e-4
    )


def test_a_step_that_a_loss_scale_left_out_says_nothing_of_the_damping():
    optimizer = kfac.KFAC(damping_period=1)
    model = make_model()
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(scaled, loss=cross_entropy())
    scaled.build(model.trainable_variables)
    scaled.dynamic_scale.assign(np.inf)  # However often it is halved.
    fit(model, epochs=1)
    assert int(optimizer.iterations) == 0
    np.testing.assert_allclose(optimizer.current_damping, 0.001, rtol=1e-6)


def test_damping_does_not_follow_inside_of_lookahead():
    optimizer = kfac.Lookahead(kfac.KFAC(damping_period=6))
    with pytest.raises(ValueError, match="`damping_period` must be None inside"):
        make_model().compile(optimizer, loss=cross_entropy())


def test_metrics_may_be_given_by_place():
    model = make_model()
    model.compile(kfac.KFAC(), cross_entropy(), None, ["accuracy"], run_eagerly=True)
    assert "accuracy" in fit(model, epochs=1).history


def test_weights_decay_as_keras_says():
    # Without a gradient to speak of: θ ← θ (1 − lr · decay).
    model = compiled(learning_rate=0.1, weight_decay=0.5, kl_radius=1e-20)
    before = model.get_weights()
    x, y = make_data()
    model.fit(x[:32], y[:32], batch_size=32, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, 0.95 * old, rtol=1e-5, atol=1e-7)


# Several outputs --------------------------------------------------------------------
def two_outputs(form: type) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    trunk = keras.layers.Dense(6, activation="tanh")(inputs)
    kind = keras.layers.Dense(CLASSES, name="kind")(trunk)
    size = keras.layers.Dense(2, name="size")(trunk)
    outputs = {"kind": kind, "size": size} if form is dict else [kind, size]
    return kfac.Model(inputs, outputs)


def fit_two_outputs(form: type, epochs: int, run_eagerly: bool) -> tuple[Any, Any]:
    """The model, whose losses, weights and targets have that form, and its history."""
    model = two_outputs(form)
    x, y = make_data()
    losses = {"kind": cross_entropy(), "size": "mse"}
    weights, targets = {"kind": 1.0, "size": 0.5}, {"kind": y, "size": x[:, 3:]}
    if form is list:
        losses, weights, targets = (
            list(each.values()) for each in (losses, weights, targets)
        )
    # By place, as in Keras.
    optimizer = kfac.KFAC(learning_rate=0.3)
    model.compile(optimizer, losses, weights, run_eagerly=run_eagerly)
    scales = sorted(part.weight for part in model._likelihoods._parts.values())
    assert scales == [0.5, 1.0]
    fitted = model.fit(
        x, targets, batch_size=32, epochs=epochs, shuffle=False, verbose=0
    )
    return model, fitted.history


def test_several_outputs_have_each_their_loss_and_weight():
    _, history = fit_two_outputs(dict, 15, run_eagerly=False)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_outputs_in_a_list_train_as_those_in_a_dictionary():
    pair = [fit_two_outputs(form, 1, run_eagerly=True)[0] for form in (dict, list)]
    assert_same_weights(*pair, rtol=1e-4, atol=1e-6)
    assert np.abs(pair[0].get_weights()[0] - two_outputs(dict).get_weights()[0]).max()


# Saving -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "graph"),
    [
        # Part of the others, but for what differs in the last digit.
        pytest.param({}, False, marks=pytest.mark.slow),
        pytest.param({"inverse": "eigen"}, False, marks=pytest.mark.slow),
        ({"inverse": "ekfac"}, False),
        ({"inverse_thread": True, "inverse_update_period": 2}, False),
        ({"step_rule": "quadratic", "learning_rate": 1.0, "damping_period": 2}, False),
        ({"curvature_fraction": 0.5, "factor_update_period": 2}, True),
    ],
    ids=str,
)
def test_the_next_steps_after_loading_are_those_without(arguments, graph, tmp_path):
    model = compiled(
        keras.layers.BatchNormalization(), run_eagerly=not graph, **arguments
    )
    fit(model, epochs=1)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded.optimizer) is kfac.KFAC
    loaded.run_eagerly = not graph
    for model_of_two in (model, loaded):
        fit(model_of_two, epochs=1)
    assert_same_weights(model, loaded)
    for left, right in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_functional_model_is_saved_as_what_it_is(tmp_path):
    model = two_outputs(dict)
    model.compile(
        kfac.KFAC(),
        loss={"kind": cross_entropy(), "size": "mse"},
        metrics={},
        run_eagerly=True,
    )
    x, y = make_data()
    model.fit(x, {"kind": y, "size": x[:, 3:]}, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded(x)["kind"], model(x)["kind"])


# Kinds of models --------------------------------------------------------------------
def test_a_model_that_is_built_by_its_first_batch_trains():
    model = kfac.Sequential(
        [keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(CLASSES)]
    )
    model.compile(kfac.KFAC(learning_rate=0.3), loss=cross_entropy())
    history = fit(model, epochs=10).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_a_model_of_ones_own_trains():
    @keras.saving.register_keras_serializable(package="tests")
    class Own(kfac.FitWithKFAC, keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.Dense(6, activation="tanh")
            self.second = keras.layers.Dense(CLASSES)

        def build(self, input_shape):
            self.first.build(input_shape)
            self.second.build((None, 6))

        def call(self, inputs):
            return self.second(self.first(inputs))

    model = Own()
    model.compile(kfac.KFAC(learning_rate=0.3), loss=cross_entropy())
    history = fit(model, epochs=10).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_half_precision_has_factors_in_single_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(keras.layers.LayerNormalization(), learning_rate=0.3)
        history = fit(model, epochs=10).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(v.dtype == "float32" for v in model.optimizer.variables[2:-10])
    assert history["loss"][-1] < 0.7 * history["loss"][0]


# What is refused --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mae"}, "needs a loss that is a log-likelihood"),
        ({"loss": "mse", "jit_compile": True}, "Received: jit_compile=True"),
        (
            {"loss": keras.losses.MeanSquaredError(reduction="sum")},
            "Received: reduction='sum'",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model().compile(kfac.KFAC(), **arguments)


def test_a_step_of_the_quadratic_model_cannot_be_wrapped():
    optimizer = kfac.Lookahead(kfac.KFAC(step_rule="quadratic"))
    with pytest.raises(ValueError, match="cannot be wrapped"):
        make_model().compile(optimizer, loss=cross_entropy())


def test_a_list_of_outputs_may_have_a_dictionary_of_losses():
    model = two_outputs(list)
    losses = {"kind": cross_entropy(), "size": "mse"}
    model.compile(kfac.KFAC(), loss=losses, run_eagerly=True)
    x, y = make_data()
    history = model.fit(x, [y, x[:, 3:]], epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]


def test_the_quadratic_step_weighs_examples_as_the_loss_does():
    # Four times the loss, curvature and damping are the same step.
    models = []
    for weight in (1.0, 4.0):
        model = compiled(
            step_rule="quadratic",
            learning_rate=1.0,
            kl_radius=None,
            damping=1e-3 * weight,
            inverse="eigen",
        )
        x, y = make_data()
        weights = np.full(32, weight, np.float32)
        model.fit(x[:32], y[:32], sample_weight=weights, shuffle=False, verbose=0)
        models.append(model)
    assert_same_weights(*models, rtol=1e-4, atol=1e-5)


def test_an_optimizer_belongs_to_one_model():
    optimizer = kfac.KFAC()
    make = make_model()
    make.compile(optimizer, loss=cross_entropy())
    with pytest.raises(ValueError, match=r"attached to model `.*` already"):
        make_model().compile(optimizer, loss=cross_entropy())


def test_keras_own_model_is_told_what_to_use():
    model = make_model(keras.Sequential)
    model.compile(kfac.KFAC(), loss=cross_entropy(), jit_compile=False)
    with pytest.raises(ValueError, match=r"or compile a `kfac.Model`"):
        fit(model)
