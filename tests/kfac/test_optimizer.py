import dataclasses
import inspect
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import kfac as oracle
from oracles.networks import log_softmax

from acktr_tf.kfac import KFAC, CurvatureTape, control
from acktr_tf.kfac.settings import KFACSettings
from acktr_tf.kfac.trust_region import RADIUS_CHANGE
from kfac import twins
from kfac.pairwise import pairwise

EXAMPLES = 6
CLASSES = 3


# Steps beside the twin ------------------------------------------------------------
class Problem:
    """A loss, and sampled targets, that TensorFlow and the twin compute alike.

    The outputs are CLASSES logits and a value.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(EXAMPLES, 5, 5, 2)).astype(np.float32)
        self.actions = rng.integers(CLASSES, size=EXAMPLES)
        self.noise = rng.normal(size=EXAMPLES).astype(np.float32)
        self.taken = rng.integers(CLASSES, size=EXAMPLES)
        self.advantages = rng.normal(size=EXAMPLES).astype(np.float32)
        self.returns = rng.normal(size=EXAMPLES).astype(np.float32)

    def log_likelihood(self, outputs: tf.Tensor) -> tf.Tensor:
        log_p = tf.nn.log_softmax(outputs[:, :-1])
        value = tf.stop_gradient(outputs[:, -1]) + self.noise
        return tf.gather(log_p, self.actions, batch_dims=1) - 0.5 * tf.square(
            value - outputs[:, -1]
        )

    def log_likelihood_twin(self, outputs: np.ndarray) -> np.ndarray:
        # The target value is the real part's, fixed while outputs are nudged.
        value = outputs[:, -1].real + self.noise
        log_p = log_softmax(outputs[:, :-1])[np.arange(EXAMPLES), self.actions]
        return log_p - 0.5 * (value - outputs[:, -1]) ** 2

    def loss(self, outputs: tf.Tensor) -> tf.Tensor:
        log_p = tf.nn.log_softmax(outputs[:, :-1])
        policy = -self.advantages * tf.gather(log_p, self.taken, batch_dims=1)
        return tf.reduce_mean(policy + 0.5 * tf.square(outputs[:, -1] - self.returns))

    def loss_twin(self, outputs: np.ndarray) -> np.ndarray:
        log_p = log_softmax(outputs[:, :-1])[np.arange(EXAMPLES), self.taken]
        return -self.advantages * log_p + 0.5 * (outputs[:, -1] - self.returns) ** 2


def conv_and_dense() -> twins.Twin:
    return twins.Twin(
        (5, 5, 2),
        [
            keras.layers.Conv2D(3, 2, 2, padding="same", activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="relu"),
        ],
        [keras.layers.Dense(CLASSES), keras.layers.Dense(1)],
    )


SETTINGS = {
    "learning_rate": 0.3,
    "kl_radius": 0.003,
    "bound": "direction",
    "momentum": 0.9,
    "damping": 0.01,
    "factor_decay": 0.8,
    "inverse_update_period": 2,
}


def update(optimizer: KFAC, twin: twins.Twin, problem: Problem) -> None:
    """One update, of curvature and weights, with the package."""
    with CurvatureTape(optimizer.layers) as curvature_tape:
        log_likelihood = problem.log_likelihood(twin.outputs(problem.x))
    optimizer.update_curvature(curvature_tape, log_likelihood)
    variables = twin.model.trainable_variables
    with tf.GradientTape() as tape:
        loss = problem.loss(twin.outputs(problem.x))
    optimizer.apply(tape.gradient(loss, variables), variables)


# The dense layer first, the heads together.
IN_TURNS = {"inverse_update_period": 3, "offsets": [1, 0, 2, 2]}
OF_UPDATE = {"bound": "update", "kl_radius": 0.0003}


# To trace takes the most of the time. One graph has all branches; the others are slow.
@pytest.mark.parametrize(
    ("changed", "compiled"),
    [
        (IN_TURNS, False),
        pytest.param(IN_TURNS, True, marks=pytest.mark.slow),
        ({}, False),
        pytest.param({}, True, marks=pytest.mark.slow),
        ({"kl_radius": 1e6}, False),
        ({"kl_radius": None}, False),
        (OF_UPDATE, False),
        pytest.param(OF_UPDATE, True, marks=pytest.mark.slow),
        (IN_TURNS | OF_UPDATE, True),
        ({"bound": "update", "kl_radius": 1e6}, False),
        ({"momentum": 0.0, "inverse_update_period": 1}, False),
    ],
    ids=[
        "in turns",
        "in turns, compiled",
        "bound",
        "bound, compiled",
        "free",
        "no radius",
        "update",
        "update, compiled",
        "update, in turns, compiled",
        "update, free",
        "no momentum",
    ],
)
def test_five_steps_equal_the_float64_twin(changed, compiled):
    settings = SETTINGS | changed
    twin = conv_and_dense()
    expected = oracle.Optimizer(twin.network, **settings)
    in_turns = settings.pop("offsets", None) is not None
    optimizer = KFAC(**settings, factor_update_period=1, stagger_inverses=in_turns)
    optimizer.attach(twin.model)
    start = [layer.matrix for layer in expected.network.layers]
    problems = [Problem(seed) for seed in range(5)]

    @tf.function(autograph=False)
    def graph(arrays: dict[str, tf.Tensor]) -> None:
        # Arrays as arguments, so that five problems have one trace.
        problem = Problem(0)
        vars(problem).update(arrays)
        update(optimizer, twin, problem)

    for problem in problems:
        if compiled:
            graph({name: tf.constant(array) for name, array in vars(problem).items()})
        else:
            update(optimizer, twin, problem)
        x = np.float64(problem.x)
        expected.update_curvature(x, problem.log_likelihood_twin)
        expected.step(x, problem.loss_twin)

        np.testing.assert_allclose(
            optimizer.trust_region_scale, expected.scale, rtol=1e-3
        )
        np.testing.assert_allclose(
            optimizer.predicted_kl(), expected.predicted_kl(), rtol=1e-3
        )
        for layer, same, first in zip(
            twin.layers, expected.network.layers, start, strict=True
        ):
            # The step is what is compared, not the weights that it leaves.
            moved = same.matrix - first
            np.testing.assert_allclose(
                twins.matrix_of(layer) - first,
                moved,
                rtol=1e-3,
                atol=1e-3 * np.abs(moved).max(),
            )
    assert not compiled or graph.experimental_get_tracing_count() == 1
    bound = changed.get("kl_radius", 0.003) not in (None, 1e6)
    assert (expected.scale < 1) == bound


def test_the_radius_is_the_kl_of_the_step_where_it_binds():
    # In the damped metric of the paper: ½ (ηΔ)ᵀ(F + damping)(ηΔ) = δ.
    twin, problem, radius = conv_and_dense(), Problem(0), 1e-4
    optimizer = KFAC(learning_rate=1.0, kl_radius=radius, momentum=0.0, damping=0.01)
    optimizer.attach(twin.model)
    before = [twins.matrix_of(layer) for layer in twin.layers]

    update(optimizer, twin, problem)

    kl = 0.0
    for index, start in enumerate(before):
        step = (start - twins.matrix_of(twin.layers[index])).ravel()
        factors = [np.float64(f) for f in twin.block(optimizer, index).factors()]
        kl += 0.5 * step @ np.kron(*oracle.damped_factors(*factors, 0.01)) @ step
    assert float(optimizer.trust_region_scale) < 1
    np.testing.assert_allclose(kl, radius, rtol=1e-3)


def test_the_radius_is_the_predicted_kl_of_the_update_if_so_chosen():
    twin, radius = conv_and_dense(), 1e-4
    optimizer = KFAC(learning_rate=1.0, kl_radius=radius, bound="update", damping=0.01)
    optimizer.attach(twin.model)
    for seed in range(3):
        update(optimizer, twin, Problem(seed))
        assert float(optimizer.trust_region_scale) < 1
        np.testing.assert_allclose(optimizer.predicted_kl(), radius, rtol=1e-4)


def test_momentum_does_not_lengthen_a_step_in_a_constant_direction():
    # v_k = (1 − μᵏ) ηΔ: what a mean of equal steps tends to is one of them.
    twin = twins.Twin((2,), [], [keras.layers.Dense(1)])
    optimizer = KFAC(learning_rate=0.1, kl_radius=None, momentum=0.5)
    optimizer.attach(twin.model)
    start = twins.matrix_of(twin.layers[0])
    gradients = [tf.ones([2, 1]), tf.ones([1])]
    for k in range(1, 5):
        before = twins.matrix_of(twin.layers[0])
        optimizer.apply(gradients, twin.model.trainable_variables)
        # Without curvature the inverses are the identity, and Δ the gradient.
        step = before - twins.matrix_of(twin.layers[0])
        np.testing.assert_allclose(step, 0.1 * (1 - 0.5**k), rtol=1e-4)
    assert (start > before).all()


def test_a_step_taken_back_in_part_is_a_shorter_step():
    x = tf.constant(twins.inputs(6, 3))
    steps, scales = [], []
    for factor in (1.0, 0.25):
        keras.utils.set_random_seed(0)
        optimizer, model = attached(learning_rate=1.0, kl_radius=1e-4, momentum=0.5)
        ordinary_update(optimizer, model, x)
        before = [variable.numpy() for variable in model.trainable_variables]
        ordinary_update(optimizer, model, x)
        control.backtrack(optimizer, tf.constant(factor))
        after = [variable.numpy() for variable in model.trainable_variables]
        steps.append([a - b for a, b in zip(after, before, strict=True)])
        scales.append(float(optimizer.trust_region_scale))
        # Momentum goes on from the step that was taken.
        velocities = [velocity.numpy() for velocity in optimizer.velocity]
        for velocity, step in zip(velocities, steps[-1], strict=True):
            np.testing.assert_allclose(velocity, -step, rtol=1e-3, atol=1e-7)
    for whole, short in zip(*steps, strict=True):
        np.testing.assert_allclose(short, 0.25 * whole, rtol=1e-3, atol=1e-7)
    assert scales[1] == pytest.approx(0.25 * scales[0])


def test_a_step_has_the_predicted_kl_of_the_adapted_radius():
    optimizer, model = attached(
        learning_rate=1.0, kl_radius=1e-4, momentum=0.0, bound="update"
    )
    x = tf.constant(twins.inputs(6, 3))
    ordinary_update(optimizer, model, x)
    control.adapt_radius(optimizer, tf.constant(1.0), target=0.001)
    np.testing.assert_allclose(optimizer.radius, 1e-4 / RADIUS_CHANGE, rtol=1e-6)

    ordinary_update(optimizer, model, x)

    np.testing.assert_allclose(optimizer.predicted_kl(), optimizer.radius, rtol=1e-4)


def test_the_radius_grows_only_after_the_first_steps_and_where_it_binds():
    optimizer, model = attached(learning_rate=1.0, kl_radius=1e-4, momentum=0.5)
    x, radii = tf.constant(twins.inputs(6, 3)), []
    for _ in range(6):
        ordinary_update(optimizer, model, x)
        assert float(optimizer.trust_region_scale) < 1
        control.adapt_radius(optimizer, tf.constant(0.0), target=0.001)
        radii.append(float(optimizer.radius) / 1e-4)
    # 2 / (1 − μ) = 4 steps without growth.
    expected = [1, 1, 1, 1, RADIUS_CHANGE, RADIUS_CHANGE**2]
    np.testing.assert_allclose(radii, expected, rtol=1e-5)

    free, model = attached(learning_rate=1e-6, kl_radius=1.0, momentum=0.5)
    for _ in range(6):
        ordinary_update(free, model, x)
        control.adapt_radius(free, tf.constant(0.0), target=0.001)
    assert float(free.radius) == 1.0


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.021, 1 / 1.5), (0.019, 1.0), (0.0051, 1.0), (0.0049, 1.5), (np.nan, 1 / 1.5)],
)
def test_the_learning_rate_is_adapted_to_the_exact_kl(kl, factor):
    optimizer = KFAC(learning_rate=0.03)
    control.adapt_learning_rate(optimizer, tf.constant(kl, tf.float32), 0.01)
    np.testing.assert_allclose(optimizer.learning_rate, 0.03 * factor, rtol=1e-5)


def test_an_adapted_learning_rate_has_bounds():
    optimizer = KFAC(learning_rate=0.03)
    for kl, bound in [(0.0, 1.0), (1.0, 1e-8)]:
        for _ in range(60):
            control.adapt_learning_rate(optimizer, tf.constant(kl), 0.01)
        np.testing.assert_allclose(optimizer.learning_rate, bound, rtol=1e-5)


def test_a_scheduled_learning_rate_cannot_be_adapted():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
    optimizer = KFAC(learning_rate=schedule)
    with pytest.raises(ValueError, match="learning rate that is a number"):
        control.adapt_learning_rate(optimizer, tf.constant(0.1), 0.01)


def test_there_is_no_radius_without_a_trust_region():
    optimizer, _ = attached(kl_radius=None)
    with pytest.raises(ValueError, match=r"Received: kl_radius=None"):
        optimizer.radius  # noqa: B018 (what raises)


# Predicted and exact KL -----------------------------------------------------------
def test_the_exact_kl_tends_to_the_predicted_one_where_the_blocks_are_exact():
    # Two heads on the inputs: no block off the diagonal, since the scores of action and
    # value are independent; and logits that are the same for every input, so that the
    # policy's block is A ⊗ G.
    twin = twins.Twin((4,), [], [keras.layers.Dense(3), keras.layers.Dense(1)])
    twin.layers[0].kernel.assign(tf.zeros([4, 3]))
    x = twins.inputs(16, 4)
    variables = twin.model.trainable_variables
    with tf.GradientTape() as tape:
        outputs = twin.outputs(x)
        wanted = twins.inputs(16, 4, seed=7)
        loss = -tf.reduce_mean(wanted[:, :3] * tf.nn.log_softmax(outputs[:, :3]))
        loss += tf.reduce_mean(tf.square(outputs[:, 3] - wanted[:, 3]))
    gradients = tape.gradient(loss, variables)
    start = [v.numpy() for v in variables]
    old = twin.network
    excess = []
    for radius in [1.0, 1e-1, 1e-2, 1e-3]:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        optimizer = KFAC(
            learning_rate=1e6,
            kl_radius=radius,
            momentum=0.0,
            damping=1e-6,
            bound="update",
        )
        optimizer.attach(twin.model)
        twins.update_exactly_actor_critic(optimizer, twin, x)
        optimizer.apply(gradients, variables)
        np.testing.assert_allclose(optimizer.predicted_kl(), radius, rtol=1e-3)
        excess.append(abs(exact_kl(old, twin.network, x) / radius - 1))
    # The next term of the KL is cubic in the step: relatively, of the order of √δ.
    for larger, smaller in itertools.pairwise(excess):
        assert np.sqrt(10) == pytest.approx(larger / smaller, rel=0.1)
    assert excess[-1] < 1e-3


def exact_kl(old, new, x: np.ndarray) -> float:
    """Mean KL of softmax(logits)(a) N(v; V, 1) in float64."""
    (old_outputs, *_), (new_outputs, *_) = (
        oracle.forward(network, np.float64(x)) for network in (old, new)
    )
    old_log_p, new_log_p = (
        log_softmax(old_outputs[:, :-1]),
        log_softmax(new_outputs[:, :-1]),
    )
    policy = (np.exp(old_log_p) * (old_log_p - new_log_p)).sum(axis=1)
    value = 0.5 * (old_outputs[:, -1] - new_outputs[:, -1]) ** 2
    return float((policy + value).mean())


# Invariance -----------------------------------------------------------------------
def test_a_step_is_the_same_function_for_affinely_transformed_inputs():
    # Natural gradient does not see how a layer's inputs are parametrised; A⁻¹ undoes
    # the transformation, up to the damping, which is next to nothing here.
    twin = twins.Twin(
        (3,), [keras.layers.Dense(3, activation="tanh")], [keras.layers.Dense(2)]
    )
    network, x = twin.network, np.float64(twins.inputs(40, 3))
    rng = np.random.default_rng(5)
    stretch, shift = (
        np.array([[2.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.3, 0.0, 0.5]]),
        [0.5, -1.0, 0.2],
    )
    matrix = network.layers[0].matrix
    # W' with x'W' + b' = xW + b where x' = x·stretch + shift.
    kernel = np.linalg.solve(stretch, matrix[:-1])
    moved_matrix = np.vstack([kernel, matrix[-1] - shift @ kernel])
    noise = rng.normal(size=(40, 2)).astype(np.float32)
    target = rng.normal(size=(40, 2)).astype(np.float32)

    def change(first_matrix: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """By how much one step moves the outputs."""
        inputs = np.float32(inputs)
        twins.randomize(twin.model)
        twin.layers[0].kernel.assign(first_matrix[:-1])
        twin.layers[0].bias.assign(first_matrix[-1])
        optimizer = KFAC(learning_rate=0.1, kl_radius=None, momentum=0.0, damping=1e-10)
        optimizer.attach(twin.model)
        with CurvatureTape(optimizer.layers) as curvature_tape:
            likelihood = tf.reduce_sum(noise * twin.outputs(inputs), axis=1)
        optimizer.update_curvature(curvature_tape, likelihood)
        variables = twin.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(twin.outputs(inputs) - target))
        before = oracle.forward(twin.network, np.float64(inputs))[0]
        optimizer.apply(tape.gradient(loss, variables), variables)
        assert int(optimizer.failed_factorizations) == 0
        return oracle.forward(twin.network, np.float64(inputs))[0] - before

    expected = change(matrix, x)
    actual = change(moved_matrix, x @ stretch + shift)

    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=3e-3 * np.abs(expected).max()
    )


# The Keras contract ---------------------------------------------------------------
def attached(**settings) -> tuple[KFAC, keras.Model]:
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, activation="tanh", name="hidden"),
            keras.layers.Dense(2, name="top"),
        ]
    )
    twins.randomize(model)
    optimizer = KFAC(**settings)
    optimizer.attach(model)
    return optimizer, model


def ordinary_update(optimizer: KFAC, model: keras.Model, x: tf.Tensor) -> None:
    with CurvatureTape(optimizer.layers) as curvature_tape:
        outputs = model(x)
        likelihood = tf.reduce_sum(tf.sign(x[:, :2]) * outputs, axis=1)
    optimizer.update_curvature(curvature_tape, likelihood)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x)))
    variables = model.trainable_variables
    optimizer.apply_gradients(
        zip(tape.gradient(loss, variables), variables, strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**SETTINGS, "name": "mine", "weight_decay": 1e-4, "global_clipnorm": 1.0},
        {
            "kl_radius": None,
            "bound": "update",
            "spatial_correlation": "full",
        },
    ],
)
def test_config_round_trip(settings):
    optimizer = KFAC(**settings)
    config = optimizer.get_config()
    json.dumps(config)
    assert KFAC.from_config(config).get_config() == config
    for name, value in settings.items():
        if isinstance(value, float):
            assert config[name] == pytest.approx(value, rel=1e-6)
        else:
            assert config[name] == value


def test_serialization_round_trip_with_a_schedule():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 4, end_learning_rate=0.0)
    optimizer = KFAC(learning_rate=schedule, damping=0.02)
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(json.loads(json.dumps(config)))
    assert type(again) is KFAC
    assert keras.optimizers.serialize(again) == config


def test_the_learning_rate_follows_a_schedule_to_zero():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 2, end_learning_rate=0.0)
    optimizer, model = attached(learning_rate=schedule, kl_radius=None, momentum=0.0)
    gradients = [tf.ones_like(v) for v in model.trainable_variables]
    steps = []
    for _ in range(3):
        before = model.trainable_variables[0].numpy()
        optimizer.apply(gradients, model.trainable_variables)
        steps.append((before - model.trainable_variables[0].numpy())[0, 0])
    # Without curvature the step is the gradient, of ones, times the learning rate.
    np.testing.assert_allclose(steps, [0.5, 0.25, 0.0], rtol=1e-5)
    assert float(optimizer.trust_region_scale) == 0.0


@pytest.mark.parametrize("bound", ["direction", "update"])
@pytest.mark.parametrize("radius", [None, 0.001])
def test_a_step_after_the_end_of_a_schedule_is_momentum_alone(bound, radius):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 3, end_learning_rate=0.0)
    optimizer, model = attached(
        learning_rate=schedule, kl_radius=radius, bound=bound, momentum=0.5
    )
    x = tf.constant(twins.inputs(6, 3))
    for _ in range(3):
        ordinary_update(optimizer, model, x)
        assert float(optimizer.trust_region_scale) > 0.0
    # Long after it: beyond what an int32 counts.
    optimizer.iterations.assign(2**31 + 5)
    last = [v.numpy() for v in optimizer.velocity]
    before = [v.numpy() for v in model.trainable_variables]
    ordinary_update(optimizer, model, x)
    for velocity, old in zip(optimizer.velocity, last, strict=True):
        np.testing.assert_allclose(velocity, 0.5 * old, rtol=1e-5)
    for weights, old in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(weights).all()
        assert not np.array_equal(weights, old)
    assert float(optimizer.trust_region_scale) == 0.0
    assert int(optimizer.iterations) == 2**31 + 6


def test_what_is_drawn_and_which_patches_differ_beyond_an_int32(monkeypatch):
    optimizer, _ = attached(seed=2**31 - 1, factor_update_period=4)
    numbers = []

    def note(tape, log_likelihood, decay, step):
        numbers.append(int(step))
        return tf.constant(0)

    monkeypatch.setattr(optimizer.curvature, "update_factors", note)
    around = [n for p in (0, 31, 32, 33, 40) for n in range(2**p - 2, 2**p + 3)]
    keys = {}
    for step in sorted({4 * (n // 4) for n in around if n >= 4} | set(around[2:])):
        optimizer.iterations.assign(step)
        keys[step] = tuple(optimizer.sampling_key().numpy().tolist())
        if step % 4 == 0:
            optimizer.update_factors(None, None)
    assert len(set(keys.values())) == len(keys)
    assert {step: key for step, key in keys.items() if step < 2**31} == {
        step: (2**31 - 1, step) for step in keys if step < 2**31
    }
    # Each update of the factors takes the positions after those of the one before.
    updates = [step for step in keys if step % 4 == 0]
    assert numbers == [step // 4 % 2**31 for step in updates]


def test_a_constant_learning_rate_can_be_set():
    optimizer, model = attached(learning_rate=0.5, kl_radius=None, momentum=0.0)
    optimizer.learning_rate = 0.125
    before = model.trainable_variables[0].numpy()
    optimizer.apply([tf.ones_like(v) for v in model.trainable_variables])
    np.testing.assert_allclose(
        before - model.trainable_variables[0].numpy(), 0.125, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("kl_radius", 0.0, "positive or None"),
        ("kl_radius", -1.0, "positive or None"),
        ("bound", "both", "one of direction, update"),
        ("spatial_correlation", "", "one of none, full"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("momentum", -0.1, r"in \[0, 1\)"),
        ("damping", 0.0, "positive"),
        ("damping", float("nan"), "positive"),
        ("factor_decay", 1.0, r"in \[0, 1\)"),
        ("inverse_update_period", 0, "an integer, at least 1"),
        ("factor_update_period", 0, "an integer, at least 1"),
        ("patch_stride", 0, "an integer, at least 1"),
        ("max_patch_bytes", 0, "an integer, at least 1"),
        ("max_factor_dim", 0, "an integer, at least 1"),
        ("damping_period", 0, "an integer, at least 1"),
        ("factor_update_period", 2.0, "an integer, at least 1"),
        ("step_rule", "newton", "one of momentum, quadratic"),
        ("inverse", "qr", "one of cholesky, eigen, ekfac"),
        ("curvature_fraction", 0.0, r"in \(0, 1\] or None"),
        ("curvature_fraction", 1.5, r"in \(0, 1\] or None"),
        ("fallback", "none", "one of None, diagonal"),
        ("fisher", "true", "one of sampled, empirical"),
    ],
)
def test_an_argument_out_of_range_is_named(name, value, accepted):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be {accepted}\. Received: {name}="
    ):
        KFAC(**{name: value})


def test_the_signature_and_the_settings_have_the_same_defaults():
    parameters = inspect.signature(KFAC.__init__).parameters
    for field in dataclasses.fields(KFACSettings):
        assert parameters[field.name].default == field.default, field.name


def test_an_argument_can_be_read_and_not_changed():
    optimizer = KFAC(momentum=0.5)
    assert optimizer.momentum == 0.5
    with pytest.raises(AttributeError, match=r"`momentum` of KFAC cannot be changed"):
        optimizer.momentum = 0.9
    with pytest.raises(AttributeError, match="no attribute `momentun`"):
        optimizer.momentun  # noqa: B018 (what raises)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_stride": 2, "inverse": "ekfac"}, 'must be 1 with inverse="ekfac"'),
        ({"fallback": "diagonal", "fisher": "empirical"}, "scores of mean zero"),
        (
            {"damping_period": 2, "gradient_accumulation_steps": 2},
            "must be None with gradient_accumulation_steps",
        ),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KFAC(**arguments)


def test_a_model_without_trainable_weights_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="ice")
    model.trainable = False
    with pytest.raises(ValueError, match="Model `ice` has no trainable weights"):
        KFAC().attach(model)


@pytest.mark.parametrize("reduce", [tf.reduce_mean, lambda each: each[:, None]])
def test_a_log_likelihood_that_is_not_one_an_example_is_refused(reduce):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = KFAC()
    optimizer.attach(model)
    with optimizer.curvature_tape() as tape:
        log_likelihood = reduce(twins.wavy_log_likelihood([model(twins.inputs(5, 3))]))
    with pytest.raises(ValueError, match=r"`log_likelihood` must be \[N\]"):
        optimizer.update_curvature(tape, log_likelihood)


def test_a_step_before_attach_is_refused_and_says_what_to_do():
    layer = keras.layers.Dense(2, name="lonely")
    layer.build((None, 3))
    gradients = [tf.ones_like(v) for v in layer.trainable_variables]
    with pytest.raises(ValueError, match=r"call `attach\(model\)` .*lonely/kernel"):
        KFAC().apply(gradients, layer.trainable_variables)


def test_attaching_twice_is_refused():
    optimizer, model = attached()
    with pytest.raises(ValueError, match=r"attached to model `.*` already"):
        optimizer.attach(model)


def test_a_missing_gradient_is_named():
    optimizer, model = attached()
    gradients = [tf.ones_like(v) for v in model.trainable_variables]
    gradients[1] = None
    with (
        pytest.warns(UserWarning, match="Gradients do not exist"),
        pytest.raises(
            ValueError, match=r"No gradient for .*hidden/bias: KFAC steps all"
        ),
    ):
        optimizer.apply(gradients, model.trainable_variables)


def test_gradients_may_come_in_any_order():
    steps = []
    for reverse in (False, True):
        optimizer, model = attached(damping=0.01)
        x = tf.constant(twins.inputs(6, 3))
        with CurvatureTape(optimizer.layers) as tape:
            likelihood = tf.reduce_sum(tf.sign(x[:, :2]) * model(x), axis=1)
        optimizer.update_curvature(tape, likelihood)
        variables = model.trainable_variables[:: -1 if reverse else 1]
        with tf.GradientTape() as gradient_tape:
            loss = tf.reduce_mean(tf.square(model(x)))
        optimizer.apply(gradient_tape.gradient(loss, variables), variables)
        steps.append([v.numpy() for v in model.trainable_variables])
    for left, right in zip(*steps, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_a_log_likelihood_of_something_else_names_a_layer():
    optimizer, model = attached()
    with CurvatureTape(optimizer.layers) as tape:
        model(tf.ones([2, 3]))
    with pytest.raises(ValueError, match=r"does not depend on layer `hidden`"):
        optimizer.update_curvature(tape, tf.ones([2]))


@pytest.mark.parametrize("bound", ["direction", "update"])
def test_restored_variables_give_the_same_next_steps_bit_for_bit(bound):
    settings = {"inverse_update_period": 2, "bound": bound}
    x = [tf.constant(twins.inputs(6, 3, seed=seed)) for seed in range(5)]
    optimizer, model = attached(**settings)
    for batch in x[:3]:
        ordinary_update(optimizer, model, batch)
    saved = [v.numpy() for v in [*model.variables, *optimizer.variables]]
    for batch in x[3:]:
        ordinary_update(optimizer, model, batch)

    other_optimizer, other_model = attached(**settings)
    restored = [*other_model.variables, *other_optimizer.variables]
    for variable, value in zip(restored, saved, strict=True):
        variable.assign(value)
    for batch in x[3:]:
        ordinary_update(other_optimizer, other_model, batch)

    for variable, same in zip(
        restored, [*model.variables, *optimizer.variables], strict=True
    ):
        np.testing.assert_array_equal(variable, same)


def test_a_second_call_does_not_trace_again():
    optimizer, model = attached(inverse_update_period=2)
    step = tf.function(lambda x: ordinary_update(optimizer, model, x))
    for seed in range(4):
        step(tf.constant(twins.inputs(6, 3, seed=seed)))
    assert step.experimental_get_tracing_count() == 1
    assert int(optimizer.iterations) == 4


# Schedules of curvature -----------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"stagger_inverses": False}, [[0, 1, 2, 3, 6, 9], [0, 1, 2, 3, 6, 9]]),
        # The first layer has more inputs, and so the first turn.
        ({"factor_update_period": 1}, [[0, 1, 2, 3, 6, 9], [0, 1, 2, 5, 8]]),
        # With factors that are no newer there is nothing to wait for.
        ({"factor_update_period": 3}, [[0, 1, 2, 3, 6, 9], [0, 1, 2, 3, 6, 9]]),
    ],
)
def test_inverses_are_made_in_the_first_period_and_then_once_a_period(
    settings, expected
):
    optimizer, model = attached(inverse_update_period=3, **settings)
    inverses = [[block.inverse.arrays[0].numpy() for block in optimizer.blocks]]
    for seed in range(10):
        ordinary_update(optimizer, model, tf.constant(twins.inputs(6, 3, seed=seed)))
        inverses.append([block.inverse.arrays[0].numpy() for block in optimizer.blocks])
    made = [
        [
            step
            for step, (old, new) in enumerate(itertools.pairwise(inverses))
            if not np.array_equal(old[block], new[block])
        ]
        for block in range(2)
    ]
    assert made == expected


# Faults ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bound", "radius", "bad"),
    pairwise(["direction", "update"], [0.001, None], [np.nan, np.inf, 1e38]),
)
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad, radius, bound):
    # 1e38 is finite, and so is not what the inverses make of it.
    optimizer, model = attached(kl_radius=radius, bound=bound, damping=1e-4)
    ordinary_update(optimizer, model, tf.constant(twins.inputs(6, 3)))
    watched = [*model.trainable_variables, *optimizer.velocity]
    before = [v.numpy() for v in watched]
    gradients = [tf.ones_like(v) for v in model.trainable_variables]
    gradients[2] = tf.fill(gradients[2].shape, bad)

    optimizer.apply(gradients, model.trainable_variables)

    for variable, same in zip(watched, before, strict=True):
        np.testing.assert_array_equal(variable, same)
    assert int(optimizer.skipped_steps) == 1
    assert float(optimizer.trust_region_scale) == 0.0
    ordinary_update(optimizer, model, tf.constant(twins.inputs(6, 3)))
    assert int(optimizer.skipped_steps) == 1
    assert all(np.isfinite(v).all() for v in model.trainable_variables)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_batch_that_is_not_finite_never_reaches_the_weights(bad):
    optimizer, model = attached(inverse_update_period=1)
    x = tf.constant(twins.inputs(6, 3))
    ordinary_update(optimizer, model, x)
    poisoned = x.numpy()
    poisoned[0, 0] = bad
    for _ in range(2):
        ordinary_update(optimizer, model, tf.constant(poisoned))
    assert all(np.isfinite(v).all() for v in model.trainable_variables)
    assert all(np.isfinite(np.float64(v)).all() for v in optimizer.variables)
    ordinary_update(optimizer, model, x)
    assert float(optimizer.trust_region_scale) > 0


def test_factors_that_are_not_finite_keep_the_last_inverses_and_are_counted():
    optimizer, model = attached(inverse_update_period=1)
    x = tf.constant(twins.inputs(6, 3))
    ordinary_update(optimizer, model, x)
    block = optimizer.blocks[0]
    inverse = block.inverse.arrays[0].numpy()
    factor = next(v for v in optimizer.variables if v.name == "hidden_factor_a")
    factor.assign(tf.fill(factor.shape, np.nan))

    ordinary_update(optimizer, model, x)

    assert int(optimizer.failed_factorizations) == 1
    np.testing.assert_array_equal(block.inverse.arrays[0], inverse)
    assert all(np.isfinite(v).all() for v in model.trainable_variables)
    assert int(optimizer.skipped_steps) == 0


def test_a_step_not_taken_does_not_widen_the_radius():
    optimizer, model = attached(learning_rate=1.0, kl_radius=1e-4, momentum=0.0)
    x = tf.constant(twins.inputs(6, 3))
    for _ in range(4):
        ordinary_update(optimizer, model, x)
    weights = optimizer.curvature.variables
    optimizer.apply([tf.fill(v.shape, np.float32("inf")) for v in weights], weights)
    assert float(optimizer.trust_region_scale) == 0.0
    control.adapt_radius(optimizer, tf.constant(0.0), target=0.001)
    np.testing.assert_allclose(optimizer.radius, 1e-4, rtol=1e-6)
