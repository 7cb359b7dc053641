"""Lookahead: its steps, what it leaves to the inner optimizer, and what it saves."""

import json
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from acktr_tf import kfac
from kfac import twins
from kfac.pairwise import pairwise

START = np.array([1.0, -2.0, 0.5])
HESSIAN = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 2.0]])
TARGET = np.array([0.7, 0.1, -0.4])

# Keras holds them in float32.
RATE, MOMENTUM = 0.125, 0.875

INNER = {
    "sgd": lambda: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(RATE, weight_decay=0.01, clipnorm=0.5),
    "rmsprop": lambda: keras.optimizers.RMSprop(RATE, centered=True),
    "muon": lambda: keras.optimizers.Muon(RATE),
}
if not hasattr(keras.optimizers, "Muon"):
    del INNER["muon"]  # The oldest Keras supported has none.


def gradient(theta):
    """Of ½ (θ − target)ᵀ H (θ − target)."""
    return HESSIAN @ (theta - TARGET)


def weight(dtype: str = "float64", **arguments) -> keras.Variable:
    return keras.Variable(START, dtype=dtype, **arguments)


def stepper(
    optimizer: keras.optimizers.Optimizer, theta: keras.Variable
) -> Callable[[], None]:
    """What makes a step down the quadratic."""

    def step() -> None:
        hessian, target = tf.cast(HESSIAN, theta.dtype), tf.cast(TARGET, theta.dtype)
        optimizer.apply([tf.linalg.matvec(hessian, theta.value - target)], [theta])

    return step


def ones(optimizer: keras.optimizers.Optimizer, *variables: keras.Variable) -> None:
    """One step with gradients of ones."""
    optimizer.apply([tf.ones(v.shape, v.dtype) for v in variables], variables)


# Steps beside the twin ------------------------------------------------------------
def sgd_twin(
    steps: int, period: int, alpha: float, momentum: float, keep_state: bool = True
) -> list[np.ndarray]:
    """The fast weights after each step, by Algorithm 1."""
    theta, phi, velocity, path = START.copy(), START.copy(), np.zeros(3), []
    for count in range(1, steps + 1):
        velocity = momentum * velocity - RATE * gradient(theta)
        theta = theta + velocity
        if count % period == 0:
            phi = phi + alpha * (theta - phi)
            theta = phi
            velocity = velocity * keep_state
        path.append(theta)
    return path


PERIODS = [(1, 0.5), (2, 0.5), (3, 0.8), (5, 1.0), (6, 0.1)]


@pytest.mark.parametrize(
    ("period", "momentum", "compiled"),
    pairwise(PERIODS, [0.0, MOMENTUM], {"eager": False, "compiled": True}),
)
def test_thirteen_steps_of_sgd_equal_the_float64_twin(period, momentum, compiled):
    period, alpha = period
    theta = weight()
    optimizer = kfac.Lookahead(keras.optimizers.SGD(RATE, momentum), period, alpha)
    take = stepper(optimizer, theta)
    take = tf.function(take) if compiled else take
    for expected in sgd_twin(13, period, alpha, momentum):
        take()
        np.testing.assert_allclose(theta, expected, rtol=1e-12, atol=1e-14)


def test_four_steps_by_hand():
    # k = 2, α = ½, steps of ½ down a slope of one:
    # φ = 1: θ = ½, 0;  φ = 1 + ½ (0 − 1) = ½: θ = 0, −½;  φ = ½ + ½ (−½ − ½) = 0.
    theta = keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5), 2, 0.5)
    path = []
    for _ in range(4):
        ones(optimizer, theta)
        path.append((float(theta), float(optimizer.slow_weights[0])))
    assert path == [(0.5, 1.0), (0.5, 0.5), (0.0, 0.5), (0.0, 0.0)]


def test_momentum_is_kept_and_not_reset_at_a_synchronization():
    theta = weight()
    optimizer = kfac.Lookahead(keras.optimizers.SGD(RATE, MOMENTUM), 2, 0.5)
    step = stepper(optimizer, theta)
    for _ in range(4):
        step()
    np.testing.assert_allclose(theta, sgd_twin(4, 2, 0.5, MOMENTUM)[-1], rtol=1e-12)
    reset = sgd_twin(4, 2, 0.5, MOMENTUM, keep_state=False)[-1]
    assert np.abs(theta.numpy() - reset).max() > 0.01


