"""Running moments against those of all rows, reward scales against a slow loop."""

import io
from fractions import Fraction
from typing import Any

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector.utils import batch_space
from hypothesis import strategies
from oracles.normalization import discounted_returns

from acktr_tf.config import configure
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.spaces.masks import ActionMask
from acktr_tf.training.normalization import (
    RewardScale,
    RunningMoments,
    RunningNormalization,
)
from acktr_tf.types import Array, Rollout


def moments_of(batches: list[Array], shape: tuple[int, ...] = ()) -> RunningMoments:
    moments = RunningMoments(shape)
    for batch in batches:
        moments.update(batch)
    return moments


def saved(arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays as a file gives them back, sharing nothing with what they were."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


def assert_same_bits(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype
        assert np.shape(one[name]) == np.shape(other[name])
        assert np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes()


# Moments ----------------------------------------------------------------------------
@hypothesis.given(
    sizes=strategies.lists(strategies.integers(0, 40), min_size=1, max_size=8),
    shape=strategies.sampled_from([(), (1,), (3,), (2, 3)]),
    offset=strategies.sampled_from([0.0, -3.0, 1e3]),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_moments_are_those_of_all_rows(
    sizes: list[int], shape: tuple[int, ...], offset: float, seed: int
) -> None:
    hypothesis.assume(sum(sizes) > 0)
    random = np.random.default_rng(seed)
    scale = np.exp(random.normal(size=shape))
    batches = [offset + scale * random.normal(size=(n, *shape)) for n in sizes]
    moments = moments_of(batches, shape)
    rows = np.concatenate(batches)
    assert moments.count == len(rows)
    assert moments.mean.shape == moments.variance.shape == shape
    close = {"rtol": 1e-12, "atol": 1e-15 * max(offset**2, 1.0)}
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.variance, rows.var(axis=0), **close)
    if len(rows) > 1:
        np.testing.assert_allclose(
            moments.deviation, np.sqrt(moments.variance), rtol=1e-15
        )


def test_leading_axes_are_all_rows() -> None:
    rollout = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    moments = moments_of([rollout], (3,))
    assert moments.count == 20
    exact = rollout.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=(0, 1)), rtol=1e-13)
    np.testing.assert_allclose(moments.variance, exact.var(axis=(0, 1)), rtol=1e-13)


def test_moments_by_hand() -> None:
    """Rows 1, 3 and then 8: mean 4, variance (9 + 1 + 16) / 3."""
    moments = moments_of([np.array([1.0, 3.0])])
    assert (moments.mean, moments.variance) == (2.0, 1.0)
    moments.update(np.array([8.0]))
    assert (moments.count, moments.mean) == (3, 4.0)
    np.testing.assert_allclose(moments.variance, 26 / 3, rtol=1e-15)


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_a_large_offset_does_not_hide_the_variance(offset: float) -> None:
    random = np.random.default_rng(1)
    batches = [offset + random.normal(size=(n, 2)) for n in [1, 7, 500, 2, 3000] * 20]
    rows = np.concatenate(batches)
    moments = moments_of(batches, (2,))
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, rows.var(axis=0), rtol=1e-9)
    # Sums of squares would have lost it.
    naive = np.mean(rows**2, axis=0) - rows.mean(axis=0) ** 2
    assert (abs(naive / rows.var(axis=0) - 1) > 1e-6).all()


@pytest.mark.parametrize("offset", [0.0, -40.0, 1e4])
def test_moments_still_move_after_a_billion_rows(offset: float) -> None:
    """Beside the same sums in rational numbers, which are exact."""
    count, mean, variance = 10**9 + 7, Fraction(offset) + Fraction(1, 3), Fraction(9, 4)
    moments = RunningMoments((1,))
    moments.load_state(
        {
            "count": np.array(float(count)),
            "mean": np.array([float(mean)]),
            "squares": np.array([float(count * variance)]),
        }
    )
    start, first = Fraction(moments.mean[0]), Fraction(moments.state()["squares"][0])
    total, squares = count * start, first + count * start**2
    random = np.random.default_rng(0)
    for _ in range(20):
        # Less than what came before moves the mean by less than a millionth.
        rows = offset + random.normal(2.0, 1.0, (640, 1)).astype(np.float32)
        moments.update(rows)
        exact = [Fraction(float(row)) for row in rows[:, 0]]
        count, total = count + len(exact), total + sum(exact)
        squares += sum(row**2 for row in exact)
    mean = total / count
    moved = float(mean - start)
    assert 1e-5 < abs(moved) < 1e-3
    assert moments.count == count
    found = Fraction(moments.mean[0]) - start
    assert float(found) == pytest.approx(moved, rel=1e-6)
    exact_variance = float(squares / count - mean**2)
    np.testing.assert_allclose(moments.variance, exact_variance, rtol=1e-10)


