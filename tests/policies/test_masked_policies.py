"""Masked policies against the enumeration of the actions that are allowed."""

import itertools
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from masked import choices_of, random_masks
from oracles.actor_critic import log_softmax

from acktr_tf.algorithms.losses import sampled_action_log_likelihood
from acktr_tf.config import configure
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic, PolicyOutput
from acktr_tf.policies.distributions import FORBIDDEN_LOGIT, mask_logits
from acktr_tf.spaces.masks import ActionMask

Array = npt.NDArray[Any]

PAIR = spaces.Tuple([Discrete(3), MultiDiscrete([2, 4], start=[5, -1])])
SPACES = [
    pytest.param(Discrete(5, start=2), id="discrete"),
    pytest.param(MultiDiscrete([3, 2, 4]), id="multidiscrete"),
    pytest.param(PAIR, id="tuple"),
]
ROWS = 7


def key(*numbers: int) -> tf.Tensor:
    return tf.constant(numbers, tf.int32)


def masks_for(space: gymnasium.Space[Any], rows: int, seed: int = 0) -> Array:
    """Masks `[rows, Σ n]`; the first row allows one action only, the last one all."""
    random = np.random.default_rng(seed)
    sizes = [n for n, _ in choices_of(space)]
    masks = np.concatenate([random_masks(rows, n, random) for n in sizes], axis=1)
    masks[0] = np.concatenate([np.eye(n, dtype=np.int8)[n // 2] for n in sizes])
    masks[-1] = 1
    return masks


def make(
    space: gymnasium.Space[Any],
    observation: gymnasium.Space[Any] | None = None,
    **settings: Any,
) -> ActorCritic:
    """A policy of two numbers beside a mask, with preferences."""
    observation = observation or Box(-9, 9, (2,), np.float32)
    size = sum(n for n, _ in choices_of(space))
    policy = ActorCritic(
        configure(hidden_size=6, **settings).policy,
        spaces.Dict([("eye", observation), ("mask", ActionMask(size))]),
        space,
        seed=0,
    )
    head = policy.network.get_layer("policy")
    random = np.random.default_rng(4)
    head.kernel.assign(random.normal(size=head.kernel.shape))
    head.bias.assign(random.normal(size=head.bias.shape))
    return policy


def encoded(masks: Array, seed: int = 1) -> tuple[Array, Array]:
    """What is seen `[N, 2]`, and that beside the masks."""
    seen = np.random.default_rng(seed).normal(size=(len(masks), 2)).astype(np.float32)
    return seen, np.concatenate([seen, masks.astype(np.float32)], axis=1)


def unmasked_logits(policy: ActorCritic, seen: Array) -> Array:
    return np.float64(policy.policy_network(seen))


def allowed_actions(
    logits: Array, mask: Array, sizes: list[int]
) -> dict[tuple[int, ...], float]:
    """Every action that one mask allows, and its log-probability, by enumeration."""
    ends = np.cumsum(sizes)[:-1]
    factors = []
    for part, allowed in zip(np.split(logits, ends), np.split(mask, ends), strict=True):
        options = np.flatnonzero(allowed)
        log_p = log_softmax(part[options])
        factors.append(list(zip(options.tolist(), log_p.tolist(), strict=True)))
    return {
        tuple(option for option, _ in choice): sum(log_p for _, log_p in choice)
        for choice in itertools.product(*factors)
    }


def rows_of(policy: ActorCritic, space: Any, seen: Array, masks: Array) -> list[Any]:
    sizes = [n for n, _ in choices_of(space)]
    logits = unmasked_logits(policy, seen)
    return [allowed_actions(*row, sizes) for row in zip(logits, masks, strict=True)]


def as_actions(space: Any, action: tuple[int, ...]) -> tf.Tensor:
    single = action[0] if isinstance(space, Discrete) else list(action)
    return tf.constant(single, tf.int32)


# Against the enumeration ------------------------------------------------------------
@pytest.mark.parametrize("space", SPACES)
def test_probabilities_and_entropies_are_those_of_the_allowed_actions(
    space: gymnasium.Space[Any],
) -> None:
    policy, masks = make(space), masks_for(space, ROWS)
    seen, observation = encoded(masks)
    output = policy(tf.constant(observation))
    distribution = policy.distribution(output)
    entropy = distribution.entropy().numpy()
    mode = policy.action_distribution.mode(output.parameters).numpy()
    for n, expected in enumerate(rows_of(policy, space, seen, masks)):
        row = policy.distribution(
            PolicyOutput(output.parameters[n : n + 1], output.value[n : n + 1])
        )
        for action, log_p in expected.items():
            found = row.log_prob(as_actions(space, action)[None])
            np.testing.assert_allclose(found, log_p, rtol=2e-5, atol=1e-6)
        log_p = np.array(list(expected.values()))
        np.testing.assert_allclose(
            entropy[n], -np.sum(np.exp(log_p) * log_p), rtol=1e-5, atol=1e-6
        )
        assert tuple(np.atleast_1d(mode[n])) == max(expected, key=expected.__getitem__)
    # The only action that is allowed is certain.
    assert len(rows_of(policy, space, seen, masks)[0]) == 1
    assert entropy[0] == 0.0


@pytest.mark.parametrize("space", SPACES)
def test_divergences_are_those_of_the_allowed_actions(
    space: gymnasium.Space[Any],
) -> None:
    policy, masks = make(space), masks_for(space, ROWS)
    seen, observation = encoded(masks)
    before = policy(tf.constant(observation))
    old = rows_of(policy, space, seen, masks)
    head = policy.network.get_layer("policy")
    head.kernel.assign(head.kernel + 0.3)
    head.bias.assign(2.0 * head.bias)
    new = rows_of(policy, space, seen, masks)
    found = policy.distribution(before).kl_divergence(
        policy.distribution(policy(tf.constant(observation)))
    )
    expected = [
        sum(np.exp(p) * (p - other[action]) for action, p in row.items())
        for row, other in zip(old, new, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found[0] == 0.0
    assert max(expected) > 0.1


@pytest.mark.parametrize("space", SPACES)
def test_draws_are_those_of_the_allowed_actions(space: gymnasium.Space[Any]) -> None:
    policy, masks = make(space), masks_for(space, 3)
    seen, observation = encoded(masks)
    n = 10_000
    for row, expected in enumerate(rows_of(policy, space, seen, masks)):
        rows = np.repeat(observation[row : row + 1], n, axis=0)
        drawn = policy.act(rows, key(row, 5)).action.numpy().reshape(n, -1)
        actions, counts = np.unique(drawn, axis=0, return_counts=True)
        assert {tuple(action) for action in actions} <= set(expected)
        shares = dict(zip(map(tuple, actions), counts / n, strict=True))
        for action, log_p in expected.items():
            p = np.exp(log_p)
            error = 5 * np.sqrt(p * (1 - p) / n)
            assert abs(shares.get(action, 0.0) - p) <= error


# Gradients --------------------------------------------------------------------------
@pytest.mark.parametrize("space", SPACES)
def test_gradients_are_finite_and_none_goes_to_what_is_forbidden(
    space: gymnasium.Space[Any],
) -> None:
    policy, masks = make(space), masks_for(space, ROWS)
    _, observation = encoded(masks)
    logits = tf.Variable(policy.policy_network(observation[:, :2]))
    others = policy(tf.constant(observation))
    shifted = PolicyOutput(others.parameters * 0.5, others.value)
    with tf.GradientTape(persistent=True) as tape:
        parameters = mask_logits(logits, tf.constant(masks > 0))
        distribution = policy.distribution(PolicyOutput(parameters, others.value))
        values = [
            sampled_action_log_likelihood(distribution, key(1, 2)),
            distribution.entropy(),
            distribution.kl_divergence(policy.distribution(shifted)),
        ]
    for value in values:
        gradient = tape.gradient(value, logits).numpy()
        assert np.isfinite(gradient).all()
        assert (gradient[masks == 0] == 0).all()
        # Where nothing can be chosen nothing can be learnt.
        assert (gradient[0] == 0).all()
        assert np.abs(gradient[masks == 1]).max() > 0.01


def test_the_score_of_a_draw_is_that_of_the_allowed_actions() -> None:
    """∂ log π(a)/∂s = 1_a − p over the allowed actions, and 0 elsewhere."""
    space = Discrete(6)
    policy, masks = make(space), masks_for(space, 40)
    seen, observation = encoded(masks)
    logits = unmasked_logits(policy, seen)
    parameters = tf.Variable(policy(tf.constant(observation)).parameters)
    with tf.GradientTape() as tape:
        distribution = policy.action_distribution.distribution(parameters)
        log_likelihood = sampled_action_log_likelihood(distribution, key(3, 4))
    score = tape.gradient(log_likelihood, parameters).numpy()
    drawn = distribution.sample(seed=key(3, 4)).numpy()
    for n, mask in enumerate(masks):
        p = np.zeros(6)
        p[mask == 1] = np.exp(log_softmax(logits[n, mask == 1]))
        np.testing.assert_allclose(score[n], np.eye(6)[drawn[n]] - p, atol=2e-6)


# What networks see ------------------------------------------------------------------
def test_networks_do_not_see_the_mask() -> None:
    space = Discrete(4)
    policy = make(space, normalize_observations=True)
    policy.normalize([1.0, -2.0], [0.5, 4.0])
    masks = masks_for(space, ROWS)
    seen, observation = encoded(masks)
    assert policy.network.input.shape == (None, 2)
    assert policy.observation_spec.shape.as_list() == [None, 6]
    inputs = policy.network_inputs(tf.constant(observation))
    np.testing.assert_allclose(inputs, (seen - [1.0, -2.0]) / [0.5, 4.0], rtol=1e-6)
    values = policy.value(observation)
    np.testing.assert_array_equal(values, policy.value(np.c_[seen, masks[::-1]]))


@pytest.mark.parametrize("order", [["mask", "eye"], ["a", "mask", "z"]])
def test_the_mask_may_be_any_part(order: list[str]) -> None:
    parts = {
        "eye": Box(-9, 9, (2, 1)),
        "a": Discrete(3),
        "z": Box(-9, 9, (2,)),
        "mask": ActionMask(4),
    }
    space = spaces.Dict([(name, parts[name]) for name in order])
    policy = ActorCritic(
        configure(hidden_size=6).policy, space, MultiDiscrete([2, 2]), seed=0
    )
    start = sum({"eye": 2, "a": 3, "z": 2}[n] for n in order[: order.index("mask")])
    columns = np.arange(policy.observations.encoded_space.shape[0], dtype=np.float32)
    inputs = policy.network_inputs(tf.constant(columns[None]))
    rest = np.delete(columns, np.arange(start, start + 4))
    np.testing.assert_array_equal(np.ravel(inputs), rest)
    assert policy.network.input.shape[1:] == inputs.shape[1:]
    mask = np.zeros((1, len(columns)), np.float32)
    mask[0, start + 1] = mask[0, start + 2] = 1
    parameters = policy(tf.constant(mask)).parameters.numpy()[0]
    assert (parameters == np.float32(FORBIDDEN_LOGIT)).tolist() == [True, 0, 0, True]


def test_a_picture_beside_a_mask_is_a_picture() -> None:
    frames = Box(0, 255, (2, 36, 36), np.uint8)
    space = Discrete(3)
    policy = make(space, frames)
    plain = ActorCritic(configure().policy, frames, space, seed=0)
    for variable, other in zip(
        plain.network.variables, policy.network.variables, strict=True
    ):
        variable.assign(other)
    assert policy.network.name == "nature_cnn"
    assert policy.observation_spec.dtype == tf.uint8
    pictures = np.random.default_rng(0).integers(0, 256, (2, *frames.shape), np.uint8)
    masks = np.array([[1, 0, 1], [1, 1, 1]], np.uint8)
    found = policy(tf.constant(np.c_[pictures.reshape(2, -1), masks]))
    expected = plain(tf.constant(pictures))
    np.testing.assert_array_equal(found.value, expected.value)
    np.testing.assert_array_equal(
        found.parameters, np.where(masks, expected.parameters, FORBIDDEN_LOGIT)
    )


# What is refused --------------------------------------------------------------------
def test_a_picture_and_numbers_beside_a_mask_have_a_network_of_their_own() -> None:
    """The network's slices leave the mask out, wherever it is."""
    eye, hand = Box(0, 255, (30, 31, 3), np.uint8), Box(-9, 9, (2,), np.float32)
    policy = ActorCritic(
        configure().policy,
        spaces.Dict([("eye", eye), ("mask", ActionMask(3)), ("wrist", hand)]),
        Discrete(3),
        seed=0,
    )
    plain = ActorCritic(
        configure().policy, spaces.Dict([("eye", eye), ("wrist", hand)]), Discrete(3), 0
    )
    assert policy.network.name == "multi_input"
    for mine, other in zip(
        policy.network.variables, plain.network.variables, strict=True
    ):
        mine.assign(other)
    random = np.random.default_rng(0)
    parts = {
        "eye": random.integers(0, 256, (4, 30, 31, 3), np.uint8),
        "wrist": random.normal(size=(4, 2)).astype(np.float32),
    }
    masks = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]], np.int8)
    encoded = policy.observations.encode({**parts, "mask": masks})
    expected = plain(tf.constant(plain.observations.encode(parts)))
    found = policy(tf.constant(encoded))
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(
        found.parameters,
        np.where(masks, expected.parameters, FORBIDDEN_LOGIT),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("size", "space", "message"),
    [
        (3, Discrete(4), "The action mask must have 4 numbers.*Received: 3"),
        (6, MultiDiscrete([3, 4]), "The action mask must have 7 .*Received: 6"),
        (2, Box(-1, 1, (2,)), "The action space cannot have a mask"),
        (3, MultiBinary(3), "The action space cannot have a mask"),
    ],
)
def test_a_mask_must_suit_the_actions(
    size: int, space: gymnasium.Space[Any], message: str
) -> None:
    observation = spaces.Dict({"eye": Box(-1, 1, (2,)), "mask": ActionMask(size)})
    with pytest.raises(UserError, match=message) as error:
        ActorCritic(configure().policy, observation, space, seed=0)
    assert "\n" not in str(error.value)


# Many draws -------------------------------------------------------------------------
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("n", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_no_forbidden_action_is_ever_drawn(space: Any, n: int) -> None:
    policy = make(space)
    sizes = [size for size, _ in choices_of(space)]
    batch = 10_000
    starts = np.cumsum([0, *sizes[:-1]])
    for i in range(n // batch):
        masks = masks_for(space, batch, seed=i)
        _, observation = encoded(masks, seed=i)
        # Forbidden logits may be as large as any.
        observation[:, :2] *= 50
        drawn = policy.act(observation, key(i, 7)).action.numpy()
        columns = drawn.reshape(batch, -1) + starts
        assert np.take_along_axis(masks, columns, axis=1).all()
