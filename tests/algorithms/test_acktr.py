"""ACKTR: its curvature, and its step against the optimizer used by hand."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gymnasium.spaces import Box, Discrete
from problems import arrays, make, random_batch

from acktr_tf.algorithms import ACKTR
from acktr_tf.config import Config
from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.losses import actor_critic_loss, sampled_log_likelihood
from acktr_tf.policy import ActorCritic


def tiny(**settings: Any) -> Config:
    return Config(
        **{
            "num_envs": 4,
            "unroll_length": 8,
            "hidden_size": 8,
            "total_steps": 32 * 100,
            "seed": 3,
            "kl_radius": 0.01,
            "kl_target": 0.0,
            "kl_target_schedule": "constant",
            "damping": 0.0002,
            "curvature_fraction": 1.0,
            **settings,
        }
    )


@pytest.fixture(scope="module")
def algorithm() -> ACKTR:
    """One that many tests may use: they tell its updates by how they differ."""
    learner = make(tiny(factor_decay=0.0))[1]
    assert isinstance(learner, ACKTR)
    return learner


def test_settings_reach_the_optimizer() -> None:
    config = tiny(
        learning_rate=0.125,
        learning_rate_schedule="constant",
        trust_region="applied",
        momentum=0.5,
        damping=0.03,
        factor_decay=0.75,
        factor_update_period=2,
        inverse_update_period=4,
        conv_positions="correlated",
        patch_period=3,
    )
    _, algorithm = make(config)
    assert isinstance(algorithm, ACKTR)
    optimizer = algorithm.optimizer
    assert float(optimizer.learning_rate) == 0.125
    for name in [
        "kl_radius",
        "momentum",
        "damping",
        "factor_decay",
        "factor_update_period",
        "inverse_update_period",
    ]:
        assert getattr(optimizer, name) == getattr(config, name), name
    assert optimizer.bound == "update"
    assert optimizer.spatial_correlation == "full"
    assert optimizer.patch_stride == 3


def test_an_update_equals_the_optimizer_used_by_hand() -> None:
    """Uncompiled, stage by stage, with the same draws."""
    config = tiny(learning_rate_schedule="constant", entropy_cost_schedule="constant")
    policy, algorithm = make(config)
    twin, _ = make(config)
    optimizer = KFAC(
        learning_rate=config.learning_rate,
        kl_radius=config.kl_radius,
        momentum=config.momentum,
        damping=config.damping,
        factor_decay=config.factor_decay,
        factor_update_period=config.factor_update_period,
        inverse_update_period=config.inverse_update_period,
        stagger_inverses=False,
    )
    optimizer.attach(twin.network)
    for index in range(4):
        batch = random_batch(config, index)
        scalars = algorithm.update(batch, index, measure=True)

        keys = tf.random.split(algorithm._keys.key(index), 2)
        with CurvatureTape(optimizer.layers) as curvature_tape:
            log_likelihood = sampled_log_likelihood(
                twin.evaluate(batch.observation), keys[1]
            )
        optimizer.update_curvature(curvature_tape, log_likelihood)
        weights = twin.network.trainable_variables
        with tf.GradientTape() as tape:
            loss = actor_critic_loss(
                twin.evaluate(batch.observation),
                batch.action,
                batch.advantage,
                batch.target,
                config.entropy_cost,
                config.value_cost,
            ).total
        optimizer.apply(tape.gradient(loss, weights), weights)

        for mine, other in zip(
            arrays(policy.network.variables),
            arrays(twin.network.variables),
            strict=True,
        ):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=2e-5)
        assert scalars["predicted_kl"] == pytest.approx(
            float(optimizer.predicted_kl()), rel=1e-2
        )
        assert scalars["trust_region_scale"] == pytest.approx(
            float(optimizer.trust_region_scale), rel=1e-2
        )


def test_what_is_reported() -> None:
    config = tiny()
    _, algorithm = make(config)
    scalars = algorithm.update(random_batch(config), 0, measure=True)
    assert scalars["kl_radius"] == pytest.approx(0.01)
    assert scalars["damping"] == pytest.approx(config.damping)
    assert scalars["failed_factorizations"] == 0.0
    assert 0.0 < scalars["trust_region_scale"] < 1.0
    # Momentum takes a tenth of the first step: its KL is a hundredth of the radius at
    # most, and damping makes it less.
    assert 0.0 < scalars["predicted_kl"] <= 0.01 * 0.01 * 1.01
    unmeasured = algorithm.update(random_batch(config), 1, measure=False)
    assert math.isnan(unmeasured["predicted_kl"])
    assert unmeasured.keys() == scalars.keys()


# When curvature is estimated --------------------------------------------------------
def test_factors_are_updated_when_they_are_due() -> None:
    config = tiny(factor_update_period=3, inverse_update_period=1, factor_decay=0.5)
    _, algorithm = make(config)
    changed = []
    for index in range(7):
        before = algorithm.optimizer.blocks[0].factors().a.numpy()
        algorithm.update(random_batch(config, index), index, measure=False)
        after = algorithm.optimizer.blocks[0].factors().a.numpy()
        changed.append(not np.array_equal(before, after))
    # In the first period always.
    assert changed == [True, True, True, True, False, False, True]


def test_draws_differ_between_updates(algorithm: ACKTR) -> None:
    """One batch again and again still gives factors of other samples each time."""
    batch = random_batch(tiny())
    seen = []
    for index in range(3):
        algorithm.update(batch, index, measure=False)
        block = algorithm.optimizer.blocks[-1]
        seen.append(block.factors().g.numpy())
    assert len({factor.tobytes() for factor in seen}) == 3


def test_pixels_are_learnt_from_too() -> None:
    config = tiny(num_envs=2, unroll_length=3, conv3_filters=8)
    policy = ActorCritic(config, Box(0, 255, (2, 36, 36), np.uint8), Discrete(3))
    algorithm = ACKTR(config, policy)
    random = np.random.default_rng(0)
    vectors = random_batch(config)
    batch = vectors._replace(
        observation=random.integers(0, 256, (6, 2, 36, 36), np.uint8)
    )
    before = arrays(policy.network.trainable_variables)
    scalars = algorithm.update(batch, 0, measure=True)
    assert scalars["finite"] == 1.0
    assert scalars["failed_factorizations"] == 0.0
    after = arrays(policy.network.trainable_variables)
    assert all(np.isfinite(array).all() for array in after)
    assert all(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("radius", [1e-4, 10.0])
def test_adapted_radius_gives_the_policy_kl_asked_for(radius: float) -> None:
    target = 1e-3

    def late_kl(**settings: Any) -> tuple[float, float]:
        config = tiny(
            learning_rate=100.0,
            learning_rate_schedule="constant",
            kl_radius=radius,
            # The value moves further than the policy.
            value_cost=2.0,
            **settings,
        )
        _, algorithm = make(config)
        kl = [
            algorithm.update(random_batch(config, i), i, measure=i >= 100)
            for i in range(140)
        ]
        policy, joint = (
            float(np.median([scalars[name] for scalars in kl[100:]]))
            for name in ("exact_kl", "exact_kl_joint")
        )
        return policy, joint

    policy, joint = late_kl(kl_target=target)
    assert target / 2.5 < policy < target * 2.5
    # What the value adds is not counted.
    assert joint > target * 2.5
    # A target that falls to 0.03 to 0.3 of itself in those updates.
    policy, _ = late_kl(
        kl_target=target, kl_target_schedule="linear", total_steps=32 * 145
    )
    assert policy < target / 2.5
    policy, _ = late_kl()
    assert policy < target / 2.5 or policy > target * 2.5


def test_no_step_goes_beyond_the_limit_on_the_exact_kl() -> None:
    limit = 1e-4

    def exact(**settings: Any) -> list[float]:
        config = tiny(learning_rate=100.0, kl_radius=0.1, **settings)
        _, algorithm = make(config)
        return [
            algorithm.update(random_batch(config, i), i, measure=True)["exact_kl"]
            for i in range(20)
        ]

    free, bounded = exact(), exact(kl_limit=limit)
    assert min(free) > limit
    # Shortened to what is just within it, not to nothing.
    assert max(bounded) <= limit
    assert min(bounded) > 0.1 * limit
    assert exact(kl_limit=100.0) == free


def test_a_fixed_radius_stays_as_it_is() -> None:
    config = tiny()
    _, algorithm = make(config)
    for index in range(40):
        scalars = algorithm.update(random_batch(config, index), index, measure=True)
    assert scalars["kl_radius"] == pytest.approx(config.kl_radius)
