"""Distributions of actions against enumeration, integration and counting."""

import math
from typing import Any

import gymnasium
import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import tensorflow as tf
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import strategies
from oracles import distributions as oracle
from runs.litert import run_converted_function

from acktr_tf.errors import UserError
from acktr_tf.policies.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    GaussianDistribution,
    MultiCategoricalDistribution,
    SquashedGaussian,
    make_action_distribution,
)

Array = npt.NDArray[Any]

GRID = MultiDiscrete(np.array([[2, 3], [1, 4]]), start=np.array([[0, -5], [7, 100]]))
FINITE = [
    pytest.param(Discrete(5), id="discrete"),
    pytest.param(Discrete(4, start=-2), id="discrete-start"),
    pytest.param(Discrete(1), id="discrete-one"),
    pytest.param(MultiDiscrete([3, 2, 4]), id="multidiscrete"),
    pytest.param(
        MultiDiscrete([3, 2], dtype=np.int32, start=[4, -1]), id="int32-start"
    ),
    pytest.param(GRID, id="multidiscrete-grid"),
    pytest.param(MultiBinary(4), id="multibinary"),
    pytest.param(MultiBinary([2, 2]), id="multibinary-grid"),
]
INF = np.inf
WIDEST = 1e37
BOXES = [
    pytest.param(Box(-1, 1, (3,)), id="symmetric"),
    pytest.param(Box(-2.5, 7, (2, 2)), id="asymmetric"),
    pytest.param(Box(0.1, 0.3, (1,)), id="rounded"),
    pytest.param(Box(-INF, INF, (2,)), id="unbounded"),
    pytest.param(Box(0.25, INF, (2,)), id="below"),
    pytest.param(Box(-INF, 0.25, (2,)), id="above"),
    pytest.param(
        Box(
            np.array([-1, 0.1, -INF, 0.5, -INF, 4], np.float32),
            np.array([1, 7.7, INF, INF, -0.5, 4], np.float32),
        ),
        id="mixed",
    ),
    pytest.param(Box(-3, 1, ()), id="scalar"),
    pytest.param(Box(-0.1, 0.7, (2,), np.float64), id="float64"),
    pytest.param(Box(-0.1, 1000.0, (2,), np.float16), id="float16"),
    pytest.param(Box(-WIDEST, WIDEST, (2,)), id="widest"),
]
U = np.concatenate(
    [
        [0.0, -1.0, 1.0, np.nextafter(np.float32(1), np.float32(0)), 1e-3],
        np.linspace(-3, 3, 25),
        [-20.0, 20.0, -1e6, 1e6, -3e36, 3e36],
    ]
).astype(np.float32)


def key(*numbers: int) -> tf.Tensor:
    return tf.constant(numbers, tf.int32)


def joint(space: gymnasium.Space[Any], parameters: Array) -> tuple[Array, Array]:
    """All actions `[J, ...]` as the policy has them, and their log p `[N, J]`."""
    parameters = np.asarray(parameters, np.float64)
    if isinstance(space, MultiBinary):
        return oracle.joint_switches(parameters)
    if isinstance(space, MultiDiscrete):
        return oracle.joint_choices(parameters, space.nvec.ravel().tolist())
    choices, log_p = oracle.joint_choices(parameters, [int(space.n)])
    return choices[:, 0], log_p