def test_a_drift_is_part_of_the_variance() -> None:
    batches = [np.full(100, float(i)) for i in range(10)]
    np.testing.assert_allclose(moments_of(batches).variance, 99 / 12, rtol=1e-13)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6 / 3])
def test_what_never_varied_is_left_as_it_is(value: float) -> None:
    batches = [np.full((n, 2), value) * [1.0, 0.0] for n in [1, 3, 160, 17] * 10]
    moments = moments_of(batches, (2,))
    np.testing.assert_allclose(moments.mean, [value, 0.0], rtol=1e-14)
    np.testing.assert_allclose(moments.variance, 0.0, atol=(1e-14 * value) ** 2)
    assert moments.deviation.tolist() == [1.0, 1.0]
    # A small variance is one all the same.
    moments = moments_of([np.array([1.0, 1.0 + 1e-6])])
    np.testing.assert_allclose(moments.deviation, 5e-7, rtol=1e-9)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_nothing_seen_is_mean_zero_and_variance_one(shape: tuple[int, ...]) -> None:
    for batches in [[], [np.zeros((0, *shape))], [np.zeros((4, 0, *shape))]]:
        moments = moments_of(batches, shape)
        assert moments.count == 0
        np.testing.assert_array_equal(moments.mean, np.zeros(shape))
        np.testing.assert_array_equal(moments.variance, np.ones(shape))
        np.testing.assert_array_equal(moments.deviation, np.ones(shape))


def test_an_empty_batch_changes_nothing() -> None:
    rows = np.random.default_rng(2).normal(size=(9, 3))
    moments = moments_of([rows], (3,))
    before = saved(moments.state())
    moments.update(np.zeros((0, 3)))
    assert_same_bits(before, moments.state())


def test_rows_are_not_changed() -> None:
    rows = np.random.default_rng(3).normal(size=(9, 3))
    copy = rows.copy()
    moments_of([rows, rows], (3,))
    np.testing.assert_array_equal(rows, copy)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("restart", [0, 1, 5])
def test_restored_moments_go_on_to_the_bit(
    shape: tuple[int, ...], restart: int
) -> None:
    random = np.random.default_rng(4)
    batches = [1e3 + random.normal(size=(n, *shape)) for n in [4, 1, 33, 7, 0, 5, 12]]
    whole = moments_of(batches, shape)
    arrays = saved(moments_of(batches[:restart], shape).state())
    second = RunningMoments(shape)
    second.update(random.normal(size=(5, *shape)))  # Forgotten by restoring.
    second.load_state(arrays)
    assert_same_bits(arrays, second.state())
    for batch in batches[restart:]:
        second.update(batch)
    assert_same_bits(whole.state(), second.state())
    assert np.array_equal(whole.deviation, second.deviation)
    # What was restored from is still what it was.
    assert_same_bits(arrays, saved(moments_of(batches[:restart], shape).state()))


# Rewards ----------------------------------------------------------------------------
def rollouts(
    lengths: list[int], num_envs: int, seed: int, endings: float = 0.2
) -> list[tuple[Array, Array]]:
    random = np.random.default_rng(seed)
    return [
        (
            random.normal(size=(steps, num_envs)).astype(np.float32) * 3 + 1,
            random.random((steps, num_envs)) < endings,
        )
        for steps in lengths
    ]


