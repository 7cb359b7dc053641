"""Advantages against their definition, and against answers known in closed form."""

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from oracles import returns as oracle

from acktr_tf.algorithms.returns import generalized_advantages, make_batch
from acktr_tf.config.returns import ReturnsSettings
from acktr_tf.types import Rollout

Arguments = dict[str, Any]


def arguments(
    steps: int,
    num_envs: int,
    seed: int,
    endings: float = 0.3,
    discount: float = 0.9,
    gae_lambda: float = 0.8,
    dtype: type = np.float64,
) -> Arguments:
    random = np.random.default_rng(seed)
    shape = (steps, num_envs)
    terminated = random.random(shape) < endings / 2
    truncated = (random.random(shape) < endings / 2) & ~terminated
    return {
        "reward_t": random.normal(size=shape).astype(dtype),
        "terminated_t": terminated,
        "truncated_t": truncated,
        "value_t": random.normal(size=shape).astype(dtype),
        "final_value_t": np.where(truncated, random.normal(size=shape), 0).astype(
            dtype
        ),
        "last_value": random.normal(size=num_envs).astype(dtype),
        "discount": discount,
        "gae_lambda": gae_lambda,
    }


def naive(given: Arguments) -> Any:
    return oracle.generalized_advantages(*given.values())


@hypothesis.given(
    steps=strategies.integers(1, 12),
    num_envs=strategies.integers(1, 3),
    seed=strategies.integers(0, 2**32 - 1),
    endings=strategies.floats(0.0, 1.0),
    discount=strategies.floats(0.0, 1.0),
    gae_lambda=strategies.floats(0.0, 1.0),
)
def test_equal_to_the_weighted_mean_of_k_step_advantages(**drawn: Any) -> None:
    given = arguments(**drawn)
    np.testing.assert_allclose(
        generalized_advantages(**given), naive(given), atol=1e-12
    )


@hypothesis.given(
    seed=strategies.integers(0, 2**32 - 1), scale=strategies.floats(-10.0, 10.0)
)
def test_linear_in_rewards_and_values(seed: int, scale: float) -> None:
    given = arguments(8, 3, seed)
    scaled = dict(given)
    for name in ["reward_t", "value_t", "final_value_t", "last_value"]:
        scaled[name] = scale * given[name]
    np.testing.assert_allclose(
        generalized_advantages(**scaled),
        scale * generalized_advantages(**given),
        atol=1e-10,
    )


@hypothesis.given(seed=strategies.integers(0, 2**32 - 1))
def test_nothing_after_an_ending_matters_before_it(seed: int) -> None:
    given = arguments(9, 2, seed)
    given["terminated_t"][4, 0], given["truncated_t"][4, 0] = True, False
    given["terminated_t"][4, 1], given["truncated_t"][4, 1] = False, True
    before = generalized_advantages(**given)
    random = np.random.default_rng(seed + 1)
    for name in ["reward_t", "value_t", "final_value_t"]:
        given[name][5:] += random.normal(size=(4, 2))
    given["last_value"] += 1.0
    after = generalized_advantages(**given)
    assert np.array_equal(before[:5], after[:5])
    assert not np.array_equal(before[5:], after[5:])


def test_lambda_one_gives_k_step_returns() -> None:
    given = arguments(7, 4, 0, gae_lambda=1.0)
    advantage = generalized_advantages(**given)
    ended = given["terminated_t"] | given["truncated_t"]
    for b in range(4):
        values = np.append(given["value_t"][:, b], given["last_value"][b])
        for t in range(7):
            endings = np.flatnonzero(ended[t:, b])
            k = 1 + int(endings[0]) if len(endings) else 7 - t
            expected = oracle.k_step_return(
                given["reward_t"][:, b],
                given["terminated_t"][:, b],
                given["truncated_t"][:, b],
                values,
                given["final_value_t"][:, b],
                0.9,
                t,
                k,
            )
            np.testing.assert_allclose(advantage[t, b] + values[t], expected)


def test_lambda_zero_gives_one_step_errors() -> None:
    given = arguments(6, 2, 1, endings=0.0, gae_lambda=0.0)
    reached = np.concatenate([given["value_t"][1:], given["last_value"][None]])
    expected = given["reward_t"] + 0.9 * reached - given["value_t"]
    np.testing.assert_allclose(generalized_advantages(**given), expected)


