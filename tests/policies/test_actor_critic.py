"""Acting: reproducible, unbiased, and compiled once."""

import gymnasium
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from gymnasium.spaces import Box, Discrete
from oracles.actor_critic import log_softmax

from acktr_tf.config import configure
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.random_keys import KeyStream

VECTOR = Box(-np.inf, np.inf, (3,), np.float64)
FRAMES = Box(0, 255, (2, 36, 36), np.uint8)


def make(space: gymnasium.spaces.Box = VECTOR, actions: int = 4) -> ActorCritic:
    policy = ActorCritic(
        configure(hidden_size=8).policy, space, Discrete(actions), seed=0
    )
    # The first policy is nearly uniform; one that is not shows more.
    head = policy.network.get_layer("policy")
    head.bias.assign(np.linspace(-1.0, 1.5, actions))
    return policy


def observations(policy: ActorCritic, n: int) -> tf.Tensor:
    random = np.random.default_rng(0)
    spec = policy.observation_spec
    values = random.normal(size=(n, *spec.shape[1:])) * 100 + 100
    return tf.cast(values, spec.dtype)


def key(*numbers: int) -> tf.Tensor:
    return tf.constant(numbers, tf.int32)


@pytest.mark.parametrize(("space", "dtype"), [(VECTOR, tf.float32), (FRAMES, tf.uint8)])
def test_observations_are_taken_as_the_network_takes_them(
    space: gymnasium.spaces.Box, dtype: tf.DType
) -> None:
    policy = make(space)
    assert policy.observation_spec.dtype == dtype
    assert policy.observation_spec.shape.as_list() == [None, *space.shape]
    action, _, value = policy.act(observations(policy, 5), key(1, 2))
    assert action.dtype == tf.int32
    assert action.shape == value.shape == [5]
    assert value.dtype == tf.float32


@pytest.mark.parametrize(
    ("space", "network", "received"),
    [
        (FRAMES, "separate_cnns", "uint8 of shape [2, 36, 36]"),
        (Box(0, 1, (28, 28)), "separate_cnns", "float32 of shape [28, 28]"),
        (FRAMES, "nature_cnn", "uint8 of shape [2, 36, 36]"),
    ],
)
def test_a_picture_alone_has_nothing_to_normalize(
    space: gymnasium.spaces.Box, network: str, received: str
) -> None:
    settings = configure(normalize_observations=True, network=network).policy
    with pytest.raises(UserError) as error:
        ActorCritic(settings, space, Discrete(2), seed=0)
    assert str(error.value) == (
        "normalize_observations=true has nothing to normalize: "
        f"network={network} scales pictures itself. Received: {received}."
    )


@pytest.mark.parametrize("shape", [(6,), (3, 3, 2)])
def test_bytes_that_are_numbers_are_normalized(shape: tuple[int, ...]) -> None:
    settings = configure(normalize_observations=True, hidden_size=8).policy
    policy = ActorCritic(settings, Box(0, 255, shape, np.uint8), Discrete(2), seed=0)
    random = np.random.default_rng(0)
    mean, deviation = random.normal(100, 9, shape), random.uniform(30, 50, shape)
    policy.normalize(mean, deviation)
    rows = random.integers(0, 256, (4, *shape), np.uint8)
    expected = (rows - mean) / deviation
    np.testing.assert_allclose(policy.network_inputs(rows), expected, atol=1e-5)


def test_the_key_decides_the_actions() -> None:
    policy = make()
    batch = observations(policy, 64)
    first = policy.act(batch, key(1, 2)).action
    again = policy.act(batch, key(1, 2)).action
    assert np.array_equal(first, again)
    for other_key in [key(1, 3), key(2, 2)]:
        other = policy.act(batch, other_key).action
        assert not np.array_equal(first, other)