@hypothesis.given(
    lengths=strategies.lists(strategies.integers(1, 12), min_size=1, max_size=5),
    num_envs=strategies.integers(1, 4),
    discount=strategies.floats(0.0, 1.0),
    endings=strategies.floats(0.0, 1.0),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_rewards_are_divided_by_the_deviation_of_the_returns(
    lengths: list[int], num_envs: int, discount: float, endings: float, seed: int
) -> None:
    given = rollouts(lengths, num_envs, seed, endings)
    scale = RewardScale(num_envs, discount)
    for i, (reward, ended) in enumerate(given):
        scale.update(reward, ended)
        seen = [np.concatenate(parts) for parts in zip(*given[: i + 1], strict=True)]
        returns = discounted_returns(seen[0].astype(np.float64), seen[1], discount)
        assert scale.moments.count == returns.size
        np.testing.assert_allclose(
            scale.moments.mean, returns.mean(), rtol=1e-12, atol=1e-12
        )
        expected = returns.std() if returns.size > 1 else 1.0
        np.testing.assert_allclose(scale.scale, expected, rtol=1e-11)
    assert type(scale.scale) is float


def test_returns_by_hand() -> None:
    """γ = ½; the second environment's episode ends with the second of three steps.

      G of the first:  2, ½·2 + 4 = 5, ½·5 + 6 = 8.5
      G of the second: 2, 5, and 6 of a new episode
    A second rollout of one step goes on from there: ½·8.5 + 1 = 5.25, ½·6 + 1 = 4.
    """
    scale = RewardScale(2, 0.5)
    reward = np.array([[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]])
    scale.update(reward, np.array([[0, 0], [0, 1], [0, 0]], np.bool_))
    returns = [2.0, 2.0, 5.0, 5.0, 8.5, 6.0]
    np.testing.assert_allclose(scale.moments.mean, np.mean(returns), rtol=1e-15)
    np.testing.assert_allclose(scale.scale, np.std(returns), rtol=1e-14)
    scale.update(np.ones((1, 2)), np.zeros((1, 2), np.bool_))
    returns += [5.25, 4.0]
    np.testing.assert_allclose(scale.scale, np.std(returns), rtol=1e-14)


def test_an_end_with_a_rollout_is_an_end_in_the_next() -> None:
    scale = RewardScale(2, 0.9)
    scale.update(np.full((1, 2), 10.0), np.array([[True, False]]))
    scale.update(np.zeros((1, 2)), np.zeros((1, 2), np.bool_))
    # 10, 10, then 0 after the end and 0.9 · 10 without one.
    np.testing.assert_allclose(scale.scale, np.std([10, 10, 0, 9]), rtol=1e-14)


def test_the_scale_is_one_until_returns_have_varied() -> None:
    scale = RewardScale(3, 0.99)
    assert scale.scale == 1.0
    scale.update(np.zeros((4, 3)), np.zeros((4, 3), np.bool_))
    assert scale.scale == 1.0
    scale.update(np.ones((1, 3)), np.zeros((1, 3), np.bool_))
    np.testing.assert_allclose(scale.scale, np.std([0.0] * 12 + [1.0] * 3), rtol=1e-14)


def test_rewards_in_another_unit_are_learnt_from_alike() -> None:
    scales = []
    for unit in [1.0, 1024.0]:
        scale = RewardScale(4, 0.99)
        for reward, ended in rollouts([20, 30], 4, 0):
            scale.update(unit * reward, ended)
        scales.append(scale.scale / unit)
    # A power of two only moves the exponent.
    assert scales[0] == scales[1]


@pytest.mark.parametrize("restart", [0, 1, 3, 5])
def test_a_restored_scale_goes_on_to_the_bit(restart: int) -> None:
    given = rollouts([7, 1, 20, 3, 5], 3, 5)
    whole, first, second = (RewardScale(3, 0.97) for _ in range(3))
    scales = []
    for reward, ended in given:
        whole.update(reward, ended)
        scales.append(whole.scale)
    for reward, ended in given[:restart]:
        first.update(reward, ended)
    arrays = saved(first.state())
    second.update(*given[0])  # Forgotten by restoring.
    second.load_state(arrays)
    assert_same_bits(arrays, second.state())
    for i, (reward, ended) in enumerate(given[restart:], start=restart):
        second.update(reward, ended)
        assert second.scale == scales[i]
    assert_same_bits(whole.state(), second.state())


def test_what_was_saved_does_not_change_with_what_goes_on() -> None:
    scale = RewardScale(3, 0.97)
    for reward, ended in rollouts([7, 4], 3, 6):
        scale.update(reward, ended)
    arrays = scale.state()
    copies = saved(arrays)
    restored = RewardScale(3, 0.97)
    restored.load_state(arrays)
    for reward, ended in rollouts([5, 9], 3, 7):
        scale.update(reward, ended)
        restored.update(reward, ended)
    assert_same_bits(copies, arrays)
    assert copies["returns"].any()


# Both, for a policy -----------------------------------------------------------------
def normalization_of(**settings: Any) -> tuple[ActorCritic, RunningNormalization]:
    config = configure(num_envs=2, hidden_size=4, **settings)
    policy = ActorCritic(config.policy, Box(-9, 9, (3,)), Discrete(2), seed=0)
    return policy, RunningNormalization(config.policy, config.returns, 2, policy)


def rollout_of(seed: int) -> Rollout:
    random = np.random.default_rng(seed)
    zeros = np.zeros((5, 2), np.float32)
    return Rollout(
        observation=(3.0 + 2.0 * random.normal(size=(5, 2, 3))).astype(np.float32),
        action=np.zeros((5, 2), np.int32),
        reward=random.normal(size=(5, 2)).astype(np.float32),
        terminated=random.random((5, 2)) < 0.2,
        truncated=np.zeros((5, 2), np.bool_),
        value=zeros,
        final_value=zeros,
        last_value=zeros[0],
    )


def test_without_normalization_a_rollout_is_what_it_was() -> None:
    _, normalization = normalization_of()
    rollout = rollout_of(0)
    assert normalization.scale_rewards(rollout) is rollout
    normalization.update_observations(rollout)
    assert normalization.reward_scale == 1.0
    assert normalization.state() == {}


def test_rewards_are_divided_by_a_scale_that_has_seen_them() -> None:
    policy, normalization = normalization_of(normalize_rewards=True)
    scale = RewardScale(2, 0.99)
    for seed in range(3):
        rollout = rollout_of(seed)
        found = normalization.scale_rewards(rollout)
        scale.update(rollout.reward, rollout.terminated)
        assert normalization.reward_scale == scale.scale
        np.testing.assert_array_equal(
            found.reward, (rollout.reward / scale.scale).astype(np.float32)
        )
        assert float(policy.value_scale.value) == np.float32(scale.scale)


def test_observations_are_normalized_from_the_next_rollout_on() -> None:
    policy, normalization = normalization_of(normalize_observations=True)
    rollout = rollout_of(0)
    rows = rollout.observation.reshape(-1, 3)
    np.testing.assert_array_equal(policy.network_inputs(rows), rows)
    normalization.scale_rewards(rollout)
    np.testing.assert_array_equal(policy.network_inputs(rows), rows)
    normalization.update_observations(rollout)
    found = np.asarray(policy.network_inputs(rows))
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1.0, atol=1e-5)