def test_numbers_by_hand() -> None:
    """γ = ½, λ = ½; the second step ends the episode in one of three ways.

    V = (1, 2, 4), V after = 8, V of the final observation = 6, rewards all 1.
      δ_2 = 1 + 8/2 − 4 = 1, and A_2 = 1 whatever happened before.
      goes on:     δ_1 = 1 + 4/2 − 2 = 1    A_1 = 1 + 1/4·1 = 1.25
      terminated:  δ_1 = 1 − 2 = −1         A_1 = −1
      truncated:   δ_1 = 1 + 6/2 − 2 = 2    A_1 = 2
      δ_0 = 1 + 2/2 − 1 = 1, A_0 = 1 + A_1/4 = 1.3125, 0.75, 1.5
    """
    advantage = generalized_advantages(
        np.ones((3, 3)),
        np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.bool_),
        np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], np.bool_),
        np.tile([[1.0], [2.0], [4.0]], 3),
        np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 6.0], [0.0, 0.0, 0.0]]),
        np.full(3, 8.0),
        0.5,
        0.5,
    )
    assert advantage.tolist() == [[1.3125, 0.75, 1.5], [1.25, -1.0, 2.0], [1.0] * 3]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_the_value_of_a_constant_reward_is_a_fixed_point(gae_lambda: float) -> None:
    """With reward 1 for ever, V = 1/(1 − γ) leaves no advantage, and 0.9 V does."""
    given = arguments(9, 2, 3, endings=0.0, gae_lambda=gae_lambda)
    given["truncated_t"] = np.zeros((9, 2), np.bool_)
    given["truncated_t"][4, 1] = True
    value = 1.0 / (1.0 - 0.9)
    for factor, fixed in [(1.0, True), (0.9, False)]:
        given["reward_t"] = np.ones((9, 2))
        given["value_t"] = np.full((9, 2), factor * value)
        given["final_value_t"] = factor * value * given["truncated_t"]
        given["last_value"] = np.full(2, factor * value)
        advantage = generalized_advantages(**given)
        assert np.allclose(advantage, 0.0, atol=1e-12) == fixed
    # The same endings taken for terminal states are no fixed point any more.
    given["value_t"] = np.full((9, 2), value)
    given["last_value"] = np.full(2, value)
    given["terminated_t"], given["truncated_t"] = (
        given["truncated_t"],
        given["terminated_t"],
    )
    advantage = generalized_advantages(**given)
    np.testing.assert_allclose(advantage[:, 0], 0.0, atol=1e-12)
    np.testing.assert_allclose(advantage[4, 1], 1.0 - value)


def test_float32_stays_float32_and_the_arguments_stay_as_they_are() -> None:
    given = arguments(20, 8, 5, dtype=np.float32)
    copies = {
        name: given[name].copy() for name in given if hasattr(given[name], "copy")
    }
    advantage = generalized_advantages(**given)
    assert advantage.dtype == np.float32
    np.testing.assert_allclose(advantage, naive(given), rtol=1e-4, atol=1e-5)
    for name, copy in copies.items():
        assert np.array_equal(given[name], copy), name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("reward_t", (2, 4)),
        ("reward_t", (4,)),
        ("terminated_t", (3, 5)),
        ("truncated_t", (1, 4)),
        ("final_value_t", (3, 4, 1)),
        ("last_value", (3,)),
        ("last_value", (1, 4)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    given = arguments(3, 4, 0)
    given[name] = np.zeros(shape, given[name].dtype)
    with pytest.raises(ValueError, match=f"`{name}` must be") as error:
        generalized_advantages(**given)
    assert str(shape) in str(error.value)


def test_values_without_a_time_axis_are_refused() -> None:
    flat = np.zeros(4)
    with pytest.raises(ValueError, match=r"must be \[T, B\]"):
        generalized_advantages(
            flat, flat > 0, flat > 0, flat, flat, np.zeros(()), 0.9, 1.0
        )


# The batch --------------------------------------------------------------------------
def test_rows_run_over_environments_within_steps():
    rng = np.random.default_rng(0)
    steps, environments = 4, 3

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    shape = (steps, environments)
    rollout = Rollout(
        observation=numbers(*shape, 2),
        action=rng.integers(5, size=shape).astype(np.int32),
        reward=numbers(*shape),
        terminated=rng.random(shape) < 0.3,
        truncated=np.zeros(shape, np.bool_),
        value=numbers(*shape),
        final_value=numbers(*shape),
        last_value=numbers(environments),
    )
    advantage = generalized_advantages(*rollout[2:], 0.9, 0.8)
    value_error = generalized_advantages(*rollout[2:], 0.9, 0.3)

    settings = ReturnsSettings(discount=0.9, gae_lambda=0.8, value_lambda=0.3)
    batch = make_batch(rollout, settings)

    for step in range(steps):
        for environment in range(environments):
            row, at = step * environments + environment, (step, environment)
            np.testing.assert_array_equal(
                batch.observation[row], rollout.observation[at]
            )
            assert batch.action[row] == rollout.action[at]
            assert batch.advantage[row] == advantage[at]
            assert batch.target[row] == value_error[at] + rollout.value[at]
    assert len(batch.target) == steps * environments


def test_targets_take_the_lambda_of_the_advantages_unless_they_have_their_own():
    rng = np.random.default_rng(0)
    shape = (4, 3)
    rollout = Rollout(
        *(rng.normal(size=shape).astype(np.float32) for _ in range(3)),
        np.zeros(shape, np.bool_),
        np.zeros(shape, np.bool_),
        *(rng.normal(size=shape).astype(np.float32) for _ in range(2)),
        rng.normal(size=3).astype(np.float32),
    )
    plain, same, other = (
        make_batch(rollout, ReturnsSettings(gae_lambda=0.8, value_lambda=decay))
        for decay in (None, 0.8, 0.0)
    )
    np.testing.assert_array_equal(plain.target, same.target)
    assert not np.allclose(plain.target, other.target)
    np.testing.assert_array_equal(plain.advantage, other.advantage)