# Other optimizers -----------------------------------------------------------------
def matrix_and_bias() -> list[keras.Variable]:
    return [
        keras.Variable(twins.inputs(3, 4), name="kernel"),
        keras.Variable(twins.inputs(4, seed=2), name="bias"),
    ]


def path_of(
    optimizer: keras.optimizers.Optimizer,
    steps: int,
    after: Callable[[int, list[keras.Variable]], None] = lambda count, variables: None,
) -> list[list[np.ndarray]]:
    """The weights after each of some steps with gradients that depend on them."""
    variables, path = matrix_and_bias(), []
    for count in range(1, steps + 1):
        optimizer.apply([tf.sin(3.0 * v.value) for v in variables], variables)
        after(count, variables)
        path.append([v.numpy() for v in variables])
    return path


def assert_same_paths(
    left: list[list[np.ndarray]], right: list[list[np.ndarray]], **tolerance: float
) -> None:
    for weights, same in zip(left, right, strict=True):
        for a, b in zip(weights, same, strict=True):
            np.testing.assert_allclose(a, b, **tolerance)


def synchronize_by_hand(period: int, alpha: float) -> Callable:
    """Algorithm 1 around an optimizer of its own."""
    slow = [v.numpy() for v in matrix_and_bias()]

    def synchronize(count: int, variables: list[keras.Variable]) -> None:
        if count % period == 0:
            for index, variable in enumerate(variables):
                slow[index] = slow[index] + alpha * (variable.numpy() - slow[index])
                variable.assign(slow[index])

    return synchronize


@pytest.mark.parametrize("make_inner", INNER.values(), ids=INNER)
def test_with_period_and_step_size_one_it_is_the_inner_optimizer_bit_for_bit(
    make_inner,
):
    alone = path_of(make_inner(), 5)
    inside = path_of(kfac.Lookahead(make_inner(), 1, 1.0), 5)
    assert_same_paths(inside, alone, rtol=0.0)


@pytest.mark.parametrize("make_inner", INNER.values(), ids=INNER)
def test_steps_equal_the_inner_optimizer_synchronized_by_hand(make_inner):
    by_hand = path_of(make_inner(), 7, synchronize_by_hand(3, 0.25))
    inside = path_of(kfac.Lookahead(make_inner(), 3, 0.25), 7)
    alone = path_of(make_inner(), 7)
    assert_same_paths(inside, by_hand, rtol=1e-5, atol=1e-6)
    assert np.abs(inside[-1][0] - alone[-1][0]).max() > 1e-3


def test_with_accumulated_gradients_the_period_counts_updates():
    def make_inner() -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)

    by_hand = path_of(make_inner(), 9, synchronize_by_hand(2 * 3, 0.3))
    inside = path_of(kfac.Lookahead(make_inner(), 3, 0.3), 9)
    assert_same_paths(inside, by_hand, rtol=1e-5, atol=1e-6)


def test_one_lookahead_fits_into_another():
    # Of a constant slope: the inner one is ½ every 2 steps, the outer ½ of it every 4.
    theta = keras.Variable(0.0)
    inner = kfac.Lookahead(keras.optimizers.SGD(1.0), 2, 0.5)
    optimizer = kfac.Lookahead(inner, 4, 0.5)
    path = []
    for _ in range(4):
        ones(optimizer, theta)
        path.append(float(theta))
    assert path == [-1.0, -1.0, -2.0, -1.0]


def test_every_weight_is_synchronized_also_those_without_a_gradient_just_then():
    left, right = keras.Variable(1.0), keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5), 2, 0.5)
    optimizer.build([left, right])
    ones(optimizer, right)
    ones(optimizer, left)
    assert (float(left), float(right)) == (0.75, 0.75)


def test_gradients_without_variables_are_of_those_it_was_built_with():
    first, second = keras.Variable(1.0), keras.Variable(1.0)
    inner = keras.optimizers.SGD(0.5)
    # In another order.
    inner.build([second, first])
    optimizer = kfac.Lookahead(inner, 2)
    optimizer.build([first, second])
    optimizer.apply([tf.constant(1.0), tf.constant(0.0)])
    assert (float(first), float(second)) == (0.5, 1.0)