def parameters_of(space: gymnasium.Space[Any], n: int, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return 1.5 * random.normal(size=(n, make_action_distribution(space).num_parameters))


# What is known of each kind ---------------------------------------------------------
@pytest.mark.parametrize(
    ("space", "kind", "parameters", "free", "shape", "dtype", "name"),
    [
        (Discrete(4, start=9), CategoricalDistribution, 4, 0, [], tf.int32, "logits"),
        (GRID, MultiCategoricalDistribution, 10, 0, [4], tf.int32, "logits"),
        (MultiBinary([2, 3]), BernoulliDistribution, 6, 0, [6], tf.int32, "logits"),
        (
            spaces.Tuple([Discrete(4, start=9), GRID]),
            MultiCategoricalDistribution,
            14,
            0,
            [5],
            tf.int32,
            "logits",
        ),
        (
            Box(-1, INF, (2, 3), np.float64),
            GaussianDistribution,
            12,
            6,
            [6],
            tf.float32,
            "mean_and_log_std",
        ),
        (
            Box(0, 1, ()),
            GaussianDistribution,
            2,
            1,
            [1],
            tf.float32,
            "mean_and_log_std",
        ),
    ],
)
def test_what_is_known_of_the_actions_of_a_space(
    space: gymnasium.Space[Any],
    kind: type,
    parameters: int,
    free: int,
    shape: list[int],
    dtype: tf.DType,
    name: str,
) -> None:
    actions = make_action_distribution(space)
    assert type(actions) is kind
    assert actions.space is space
    assert (actions.num_parameters, actions.num_state_independent) == (parameters, free)
    # JSON and Keras take no NumPy integers.
    assert type(actions.num_parameters) is type(actions.num_state_independent) is int
    assert actions.spec == tf.TensorSpec(shape, dtype)
    assert actions.parameter_name == name


@pytest.mark.parametrize("space", [*FINITE, *BOXES])
def test_draws_and_modes_are_what_the_specification_says(
    space: gymnasium.Space[Any],
) -> None:
    actions = make_action_distribution(space, squash=True)
    parameters = tf.constant(parameters_of(space, 3), tf.float32)
    distribution = actions.distribution(parameters)
    for action in [distribution.sample(seed=key(1, 2)), actions.mode(parameters)]:
        assert action.dtype == actions.spec.dtype
        assert action.shape == [3, *actions.spec.shape]
        assert distribution.log_prob(action).shape == [3]
        assert distribution.log_prob(action).dtype == tf.float32
    assert distribution.entropy().shape == [3]
    assert distribution.kl_divergence(distribution).shape == [3]


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (2, 36, 36), np.uint8),
        Box(-1, 1, (2,), np.int64),
        # Printed in several lines.
        Box(
            np.arange(40).reshape(8, 5), np.arange(40).reshape(8, 5) + 3, dtype=np.int32
        ),
        spaces.Text(5),
        spaces.Graph(Box(-1, 1, (3,)), Discrete(2)),
        spaces.Sequence(Discrete(2)),
        spaces.Dict({"arm": Box(-1, 1, (2,)), "hand": Discrete(2)}),
        spaces.Tuple([Discrete(2), spaces.Tuple([Box(-1, 1, (2,))])]),
        spaces.Tuple([]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_other_spaces_are_refused_in_one_line(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(UserError) as error:
        make_action_distribution(space)
    message = str(error.value)
    assert "\n" not in message
    assert f"Received: {type(space).__name__}(" in message
    accepted = (
        "Accepted: Discrete, MultiDiscrete, MultiBinary, a Tuple or Dict of those, or "
        "Box of floats."
    )
    assert message.endswith(accepted)


# Finite spaces: everything can be enumerated ----------------------------------------
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 3e-6)])
@pytest.mark.parametrize("space", FINITE)
def test_finite_distributions_are_those_of_the_enumeration(
    space: gymnasium.Space[Any], dtype: type, rtol: float
) -> None:
    close = {"rtol": rtol, "atol": rtol}
    p, q = (parameters_of(space, 4, seed).astype(dtype) for seed in (0, 1))
    choices, log_p = joint(space, p)
    _, log_q = joint(space, q)
    actions = make_action_distribution(space)
    one, other = (actions.distribution(tf.constant(logits)) for logits in (p, q))
    for j, choice in enumerate(choices):
        action = tf.constant(np.array([choice] * 4), tf.int32)
        np.testing.assert_allclose(one.log_prob(action), log_p[:, j], **close)
    np.testing.assert_allclose(one.entropy(), oracle.entropy(log_p), **close)
    expected = oracle.kl_divergence(log_p, log_q)
    np.testing.assert_allclose(one.kl_divergence(other), expected, **close)
    # Which way round matters.
    if len(choices) > 1:
        assert not np.allclose(other.kl_divergence(one), expected, rtol=0.01)
    np.testing.assert_allclose(one.kl_divergence(one), 0.0, atol=rtol)
    mode = actions.mode(tf.constant(p))
    np.testing.assert_array_equal(mode, choices[log_p.argmax(axis=1)])