def test_actions_come_as_often_as_their_probabilities_say() -> None:
    policy = make(actions=5)
    n = 20_000
    row = observations(policy, 1)
    logits = policy(row).parameters.numpy()[0]
    probabilities = np.exp(log_softmax(logits.astype(np.float64)))
    assert probabilities.max() > 3 * probabilities.min()
    # In one batch, and over keys, as in a run.
    batch = policy.act(tf.repeat(row, n, axis=0), key(5, 6)).action
    rows = tf.repeat(row, 200, axis=0)
    series = np.concatenate([policy.act(rows, key(5, i))[0] for i in range(100)])
    for actions in [batch.numpy(), series]:
        counts = np.bincount(actions, minlength=5)
        expected = len(actions) * probabilities
        assert scipy.stats.chisquare(counts, expected).pvalue > 0.001
    # A wrong distribution would have been noticed.
    uniform = np.full(5, n / 5)
    assert scipy.stats.chisquare(np.bincount(batch), uniform).pvalue < 1e-9
    # Two draws in a row tell nothing of each other.
    pairs = np.histogram2d(batch[:-1], batch[1:], bins=5)[0]
    assert scipy.stats.chi2_contingency(pairs).pvalue > 0.001


def test_value_and_mode_agree_with_the_outputs() -> None:
    policy = make()
    batch = observations(policy, 7)
    value = policy.act(batch, key(0, 0)).value
    np.testing.assert_allclose(value, policy.value(batch), rtol=1e-5)
    output = policy(batch)
    assert output.parameters.shape == [7, 4]
    np.testing.assert_allclose(value, output.value, rtol=1e-5)
    logits = policy.distribution(output).logits
    np.testing.assert_allclose(logits, output.parameters, rtol=1e-5)
    mode = policy.mode(batch)
    assert np.array_equal(mode, np.argmax(output.parameters, axis=1))


def test_draws_go_on_beyond_the_index_that_an_int32_holds() -> None:
    policy, keys = make(), KeyStream(3, "acting")
    batch = observations(policy, 64)
    drawn = [
        tuple(policy.act(batch, keys.key(index)).action.numpy())
        for index in (0, 1, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**40)
    ]
    assert len(set(drawn)) == len(drawn)


def test_predictions_are_sampled_or_the_mode() -> None:
    policy = make()
    batch = observations(policy, 64)
    drawn = policy.predict(batch, key(1, 2))
    assert np.array_equal(drawn, policy.act(batch, key(1, 2)).environment_action)
    greedy = policy.predict(batch, key(1, 2), deterministic=True)
    assert np.array_equal(greedy, policy.mode(batch))
    assert not np.array_equal(drawn, greedy)


def test_the_state_goes_into_another_policy() -> None:
    first, second = make(), make(actions=4)
    second.network.get_layer("policy").bias.assign(np.zeros(4))
    batch = observations(first, 5)
    assert not np.allclose(first(batch).parameters, second(batch).parameters)
    second.load_state(first.state())
    assert np.array_equal(first(batch).parameters, second(batch).parameters)
    with pytest.raises(UserError, match=r"where the run has float32\[8, 3\]"):
        make(actions=3).load_state(first.state())


def test_rows_do_not_depend_on_their_neighbours() -> None:
    policy = make()
    batch = observations(policy, 6)
    together = policy.value(batch).numpy()
    alone = np.concatenate([policy.value(batch[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_nothing_is_traced_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make()
    traces = []
    network_inputs = policy.network_inputs

    def counted(observation: tf.Tensor) -> tf.Tensor:
        traces.append(observation)
        return network_inputs(observation)

    monkeypatch.setattr(policy, "network_inputs", counted)
    for n in [1, 3, 32]:
        for i in range(3):
            policy.act(observations(policy, n), np.array([1, i], np.int32))
            policy.value(observations(policy, n))
    # One of acting and one of the value.
    assert len(traces) == 2


def test_act_sees_weights_that_were_changed() -> None:
    policy = make()
    batch = observations(policy, 50)
    policy.act(batch, key(0, 0))
    head = policy.network.get_layer("policy")
    head.bias.assign([0.0, 0.0, 90.0, 0.0])
    assert policy.act(batch, key(0, 0))[0].numpy().tolist() == [2] * 50