def test_apply_gradients_is_apply():
    theta = keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5), 1, 0.5)
    optimizer.apply_gradients([(tf.constant(1.0), theta)])
    assert float(theta) == 0.75


# Where the slow weights start -----------------------------------------------------
def test_slow_weights_are_the_weights_when_it_is_built():
    theta = weight()
    optimizer = kfac.Lookahead(keras.optimizers.SGD(RATE))
    optimizer.build([theta])
    np.testing.assert_array_equal(optimizer.slow_weights[0], START)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_slow_weights_are_the_weights_when_a_compiled_step_builds_it(jit_compile):
    theta = weight()
    optimizer = kfac.Lookahead(keras.optimizers.SGD(RATE), sync_period=2)
    tf.function(stepper(optimizer, theta), jit_compile=jit_compile)()
    np.testing.assert_array_equal(optimizer.slow_weights[0], START)


def test_weights_that_are_set_before_the_first_step_are_where_slow_ones_start():
    theta = keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5), 2, 0.5)
    optimizer.build([theta])
    theta.assign(3.0)
    ones(optimizer, theta)
    assert float(optimizer.slow_weights[0]) == 3.0
    ones(optimizer, theta)
    assert float(theta) == 2.5


def test_weights_that_are_set_later_are_drawn_back_to_the_slow_ones():
    theta = keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5), 2, 0.5)
    ones(optimizer, theta)
    theta.assign(3.0)
    ones(optimizer, theta)
    assert float(theta) == 1.0 + 0.5 * (2.5 - 1.0)


# Faults ---------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_weights_that_are_not_finite_never_reach_the_slow_ones(bad, alpha):
    left, right = keras.Variable(1.0), keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5), 2, alpha)
    ones(optimizer, left, right)
    optimizer.apply([tf.constant(bad), tf.constant(1.0)], [left, right])
    # All go back, those too that are finite: the steps were of one point.
    assert [float(v) for v in (left, right, *optimizer.slow_weights)] == [1.0] * 4
    for _ in range(2):
        ones(optimizer, left, right)
    assert [float(v) for v in (left, right)] == [1.0 - alpha] * 2


def test_a_step_that_kfac_skips_changes_neither_fast_nor_slow_weights():
    model = make_model(keras.Sequential)
    inner = kfac.KFAC()
    inner.attach(model)
    optimizer, variables = kfac.Lookahead(inner, 1), model.trainable_variables
    optimizer.apply([tf.fill(v.shape, np.nan) for v in variables], variables)
    assert int(inner.skipped_steps) == 1
    start = make_model(keras.Sequential).trainable_variables
    for watched in (variables, optimizer.slow_weights):
        for variable, same in zip(watched, start, strict=True):
            np.testing.assert_array_equal(variable, same)


def test_weights_keep_to_their_constraint():
    # Between two vectors of norm one the straight way leads through shorter ones.
    theta = weight("float32")
    theta.constraint = keras.constraints.UnitNorm()
    theta.assign(theta.constraint(theta))
    optimizer = kfac.Lookahead(keras.optimizers.SGD(1.0), 2, 0.5)
    step = stepper(optimizer, theta)
    for _ in range(4):
        step()
        assert np.linalg.norm(theta) == pytest.approx(1.0, abs=1e-5)


# Fit ------------------------------------------------------------------------------
EXAMPLES, BATCH = 48, 16


def make_model(cls: type[keras.Model]) -> keras.Model:
    model = cls(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    twins.randomize(model)
    return model


def compiled(
    optimizer: keras.optimizers.Optimizer,
    cls: type[keras.Model] | None = None,
    run_eagerly: bool = False,
) -> keras.Model:
    """A model of the class that the optimizer needs."""
    model = make_model(cls or keras.Sequential)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, run_eagerly=run_eagerly)
    return model


def fit(model: keras.Model, epochs: int, **arguments) -> keras.callbacks.History:
    """Of three steps an epoch."""
    x = twins.inputs(EXAMPLES, 5)
    return model.fit(
        x,
        np.argmax(x[:, :3], axis=1),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        **arguments,
    )


