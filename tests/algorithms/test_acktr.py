"""ACKTR with a joint critic: its curvature, and its step against KFAC used by hand."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector.utils import batch_space
from problems import arrays, make, random_rollout

from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.losses import actor_critic_loss, sampled_log_likelihood
from acktr_tf.algorithms.returns import make_batch
from acktr_tf.config import Config, configure
from acktr_tf.config import kfac as kfac_config
from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.kfac import settings as kfac_settings

EAGER = pytest.mark.usefixtures("eager")


def tiny(**settings: Any) -> Config:
    return configure(
        **{
            "num_envs": 4,
            "unroll_length": 8,
            "hidden_size": 8,
            "total_steps": 32 * 100,
            "seed": 3,
            "kl_radius": 0.01,
            "target_kl": None,
            "target_kl_schedule": "constant",
            "damping": 0.0002,
            "curvature_fraction": 1.0,
            **settings,
        }
    )


@pytest.fixture(scope="module")
def learner() -> ACKTR:
    """One that many tests may use: they tell its updates by how they differ."""
    learner = make(tiny(factor_decay=0.0))[1]
    assert isinstance(learner, ACKTR)
    return learner


def test_settings_reach_the_optimizer() -> None:
    config = tiny(
        learning_rate=0.125,
        learning_rate_schedule="constant",
        bound="update",
        momentum=0.5,
        damping=0.03,
        factor_decay=0.75,
        factor_update_period=2,
        inverse_update_period=4,
        spatial_correlation="full",
        patch_stride=3,
        max_factor_dim=5,
    )
    _, learner = make(config)
    optimizer = learner.actor.optimizer
    assert float(optimizer.learning_rate) == 0.125
    found = optimizer.get_config()
    for entry in config.algorithm.kfac.entries():
        if entry.path != "curvature_fraction":  # The stepper's, not the optimizer's.
            assert found[entry.path] == entry.default, entry.path


def test_choices_are_those_of_the_optimizer() -> None:
    assert kfac_config.BOUNDS == kfac_settings.BOUNDS
    assert kfac_config.SPATIAL_CORRELATIONS == kfac_settings.SPATIAL_CORRELATIONS


def test_an_update_equals_the_optimizer_used_by_hand() -> None:
    """Uncompiled, stage by stage, with the same draws."""
    config = tiny(learning_rate_schedule="constant", entropy_cost_schedule="constant")
    policy, learner = make(config)
    twin, _ = make(config)
    settings = config.algorithm
    optimizer = KFAC(
        learning_rate=settings.learning_rate.learning_rate,
        kl_radius=settings.kfac.kl_radius,
        momentum=settings.kfac.momentum,
        damping=settings.kfac.damping,
        factor_decay=settings.kfac.factor_decay,
        factor_update_period=settings.kfac.factor_update_period,
        inverse_update_period=settings.kfac.inverse_update_period,
        stagger_inverses=False,
    )
    optimizer.attach(twin.network)
    for index in range(4):
        rollout = random_rollout(config, index)
        metrics = learner.update(rollout, index, measure=True).metrics

        batch = make_batch(rollout, config.returns)
        keys = tf.random.split(learner._keys.key(index), 2)
        with CurvatureTape(optimizer.layers) as curvature_tape:
            output = twin(batch.observation)
            log_likelihood = sampled_log_likelihood(
                twin.distribution(output), output.value, keys[1]
            )
        optimizer.update_curvature(curvature_tape, log_likelihood)
        weights = twin.network.trainable_variables
        with tf.GradientTape() as tape:
            output = twin(batch.observation)
            loss = actor_critic_loss(
                twin.distribution(output),
                output.value,
                batch,
                settings.loss.entropy_cost,
                settings.loss.value_cost,
            ).total
        optimizer.apply(tape.gradient(loss, weights), weights)

        for mine, other in zip(
            arrays(policy.network.variables),
            arrays(twin.network.variables),
            strict=True,
        ):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=2e-5)
        assert metrics["predicted_kl"] == pytest.approx(
            float(optimizer.predicted_kl()), rel=1e-2
        )
        assert metrics["trust_region_scale"] == pytest.approx(
            float(optimizer.trust_region_scale), rel=1e-2
        )


@EAGER
def test_what_is_reported() -> None:
    config = tiny()
    _, learner = make(config)
    metrics = learner.update(random_rollout(config), 0, measure=True).metrics
    assert metrics.keys() == learner.scalars.keys()
    assert metrics["kl_radius"] == pytest.approx(0.01)
    assert metrics["damping"] == pytest.approx(config.algorithm.kfac.damping)
    assert metrics["failed_factorizations"] == 0.0
    assert math.isnan(metrics["target_kl"])
    assert math.isnan(metrics["max_kl"])
    assert 0.0 < metrics["trust_region_scale"] < 1.0
    # Momentum takes a tenth of the first step: its KL is a hundredth of the radius at
    # most, and damping makes it less.
    assert 0.0 < metrics["predicted_kl"] <= 0.01 * 0.01 * 1.01
    unmeasured = learner.update(random_rollout(config), 1, measure=False).metrics
    assert unmeasured.keys() < metrics.keys()
    assert {"policy_loss", "value_loss", "gradient_norm"} < unmeasured.keys()
    assert "predicted_kl" not in unmeasured


def test_without_a_radius_the_step_has_the_learning_rate() -> None:
    config = tiny(kl_radius=None, learning_rate=1e-3)
    _, learner = make(config)
    metrics = learner.update(random_rollout(config), 0, measure=True).metrics
    assert math.isnan(metrics["kl_radius"])
    assert metrics["trust_region_scale"] == 1.0


# When curvature is estimated --------------------------------------------------------
@EAGER
def test_factors_are_updated_when_they_are_due() -> None:
    config = tiny(factor_update_period=3, inverse_update_period=1, factor_decay=0.5)
    _, learner = make(config)
    changed = []
    block = learner.actor.optimizer.blocks[0]
    for index in range(7):
        before = block.to_dense().numpy()
        learner.update(random_rollout(config, index), index, measure=False)
        changed.append(not np.array_equal(before, block.to_dense()))
    # In the first period always.
    assert changed == [True, True, True, True, False, False, True]


def test_draws_differ_between_updates(learner: ACKTR) -> None:
    """One batch again and again still gives factors of other samples each time."""
    rollout = random_rollout(tiny())
    seen = []
    for index in range(3):
        learner.update(rollout, index, measure=False)
        seen.append(learner.actor.optimizer.blocks[-1].to_dense().numpy())
    assert len({block.tobytes() for block in seen}) == 3


@pytest.mark.parametrize(
    "space",
    [
        pytest.param(Box(0, 255, (2, 36, 36), np.uint8), id="nature_cnn"),
        pytest.param(Box(0, 255, (3, 4, 2), np.uint8), id="grid_cnn"),
        pytest.param(
            Dict(
                {
                    "camera": Box(0, 255, (28, 28), np.uint8),
                    "cells": Box(0, 255, (4, 3, 2), np.uint8),
                    "speed": Box(-1, 1, (2,)),
                }
            ),
            id="multi_input",
        ),
    ],
)
def test_pictures_and_grids_are_learnt_from_too(space: gymnasium.Space[Any]) -> None:
    config = tiny(num_envs=2, unroll_length=3, conv3_filters=8)
    policy, learner = make(config, space, Discrete(3))
    vector = batch_space(space, 6)
    vector.seed(0)
    encoded = policy.observations.encode(vector.sample())
    rollout = random_rollout(config)._replace(
        observation=encoded.reshape(3, 2, *encoded.shape[1:])
    )
    before = arrays(policy.network.trainable_variables)
    update = learner.update(rollout, 0, measure=True)
    assert update.applied
    assert update.metrics["failed_factorizations"] == 0.0
    after = arrays(policy.network.trainable_variables)
    assert all(np.isfinite(array).all() for array in after)
    assert all(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))


# Acceptance -------------------------------------------------------------------------
def late_kl(radius: float, **settings: Any) -> tuple[float, float]:
    """Median KLs of policy, and of policy and value, after the radius has settled."""
    config = tiny(
        learning_rate=100.0,
        learning_rate_schedule="constant",
        kl_radius=radius,
        # The value moves further than the policy.
        value_cost=5.0,
        **settings,
    )
    _, learner = make(config)
    kl = [
        learner.update(random_rollout(config, i), i, measure=i >= 100).metrics
        for i in range(140)
    ]
    policy, joint = (
        float(np.median([metrics[name] for metrics in kl[100:]]))
        for name in ("exact_kl", "exact_kl_joint")
    )
    return policy, joint


@pytest.mark.parametrize("radius", [1e-4, 10.0])
def test_adapted_radius_gives_the_policy_kl_asked_for(radius: float) -> None:
    target = 1e-3
    policy, joint = late_kl(radius, target_kl=target)
    assert target / 2.5 < policy < target * 2.5
    # What the value adds is not counted.
    assert joint > target * 2.5


def test_the_target_of_the_kl_falls_by_its_schedule() -> None:
    # To 0.03 to 0.3 of itself in the updates that are looked at.
    policy, _ = late_kl(
        1e-4, target_kl=1e-3, target_kl_schedule="linear", total_steps=32 * 145
    )
    assert policy < 1e-3 / 2.5


def test_without_a_target_the_kl_is_another() -> None:
    policy, _ = late_kl(1e-4)
    assert policy < 1e-3 / 2.5 or policy > 1e-3 * 2.5


def test_no_step_goes_beyond_the_limit_on_the_exact_kl() -> None:
    limit = 1e-4

    def exact(**settings: Any) -> list[float]:
        config = tiny(learning_rate=100.0, kl_radius=0.1, **settings)
        _, learner = make(config)
        updates = [
            learner.update(random_rollout(config, i), i, measure=True)
            for i in range(10)
        ]
        shown = {update.metrics["max_kl"] for update in updates}
        np.testing.assert_allclose(list(shown), settings.get("max_kl", math.nan))
        return [update.metrics["exact_kl"] for update in updates]

    free, bounded = exact(), exact(max_kl=limit)
    assert min(free) > limit
    # Shortened to what is just within it, not to nothing.
    assert max(bounded) <= limit
    assert min(bounded) > 0.1 * limit
    assert exact(max_kl=100.0) == free


def test_a_fixed_radius_stays_as_it_is() -> None:
    config = tiny()
    _, learner = make(config)
    for index in range(10):
        update = learner.update(random_rollout(config, index), index, measure=True)
    assert update.metrics["kl_radius"] == pytest.approx(0.01)