def test_pictures_beside_numbers_are_not_normalized() -> None:
    """Bytes of a grid and numbers are; the moments are NumPy's."""
    parts = {
        "camera": Box(0, 255, (28, 29), np.uint8),
        "cells": Box(0, 255, (3, 4, 2), np.uint8),
        "speed": Box(-9, 9, (2,)),
    }
    space = Dict(parts)
    config = configure(num_envs=2, normalize_observations=True)
    policy = ActorCritic(config.policy, space, Discrete(2), seed=0)
    normalization = RunningNormalization(config.policy, config.returns, 2, policy)
    vector = batch_space(space, 10)
    vector.seed(0)
    rows = policy.observations.encode(vector.sample())
    rollout = rollout_of(0)._replace(observation=rows.reshape(5, 2, -1))
    for _ in range(2):
        normalization.update_observations(rollout)
    found = np.asarray(policy.network_inputs(rows))
    pixels = 28 * 29
    np.testing.assert_array_equal(found[:, :pixels], rows[:, :pixels])
    numbers = rows[:, pixels:].astype(np.float64)
    expected = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    np.testing.assert_allclose(found[:, pixels:], expected, rtol=1e-3, atol=1e-4)
    assert normalization.state()["observations/mean"].shape == (24 + 2,)


def test_an_action_mask_is_not_normalized() -> None:
    space = Dict([("mask", ActionMask(2)), ("eye", Box(-9, 9, (3,)))])
    config = configure(num_envs=2, hidden_size=4, normalize_observations=True)
    policy = ActorCritic(config.policy, space, Discrete(2), seed=0)
    normalization = RunningNormalization(config.policy, config.returns, 2, policy)
    rollout = rollout_of(0)
    masks = np.ones((5, 2, 2), np.float32)
    masks[0, 0, 1] = 0
    masked = np.concatenate([masks, rollout.observation], axis=-1)
    normalization.update_observations(rollout._replace(observation=masked))
    rows = rollout.observation.reshape(-1, 3)
    expected = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    found = policy.network_inputs(tf.constant(masked.reshape(-1, 5)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_state_goes_into_another_normalization_to_the_bit() -> None:
    settings = {"normalize_rewards": True, "normalize_observations": True}
    _, first = normalization_of(**settings)
    for seed in range(2):
        first.scale_rewards(rollout_of(seed))
        first.update_observations(rollout_of(seed))
    _, second = normalization_of(**settings)
    second.load_state(saved(first.state()))
    for normalization in (first, second):
        normalization.scale_rewards(rollout_of(7))
        normalization.update_observations(rollout_of(7))
    assert_same_bits(first.state(), second.state())