def first_weight(model: keras.Model) -> np.ndarray:
    """Its first weight."""
    return model.get_weights()[0]


class Synchronize(keras.callbacks.Callback):
    """Algorithm 1, between the batches of `fit`."""

    def __init__(self, period: int, alpha: float) -> None:
        super().__init__()
        self.period, self.alpha, self.steps = period, alpha, 0

    def on_train_begin(self, logs=None):
        self.slow = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps % self.period == 0:
            self.slow = [
                slow + self.alpha * (fast - slow)
                for slow, fast in zip(self.slow, self.model.get_weights(), strict=True)
            ]
            self.model.set_weights(self.slow)


@pytest.mark.parametrize(
    ("make_inner", "cls"),
    [
        (lambda: keras.optimizers.Adam(0.01), keras.Sequential),
        (lambda: kfac.KFAC(inverse_update_period=2), kfac.Sequential),
    ],
    ids=["adam", "kfac"],
)
def test_fit_equals_a_fit_that_is_synchronized_by_hand(make_inner, cls):
    # Few steps are quicker without a graph, which only Lookahead's own are in.
    by_hand = compiled(make_inner(), cls, run_eagerly=True)
    expected = fit(by_hand, 3, callbacks=[Synchronize(4, 0.5)]).history
    model = compiled(kfac.Lookahead(make_inner(), 4, 0.5), cls)
    # In two parts, the first of which ends between two synchronizations.
    found = fit(model, 1).history["loss"] + fit(model, 2).history["loss"]

    np.testing.assert_allclose(found, expected["loss"], rtol=1e-4)
    for left, right in zip(model.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
    without = compiled(make_inner(), cls, run_eagerly=True)
    fit(without, 3)
    assert np.abs(without.get_weights()[0] - first_weight(model)).max() > 1e-3


def test_with_period_and_step_size_one_fit_is_that_by_kfac_bit_for_bit():
    alone, inside = (
        compiled(optimizer, kfac.Sequential, run_eagerly=True)
        for optimizer in (kfac.KFAC(), kfac.Lookahead(kfac.KFAC(), 1, 1.0))
    )
    for model in (alone, inside):
        fit(model, 2)
    pairs = zip(alone.get_weights(), inside.get_weights(), strict=True)
    for left, right in pairs:
        np.testing.assert_array_equal(left, right)


def test_kfac_inside_learns():
    inner = kfac.KFAC(learning_rate=0.3)
    model = compiled(kfac.Lookahead(inner, 5), kfac.Sequential)
    loss = fit(model, 20).history["loss"]
    assert loss[-1] < 0.5 * loss[0]
    assert int(inner.iterations) == 60


def test_a_model_that_is_built_by_its_first_batch_trains():
    model = kfac.Sequential([keras.layers.Dense(3)])
    optimizer = kfac.Lookahead(kfac.KFAC(learning_rate=0.3), 2)
    model.compile(optimizer, loss="mse")
    x = twins.inputs(EXAMPLES, 5)
    history = model.fit(x, x[:, :3], epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_a_second_call_does_not_trace_again():
    theta = weight()
    optimizer = kfac.Lookahead(keras.optimizers.Adam(RATE), 2)
    optimizer.build([theta])
    take = tf.function(stepper(optimizer, theta))
    for _ in range(5):
        take()
    assert take.experimental_get_tracing_count() == 1
    assert int(optimizer.iterations) == 5


# What is the inner optimizer's ----------------------------------------------------
def test_the_learning_rate_is_that_of_the_inner_optimizer_and_can_be_set():
    theta = keras.Variable(1.0)
    inner = keras.optimizers.SGD(0.5)
    optimizer = kfac.Lookahead(inner, 1, 1.0)
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.125
    assert float(inner.learning_rate) == 0.125
    ones(optimizer, theta)
    assert float(theta) == 0.875


def test_the_learning_rate_follows_the_schedule_of_the_inner_optimizer():
    theta = keras.Variable(1.0)
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 2, end_learning_rate=0.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(schedule), 1, 1.0)
    path, rates = [], []
    for _ in range(3):
        rates.append(float(optimizer.learning_rate))
        ones(optimizer, theta)
        path.append(float(theta))
    assert rates == [0.5, 0.25, 0.0]
    assert path == [0.5, 0.25, 0.25]
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = 0.1


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2), RATE / 8),
        # No improvement is enough for it, but the first epoch's, which it cannot judge.
        (
            keras.callbacks.ReduceLROnPlateau(
                "loss", factor=0.5, patience=1, min_delta=1e9
            ),
            RATE / 4,
        ),
    ],
    ids=["schedule", "plateau"],
)
def test_callbacks_change_the_learning_rate_of_the_inner_optimizer(callback, expected):
    inner = keras.optimizers.SGD(RATE)
    model = compiled(kfac.Lookahead(inner), run_eagerly=True)
    fit(model, 3, callbacks=[callback])
    assert float(inner.learning_rate) == expected