@pytest.mark.parametrize("space", FINITE)
def test_every_action_comes_as_often_as_it_should(space: gymnasium.Space[Any]) -> None:
    """Joint actions are counted, so that independence is tested as well."""
    n = 20_000
    row = 0.3 * parameters_of(space, 1, seed=3)
    choices, log_p = joint(space, row)
    names = {tuple(np.atleast_1d(choice)): j for j, choice in enumerate(choices)}
    actions = make_action_distribution(space)
    one_batch = actions.distribution(tf.repeat(row, n, axis=0)).sample(seed=key(5, 6))
    draw = tf.function(
        lambda seed: actions.distribution(tf.repeat(row, 200, axis=0)).sample(seed=seed)
    )
    over_keys = np.concatenate([draw(key(5, i)) for i in range(n // 200)])
    for drawn in [one_batch.numpy(), over_keys]:
        rows = drawn.reshape(n, -1).tolist()
        indices = np.array([names[tuple(action)] for action in rows])
        counts = np.bincount(indices, minlength=len(choices))
        if len(choices) == 1:
            assert counts.tolist() == [n]
            continue
        expected = n * np.exp(log_p[0])
        assert expected.min() > 5  # So that chi-square is what it is called.
        assert scipy.stats.chisquare(counts, expected).pvalue > 0.001
        # Other probabilities would have been noticed.
        assert scipy.stats.chisquare(counts, np.roll(expected, 1)).pvalue < 1e-9
        # Two draws in a row tell nothing of each other.
        first = indices % 2
        pairs = np.histogram2d(first[:-1], first[1:], bins=2)[0]
        assert scipy.stats.chi2_contingency(pairs).pvalue > 0.001


@pytest.mark.parametrize("space", [MultiDiscrete([4, 4, 4]), MultiBinary(3)])
def test_choices_with_equal_logits_are_not_the_same_choice(
    space: gymnasium.Space[Any],
) -> None:
    actions = make_action_distribution(space)
    n, options = 8_000, actions.num_parameters // 3
    logits = tf.zeros([n, actions.num_parameters])
    drawn = actions.distribution(logits).sample(seed=key(3, 4)).numpy()
    kinds = max(options, 2)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        pairs = np.histogram2d(drawn[:, a], drawn[:, b], bins=kinds)[0]
        assert pairs.size == kinds**2
        assert scipy.stats.chisquare(pairs.ravel()).pvalue > 0.001


@pytest.mark.parametrize("space", FINITE)
def test_large_logits_stay_finite(space: gymnasium.Space[Any]) -> None:
    actions = make_action_distribution(space)
    row = 1e4 * (-1.0) ** np.arange(actions.num_parameters)
    logits = tf.constant([row, -row, np.full_like(row, 1e4)], tf.float32)
    distribution = actions.distribution(logits)
    reverse = actions.distribution(logits[::-1])
    values = [
        distribution.log_prob(actions.mode(logits)),
        distribution.log_prob(actions.mode(logits[::-1])),
        distribution.entropy(),
        distribution.kl_divergence(reverse),
    ]
    for value in values:
        assert np.isfinite(value).all()
    np.testing.assert_array_equal(distribution.kl_divergence(distribution), 0.0)


def test_one_logit_an_action_counted_from_zero() -> None:
    actions = CategoricalDistribution(Discrete(4, start=9))
    certain = tf.constant([[0.0, 99.0, 0.0, 0.0], [0.0, 0.0, 0.0, 99.0]])
    distribution = actions.distribution(certain)
    sample = distribution.sample(seed=key(1, 2))
    assert sample.numpy().tolist() == [1, 3]
    assert actions.to_environment(sample).numpy().tolist() == [10, 12]


def test_one_logit_an_option_of_each_choice_in_turn() -> None:
    actions = MultiCategoricalDistribution(GRID)
    # Of 2, 3, 1 and 4 options.
    logits = [[0.0, 99, 0, 0, 99, 0, 99, 0, 0, 0], [99, 0, 99, 0, 0, 0, 0, 0, 99, 0]]
    sample = actions.distribution(tf.constant(logits)).sample(seed=key(1, 2))
    assert sample.numpy().tolist() == [[1, 2, 0, 0], [0, 0, 0, 2]]
    assert actions.to_environment(sample).numpy().tolist() == [
        [[1, -3], [7, 100]],
        [[0, -5], [7, 102]],
    ]


def test_choices_of_a_composed_space_are_end_to_end() -> None:
    parts = {"b": MultiDiscrete([2, 3], start=[5, 0]), "a": MultiBinary(2)}
    space = spaces.Tuple([Discrete(2, start=-1), spaces.Dict(list(parts.items()))])
    actions = make_action_distribution(space)
    # Of 2, 2, 3, 2 and 2 options.
    logits = [[0.0, 99, 99, 0, 0, 99, 0, 0, 99, 99, 0]]
    sample = actions.distribution(tf.constant(logits)).sample(seed=key(1, 2))
    assert sample.numpy().tolist() == [[1, 0, 1, 1, 0]]
    in_environment = actions.to_environment(sample)
    assert in_environment.dtype == tf.int64
    assert in_environment.numpy().tolist() == [[0, 5, 1, 1, 0]]


def test_one_logit_a_switch() -> None:
    actions = BernoulliDistribution(MultiBinary([2, 3]))
    logits = tf.constant([[99.0, -99, -99, -99, 99, 99]])
    sample = actions.distribution(logits).sample(seed=key(1, 2))
    assert sample.numpy().tolist() == [[1, 0, 0, 0, 1, 1]]
    assert actions.to_environment(sample).numpy().tolist() == [[[1, 0, 0], [0, 1, 1]]]


@pytest.mark.parametrize("space", FINITE)
def test_all_that_the_policy_can_do_is_all_that_the_environment_takes(
    space: gymnasium.Space[Any],
) -> None:
    actions = make_action_distribution(space)
    choices, _ = joint(space, parameters_of(space, 1))
    in_environment = tf.function(
        actions.to_environment,
        input_signature=[tf.TensorSpec([None, *actions.spec.shape], tf.int32)],
    )(tf.constant(choices, tf.int32)).numpy()
    assert in_environment.dtype == space.dtype
    assert in_environment.shape == (len(choices), *space.shape)
    assert all(space.contains(action) for action in in_environment)
    assert len(np.unique(in_environment, axis=0)) == len(choices)


# Gaussians --------------------------------------------------------------------------
def gaussian_parameters(n: int, d: int, seed: int) -> tuple[Array, Array, Array]:
    """Means and standard deviations `[N, d]`, and the parameters `[N, 2d]`."""
    random = np.random.default_rng(seed)
    mean = random.normal(size=(n, d)) * 2
    log_std = random.normal(size=(n, d)) * 0.7
    return mean, np.exp(log_std), np.concatenate([mean, log_std], axis=1)


@pytest.mark.parametrize("squash", [False, True])
def test_gaussians_are_those_of_the_textbook(squash: bool) -> None:
    actions = make_action_distribution(Box(-1, 1, (3,)), squash=squash)
    mean, std, parameters = gaussian_parameters(5, 3, 0)
    other_mean, other_std, other_parameters = gaussian_parameters(5, 3, 1)
    one = actions.distribution(tf.constant(parameters))
    other = actions.distribution(tf.constant(other_parameters))
    for u in [mean, mean + std, other_mean, np.full_like(mean, -7.0)]:
        expected = oracle.gaussian_log_prob(mean, std, u)
        np.testing.assert_allclose(one.log_prob(tf.constant(u)), expected, rtol=1e-12)
    kl = oracle.gaussian_kl(mean, std, other_mean, other_std)
    np.testing.assert_allclose(one.kl_divergence(other), kl, rtol=1e-9)
    np.testing.assert_allclose(one.kl_divergence(one), 0.0, atol=1e-12)
    np.testing.assert_array_equal(actions.mode(tf.constant(parameters)), mean)
    plain = oracle.gaussian_entropy(std)
    if squash:
        assert (one.entropy() < plain - 0.1).numpy().all()
    else:
        np.testing.assert_allclose(one.entropy(), plain, rtol=1e-12)


@pytest.mark.parametrize("squash", [False, True])
def test_gaussian_draws_have_the_mean_and_the_deviation_that_they_should(
    squash: bool,
) -> None:
    n = 20_000
    mean, std, parameters = gaussian_parameters(1, 3, 2)
    distribution = make_action_distribution(
        Box(-1, 1, (3,)), squash=squash
    ).distribution(tf.repeat(tf.constant(parameters, tf.float32), n, axis=0))
    drawn = distribution.sample(seed=key(8, 9)).numpy().astype(np.float64)
    standard = (drawn - mean) / std
    for column in standard.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 0.001
        assert abs(column.mean()) < 4 / math.sqrt(n)
        assert abs(np.square(column).mean() - 1) < 4 * math.sqrt(2 / n)
        assert scipy.stats.pearsonr(column[:-1], column[1:]).pvalue > 0.001
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert scipy.stats.pearsonr(standard[:, a], standard[:, b]).pvalue > 0.001
    # A deviation that is 5% off would have been noticed.
    assert abs(np.square(1.05 * standard).mean() - 1) > 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("space", [*FINITE, *BOXES])
def test_the_key_decides_what_is_drawn(space: gymnasium.Space[Any]) -> None:
    actions = make_action_distribution(space, squash=True)
    parameters = tf.repeat(tf.constant(parameters_of(space, 1), tf.float32), 64, axis=0)
    distribution = actions.distribution(parameters)
    first = distribution.sample(seed=key(1, 2)).numpy()
    again = actions.distribution(parameters).sample(seed=key(1, 2)).numpy()
    assert first.tobytes() == again.tobytes()
    if getattr(space, "n", 0) == 1:
        return
    for other in [key(1, 3), key(2, 2), key(2, 1)]:
        assert not np.array_equal(first, distribution.sample(seed=other))


# What the environment gets of a Gaussian --------------------------------------------
@pytest.mark.parametrize("space", BOXES)
@pytest.mark.parametrize("squash", [False, True])
def test_actions_are_brought_within_the_bounds(space: Box, squash: bool) -> None:
    actions = GaussianDistribution(space, squash=squash)
    size = math.prod(space.shape)
    u = np.stack([np.roll(U, shift) for shift in range(size)], axis=1)
    in_environment = tf.function(
        actions.to_environment,
        input_signature=[tf.TensorSpec([None, size], tf.float32)],
    )(u).numpy()
    assert in_environment.dtype == space.dtype
    assert in_environment.shape == (len(u), *space.shape)
    assert all(space.contains(np.asarray(action)) for action in in_environment)
    low, high = (np.ravel(b).astype(np.float64) for b in (space.low, space.high))
    expected = np.array(
        [
            [
                oracle.environment_action(float(x), low[d], high[d], squash)
                for d, x in enumerate(row)
            ]
            for row in u
        ]
    )
    largest = max((abs(x) for x in [*low, *high] if np.isfinite(x)), default=0.0)
    epsilon = np.finfo(space.dtype).eps
    np.testing.assert_allclose(
        in_environment.reshape(len(u), size).astype(np.float64),
        expected,
        rtol=epsilon,
        atol=epsilon * min(largest, 1e300),
    )


@pytest.mark.parametrize("space", BOXES)
@pytest.mark.parametrize("squash", [False, True])
def test_a_greedy_action_is_that_of_the_mean_but_for_rounding(
    space: Box, squash: bool
) -> None:
    actions = GaussianDistribution(space, squash=squash)
    size = math.prod(space.shape)
    u = np.stack([np.roll(U, shift) for shift in range(size)], axis=1)
    # The standard deviation has no part in it.
    parameters = np.concatenate([u, np.roll(u, 5, axis=0) / 1e36], axis=1)
    greedy = actions.greedy_action(tf.constant(parameters)).numpy()
    assert greedy.dtype == space.dtype
    assert all(space.contains(np.asarray(action)) for action in greedy)
    bounds = np.concatenate([np.ravel(space.low), np.ravel(space.high)])
    bounds = np.abs(bounds[np.isfinite(bounds)].astype(np.float64))
    epsilon = max(np.finfo(dtype).eps for dtype in (space.dtype, np.float32))
    np.testing.assert_allclose(
        greedy.astype(np.float64),
        actions.to_environment(tf.constant(u)).numpy().astype(np.float64),
        rtol=2 * epsilon,
        atol=2 * epsilon * min(bounds.max(initial=0.0), 1e300),
    )


@pytest.mark.parametrize(
    ("low", "high"),
    [
        # The float32 nearest to 0.1 is larger, the one nearest to −0.1 smaller.
        ([-0.1, 0.2], [0.1, 0.7]),
        # No float32 is as large.
        ([0.1, -1e300], [0.7, 1e300]),
    ],
)
def test_a_greedy_action_is_within_bounds_that_no_float32_is(
    low: list[float], high: list[float]
) -> None:
    space = Box(np.array(low), np.array(high), dtype=np.float64)
    mean = tf.constant([[-9.0, -9.0], [0.0, 0.0], [9.0, 9.0]])
    parameters = tf.concat([mean, mean], axis=1)
    greedy = GaussianDistribution(space).greedy_action(parameters).numpy()
    assert all(space.contains(action) for action in greedy)
    expected = [space.low, (space.low + space.high) / 2, space.high]
    np.testing.assert_allclose(greedy, expected, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize(
    "space",
    [
        MultiBinary([2, 2]),
        GRID,
        Box(-0.1, 0.7, (2,), np.float64),
        Box(2, 3, (2,), np.float16),
    ],
    ids=str,
)
def test_greedy_actions_need_no_operation_that_litert_lacks(
    space: gymnasium.Space[Any],
) -> None:
    actions = make_action_distribution(space)
    parameters = tf.constant(parameters_of(space, 5), tf.float32)
    found = run_converted_function(actions.greedy_action, parameters)
    assert all(space.contains(np.asarray(action)) for action in found)
    expected = actions.to_environment(actions.mode(parameters))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_actions_by_hand() -> None:
    """c + h clip(u), with c = 0, h = 2 and c = 5, h = 5; the others have no scale."""
    low = np.array([-2, 0, -INF, 1, -INF], np.float32)
    high = np.array([2, 10, INF, INF, 1], np.float32)
    space = Box(low, high)
    u = tf.constant([[0.0] * 5, [0.5] * 5, [2.5] * 5, [-99.0] * 5])
    tanh = [math.tanh(x) for x in (0.5, 2.5)]
    unbounded = [[0, 1, 0], [0.5, 1, 0.5], [2.5, 2.5, 1], [-99, 1, -99]]
    clipped = [[0, 5], [1, 7.5], [2, 10], [-2, 0]]
    squashed = [[0, 5], *([2 * t, 5 + 5 * t] for t in tanh), [-2, 0]]
    for squash, bounded in [(False, clipped), (True, squashed)]:
        expected = np.concatenate([bounded, unbounded], axis=1).astype(np.float32)
        action = GaussianDistribution(space, squash=squash).to_environment(u)
        np.testing.assert_allclose(action, expected, rtol=1e-7)


@hypothesis.given(
    bounds=strategies.tuples(
        strategies.floats(width=32, allow_nan=False),
        strategies.floats(width=32, allow_nan=False),
    ),
    u=strategies.floats(width=32, allow_nan=False, allow_infinity=False),
    squash=strategies.booleans(),
)
def test_no_action_is_out_of_bounds(
    bounds: tuple[float, float], u: float, squash: bool
) -> None:
    low, high = np.sort(np.array(bounds, np.float32))
    hypothesis.assume(low < INF and high > -INF)
    space = Box(low, high, (1,))
    actions = GaussianDistribution(space, squash=squash)
    for action in (
        actions.to_environment(tf.constant([[u]])),
        actions.greedy_action(tf.constant([[u, 0.0]])),
    ):
        assert space.contains(action.numpy()[0])


# The entropy of a squashed Gaussian -------------------------------------------------
SQUASHED = [
    *[(mean, std) for mean in (0.0, -0.5, 1.0, 3.0) for std in (0.05, 0.5, 1.0, 2.0)],
    *[(0.0, 5.0), (1.0, 5.0), (2.0, 5.0), (-3.0, 5.0), (20.0, 1.0), (50.0, 0.5)],
]


def entropy_and_gradients(mean: float, std: float, dtype: Any) -> tuple[float, Array]:
    """H of one squashed dimension, and its gradient in mean and log std."""
    actions = make_action_distribution(Box(-1, 1, (1,)), squash=True)
    parameters = tf.constant([[mean, math.log(std)]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        entropy = actions.distribution(parameters).entropy()
    return float(entropy[0]), tape.gradient(entropy, parameters).numpy()[0]


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.5, 0.5), (-1.0, 0.4)])
def test_the_oracle_of_the_entropy_agrees_with_the_plain_integral(
    mean: float, std: float
) -> None:
    np.testing.assert_allclose(
        oracle.squashed_entropy(mean, std),
        oracle.squashed_entropy_on_the_interval(mean, std),
        rtol=1e-9,
    )


@pytest.mark.parametrize(("mean", "std"), SQUASHED)
def test_entropy_of_a_squashed_gaussian(mean: float, std: float) -> None:
    expected = oracle.squashed_entropy(mean, std)
    entropy, _ = entropy_and_gradients(mean, std, tf.float64)
    np.testing.assert_allclose(entropy, expected, rtol=1e-7, atol=1e-7)
    entropy, _ = entropy_and_gradients(mean, std, tf.float32)
    np.testing.assert_allclose(entropy, expected, rtol=1e-6, atol=1e-6)
    # No distribution on [−1, 1] has more than the uniform one.
    assert entropy < math.log(2)
    # That of u itself is another.
    plain = scipy.stats.norm.entropy(mean, std)
    assert abs(plain - expected) > 1e-3


@pytest.mark.parametrize(("mean", "std"), SQUASHED)
def test_gradient_of_the_entropy_of_a_squashed_gaussian(
    mean: float, std: float
) -> None:
    """Against five-point differences of the integral, of error O(h⁴)."""

    def derivative(of: Any, h: float = 0.01) -> float:
        return (of(-2 * h) - 8 * of(-h) + 8 * of(h) - of(2 * h)) / (12 * h)

    expected = [
        derivative(lambda h: oracle.squashed_entropy(mean + h, std)),
        derivative(lambda h: oracle.squashed_entropy(mean, std * math.exp(h))),
    ]
    for dtype in [tf.float64, tf.float32]:
        _, gradient = entropy_and_gradients(mean, std, dtype)
        np.testing.assert_allclose(gradient, expected, rtol=2e-6, atol=2e-6)


def test_entropies_of_dimensions_add_up_and_only_squashed_ones_change() -> None:
    low = np.array([-1, -INF, 0, -INF, -3], np.float32)
    high = np.array([1, INF, INF, 5, 30], np.float32)
    mean = np.array([[0.3, 1.0, -2.0, 0.0, 1.5], [3.0, -4.0, 0.0, 2.0, 0.0]])
    std = np.array([[0.8, 2.0, 0.3, 1.0, 1.2], [1.0, 0.1, 9.0, 1.0, 0.2]])
    parameters = tf.constant(np.concatenate([mean, np.log(std)], axis=1))
    plain = scipy.stats.norm.entropy(mean, std)
    expected = plain.copy()
    for n, d in [(0, 0), (0, 4), (1, 0), (1, 4)]:
        expected[n, d] = oracle.squashed_entropy(mean[n, d], std[n, d])
    entropy = GaussianDistribution(Box(low, high), squash=True).distribution(parameters)
    assert isinstance(entropy, SquashedGaussian)
    np.testing.assert_allclose(entropy.entropy(), expected.sum(axis=1), rtol=1e-7)
    clipped = GaussianDistribution(Box(low, high)).distribution(parameters)
    np.testing.assert_allclose(clipped.entropy(), plain.sum(axis=1), rtol=1e-12)
    assert abs(expected - plain).sum(axis=1).min() > 1.0


def test_an_unbounded_space_has_nothing_to_squash() -> None:
    _, _, parameters = gaussian_parameters(4, 2, 5)
    parameters = tf.constant(parameters, tf.float32)
    space = Box(-INF, INF, (2,))
    squashed, plain = (
        GaussianDistribution(space, squash=squash).distribution(parameters)
        for squash in (True, False)
    )
    np.testing.assert_array_equal(squashed.entropy(), plain.entropy())


def test_squashing_changes_neither_draws_nor_likelihoods_nor_divergences() -> None:
    _, _, parameters = gaussian_parameters(4, 2, 6)
    _, _, others = gaussian_parameters(4, 2, 7)
    values = []
    for squash in (True, False):
        actions = GaussianDistribution(Box(-1, 1, (2,)), squash=squash)
        one, other = (
            actions.distribution(tf.constant(p, tf.float32))
            for p in (parameters, others)
        )
        u = one.sample(seed=key(1, 2))
        kl = one.kl_divergence(other)
        values.append([u.numpy(), one.log_prob(u).numpy(), kl.numpy()])
    for squashed, plain in zip(*values, strict=True):
        np.testing.assert_array_equal(squashed, plain)


@pytest.mark.parametrize("mean", [-1e4, 1e4])
@pytest.mark.parametrize("std", [1e-6, 1.0, 1e3])
def test_extreme_squashed_gaussians_have_finite_entropies(
    mean: float, std: float
) -> None:
    entropy, gradient = entropy_and_gradients(mean, std, tf.float32)
    assert np.isfinite(entropy)
    assert np.isfinite(gradient).all()
    # So far out log(1 − tanh² u) = 2 (log 2 − |u|), and its mean has this gradient.
    np.testing.assert_allclose(gradient, [-2 * np.sign(mean), 1.0], atol=1e-4)


def test_the_largest_number_is_no_bound() -> None:
    largest = np.finfo(np.float32).max
    space = Box(-largest, largest, (2,), np.float32)
    action = np.array([[1e6, -2.5]], np.float32)
    for squash in (False, True):
        actions = make_action_distribution(space, squash=squash)
        np.testing.assert_array_equal(actions.to_environment(action), action)