def test_the_loss_is_scaled_as_the_inner_optimizer_scales_it():
    theta = keras.Variable(1.0)
    optimizer = kfac.Lookahead(keras.optimizers.SGD(0.5, loss_scale_factor=8.0), 1, 1.0)
    assert float(optimizer.scale_loss(tf.constant(1.0))) == 8.0
    optimizer.apply([tf.constant(8.0)], [theta])
    assert float(theta) == 0.5


def test_a_loss_scale_optimizer_around_it_steps_as_around_the_inner_optimizer():
    found = []
    for wrap in (lambda inner: inner, lambda inner: kfac.Lookahead(inner, 1, 1.0)):
        theta = keras.Variable(1.0)
        # Keras 3.8 divides by both scales, later ones by the outer one alone.
        inner = keras.optimizers.SGD(0.5, loss_scale_factor=8.0)
        optimizer = keras.optimizers.LossScaleOptimizer(wrap(inner), initial_scale=4.0)
        optimizer.apply([tf.constant(4.0)], [theta])
        found.append(float(theta))
    assert found[0] == found[1] != 1.0


def test_a_step_that_a_loss_scale_optimizer_inside_skips_is_not_counted():
    theta = keras.Variable(1.0)
    inner = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5), initial_scale=1.0
    )
    optimizer = kfac.Lookahead(inner, 2, 0.5)
    ones(optimizer, theta)
    optimizer.apply([tf.constant(np.nan, tf.float32)], [theta])
    assert (int(optimizer.iterations), float(theta)) == (1, 0.5)
    # The scale is ½ since then.
    optimizer.apply([tf.constant(0.5)], [theta])
    assert (int(optimizer.iterations), float(theta)) == (2, 0.5)


def test_half_precision_trains_with_kfac_inside():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(
            kfac.Lookahead(kfac.KFAC(learning_rate=0.3), 5), kfac.Sequential
        )
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        history = fit(model, 20).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_a_moving_average_inside_is_in_force_at_the_end_of_fit():
    inner = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5)
    model = compiled(kfac.Lookahead(inner, 2))
    fit(model, 1)
    average = inner._model_variables_moving_average[0]
    np.testing.assert_array_equal(model.trainable_variables[0], average)


# Saving ---------------------------------------------------------------------------
@pytest.mark.parametrize("inner", [*INNER, "kfac", "schedule"])
def test_config_round_trip(inner):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 4)
    makers = INNER | {
        "kfac": lambda: kfac.KFAC(kl_radius=0.002),
        "schedule": lambda: keras.optimizers.SGD(schedule),
    }
    optimizer = kfac.Lookahead(makers[inner](), 3, 0.25, name="mine")
    config = json.loads(json.dumps(optimizer.get_config()))
    again = kfac.Lookahead.from_config(config)
    assert again.get_config() == optimizer.get_config()
    assert (again.sync_period, again.slow_step_size, again.name) == (3, 0.25, "mine")
    assert type(again.inner_optimizer) is type(optimizer.inner_optimizer)


def test_serialization_round_trip():
    optimizer = kfac.Lookahead(keras.optimizers.Adam(RATE, beta_1=0.8))
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(json.loads(json.dumps(config)))
    assert type(again) is kfac.Lookahead
    assert keras.optimizers.serialize(again) == config


def all_variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


@pytest.mark.parametrize(
    ("make_inner", "cls"),
    [
        (lambda: keras.optimizers.Adam(0.01), keras.Sequential),
        (lambda: kfac.KFAC(inverse_update_period=2), kfac.Sequential),
    ],
    ids=["adam", "kfac"],
)
def test_the_next_steps_after_loading_are_those_without_bit_for_bit(
    make_inner, cls, tmp_path
):
    # Saved after three steps, between two synchronizations.
    model = compiled(kfac.Lookahead(make_inner(), 4, 0.5), cls, run_eagerly=True)
    fit(model, 1)
    slow = model.optimizer.slow_weights[0]
    assert (slow.numpy() != first_weight(model)).any()
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded.optimizer) is kfac.Lookahead
    loaded.run_eagerly = True

    np.testing.assert_array_equal(loaded.optimizer.slow_weights[0], slow)
    for _ in range(2):
        for model_of_two in (model, loaded):
            fit(model_of_two, 1)
        pairs = zip(all_variables(model), all_variables(loaded), strict=True)
        for left, right in pairs:
            np.testing.assert_array_equal(left, right)
    assert int(loaded.optimizer.iterations) == 9


def test_slow_weights_start_from_loaded_weights_if_it_was_saved_before_any_step(
    tmp_path,
):
    model = compiled(kfac.Lookahead(keras.optimizers.SGD(RATE)))
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.warns(UserWarning, match="slow weights of `lookahead` start anew"):
        loaded = keras.models.load_model(path)
    fit(loaded, 1)
    np.testing.assert_array_equal(loaded.optimizer.slow_weights[0], first_weight(model))


def test_set_weights_restores_its_own_variables_and_those_inside():
    optimizer = kfac.Lookahead(keras.optimizers.Adam(RATE), 4, 0.5)
    theta = weight()
    step = stepper(optimizer, theta)
    for _ in range(3):
        step()
    saved = [v.numpy() for v in optimizer.variables]
    other = kfac.Lookahead(keras.optimizers.Adam(RATE), 4, 0.5)
    same = keras.Variable(theta.numpy(), dtype="float64")
    other.build([same])
    other.set_weights(saved)
    other_step = stepper(other, same)
    for _ in range(3):
        step()
        other_step()
        np.testing.assert_array_equal(same, theta)


def test_the_inner_optimizer_is_saved_once():
    optimizer = kfac.Lookahead(keras.optimizers.Adam(RATE))
    optimizer.build([weight()])
    store = {}
    optimizer.save_own_variables(store)
    # Its count of steps, and the slow weights.
    assert len(store) == 2
    assert len(optimizer.variables) == 2 + len(optimizer.inner_optimizer.variables)


# What is refused ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("sync_period", 0, "at least 1"),
        ("sync_period", -3, "at least 1"),
        ("sync_period", float("nan"), "at least 1"),
        ("sync_period", 2.5, "a whole number"),
        ("slow_step_size", 0.0, r"in \(0, 1\]"),
        ("slow_step_size", 1.5, r"in \(0, 1\]"),
        ("slow_step_size", float("nan"), r"in \(0, 1\]"),
        ("inner_optimizer", "adam", "a Keras optimizer"),
        ("inner_optimizer", None, "a Keras optimizer"),
    ],
)
def test_an_argument_out_of_range_is_named(name, value, accepted):
    arguments = {"inner_optimizer": keras.optimizers.SGD(), name: value}
    with pytest.raises(
        ValueError, match=rf"`{name}` must be {accepted}\. Received: {name}="
    ):
        kfac.Lookahead(**arguments)


def test_the_message_has_the_value_received():
    with pytest.raises(ValueError, match=r"Received: sync_period=0$"):
        kfac.Lookahead(keras.optimizers.SGD(), sync_period=0)


def test_keras_arguments_belong_to_the_inner_optimizer():
    with pytest.raises(TypeError, match="clipnorm"):
        kfac.Lookahead(keras.optimizers.SGD(), clipnorm=1.0)


@pytest.mark.parametrize("build", [False, True])
def test_gradients_that_are_not_as_many_as_variables_are_refused(build):
    optimizer = kfac.Lookahead(keras.optimizers.SGD())
    if build:
        optimizer.build(matrix_and_bias())
    with pytest.raises(ValueError, match=r"a variable\. Received: 3 gradients"):
        optimizer.apply([tf.constant(1.0)] * 3)
