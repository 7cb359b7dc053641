"""ACKTR with a critic of its own: whose weights move, by what, and how often."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gymnasium.spaces import Box, Discrete
from problems import arrays, make, random_batch

from acktr_tf.algorithms import ACKTR, SeparateACKTR, make_algorithm
from acktr_tf.algorithms.critics import make_critic
from acktr_tf.algorithms.losses import sampled_action_log_likelihood
from acktr_tf.config import Config, configure
from acktr_tf.errors import UserError
from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.policies.actor_critic import ActorCritic

KEY = tf.constant([1, 2])


def tiny(**settings: Any) -> Config:
    return configure(
        **{
            "num_envs": 4,
            "unroll_length": 8,
            "hidden_size": 8,
            "total_steps": 32 * 100,
            "seed": 3,
            "critic": "separate",
            "critic.updates": 3,
            "value_activation": "elu",
            "learning_rate_schedule": "constant",
            "kl_radius": 0.01,
            "target_kl": None,
            "damping": 0.002,
            "curvature_fraction": 1.0,
            "inverse_update_period": 2,
            **settings,
        }
    )


def learner(config: Config) -> tuple[ActorCritic, SeparateACKTR]:
    policy, algorithm = make(config)
    assert isinstance(algorithm, SeparateACKTR)
    return policy, algorithm


def test_the_setting_chooses_the_algorithm() -> None:
    assert type(make(tiny())[1]) is SeparateACKTR
    assert type(make(tiny(critic="joint"))[1]) is ACKTR
    # The plain gradient of the loss needs no optimizer for each.
    assert not isinstance(make(tiny(algorithm="a2c"))[1], ACKTR)


def test_a_network_with_a_trunk_is_refused() -> None:
    config = tiny(conv3_filters=8)
    policy = ActorCritic(config, Box(0, 255, (2, 36, 36), np.uint8), Discrete(3))
    with pytest.raises(UserError, match=r"critic=separate .* network=mlp"):
        make_algorithm(config, policy)


def test_an_update_equals_both_optimizers_used_by_hand() -> None:
    """Uncompiled, stage by stage, with the same draws."""
    config = tiny()
    policy, algorithm = learner(config)
    twin, _ = make(config)
    actor = KFAC(
        learning_rate=config.learning_rate,
        kl_radius=config.kl_radius,
        momentum=config.momentum,
        damping=config.damping,
        factor_decay=config.factor_decay,
        factor_update_period=config.factor_update_period,
        inverse_update_period=config.inverse_update_period,
        stagger_inverses=False,
    )
    actor.attach(twin.policy_network)
    critic = KFAC(
        learning_rate=config.critic_learning_rate,
        kl_radius=config.critic_kl_radius,
        momentum=config.critic_momentum,
        damping=config.critic_damping,
        factor_decay=config.critic_factor_decay,
        factor_update_period=1,
        inverse_update_period=config.inverse_update_period,
        stagger_inverses=False,
    )
    critic.attach(twin.value_network)
    for index in range(4):
        batch = random_batch(config, index)
        scalars = algorithm.update(batch, index, measure=True)

        keys = tf.random.split(algorithm._keys.key(index), 2)
        with CurvatureTape(actor.layers) as curvature_tape:
            log_likelihood = sampled_action_log_likelihood(
                twin.evaluate(batch.observation), keys[1]
            )
        actor.update_curvature(curvature_tape, log_likelihood)
        weights = twin.policy_network.trainable_variables
        with tf.GradientTape() as tape:
            distribution = twin.evaluate(batch.observation).distribution
            loss = tf.reduce_mean(
                -batch.advantage * distribution.log_prob(batch.action)
                - config.entropy_cost * distribution.entropy()
            )
        actor.apply(tape.gradient(loss, weights), weights)

        weights = twin.value_network.trainable_variables
        for _ in range(config.critic_updates):
            with CurvatureTape(critic.layers) as curvature_tape:
                value = twin.value_network(batch.observation)[:, 0]
            critic.update_curvature(curvature_tape, value)
            with tf.GradientTape() as tape:
                value = twin.value_network(batch.observation)[:, 0]
                loss = 0.5 * tf.reduce_mean(tf.square(value - batch.target))
            critic.apply(tape.gradient(loss, weights), weights)

        for mine, other in zip(
            arrays(policy.network.variables),
            arrays(twin.network.variables),
            strict=True,
        ):
            np.testing.assert_allclose(mine, other, rtol=2e-3, atol=5e-5)
        for name, optimizer in [("", actor), ("critic_", critic)]:
            assert scalars[f"{name}predicted_kl"] == pytest.approx(
                float(optimizer.predicted_kl()), rel=2e-2
            )
            assert scalars[f"{name}trust_region_scale"] == pytest.approx(
                float(optimizer.trust_region_scale), rel=2e-2
            )
    assert int(algorithm._critic.optimizer.iterations.value) == 4 * 3
    assert algorithm.compiled_update.experimental_get_tracing_count() == 1


def test_the_value_is_no_business_of_the_policy_and_the_reverse() -> None:
    """Neither another target nor another cost of the value changes the policy."""
    config = tiny()
    batch = random_batch(config)
    results = {}
    for name, settings, other in [
        ("plain", {}, batch),
        ("cost", {"value_cost": 9.0}, batch),
        ("target", {}, batch._replace(target=batch.target + 5.0)),
        ("advantage", {}, batch._replace(advantage=-batch.advantage)),
    ]:
        policy, algorithm = learner(tiny(**settings))
        algorithm.update(other, 0, measure=False)
        results[name] = (
            arrays(policy.policy_network.variables),
            arrays(policy.value_network.variables),
        )

    def same(one: str, other: str, part: int) -> bool:
        pairs = zip(results[one][part], results[other][part], strict=True)
        return all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs)

    assert same("plain", "cost", 0)
    assert same("plain", "cost", 1)
    assert same("plain", "target", 0)
    assert not same("plain", "target", 1)
    assert not same("plain", "advantage", 0)
    assert same("plain", "advantage", 1)


def test_the_critics_curvature_is_gauss_newton() -> None:
    """Of one example a block is exact, ∇V ∇Vᵀ / σ²; σ² may be its squared error."""
    observation = tf.constant([[0.3, -1.2, 0.7, 2.0]])
    target = tf.constant([1.5])
    for norm in ["gauss_newton", "adaptive_gauss_newton"]:
        policy, _ = make(tiny(**{"critic.norm": norm}))
        critic = make_critic(tiny(**{"critic.norm": norm, "critic.updates": 1}), policy)
        weights = policy.value_network.trainable_variables
        with tf.GradientTape() as tape:
            value = policy.value_network(observation)[0, 0]
        gradients = dict(
            zip([id(w) for w in weights], tape.gradient(value, weights), strict=True)
        )
        variance = 1.0 if norm == "gauss_newton" else float(value - target[0]) ** 2
        critic.update(observation, target, KEY)
        assert isinstance(critic.optimizer, KFAC)
        for block in critic.optimizer.blocks:
            vector = tf.reshape(
                block.to_matrix([gradients[id(v)] for v in block.variables]), [-1]
            ).numpy()
            np.testing.assert_allclose(
                block.to_dense(),
                np.outer(vector, vector) / variance,
                rtol=1e-4,
                atol=1e-6,
            )


@pytest.mark.parametrize("norm", ["gauss_newton", "adaptive_gauss_newton", "euclidean"])
def test_every_norm_learns_the_targets(norm: str) -> None:
    config = tiny(
        **{"critic.norm": norm, "critic.updates": 20, "critic.learning_rate": 0.05}
    )
    policy, _ = make(config)
    critic = make_critic(config, policy)
    random = np.random.default_rng(0)
    observation = tf.constant(random.normal(size=(64, 4)), tf.float32)
    target = tf.sin(observation[:, 0]) + 0.5 * observation[:, 1]

    def error() -> float:
        value = policy.value_network(observation)[:, 0]
        return float(tf.reduce_mean(tf.square(value - target)))

    before = error()
    update = tf.function(critic.update)
    for _ in range(10):
        update(observation, target, KEY)
    assert error() < 0.1 * before
    assert int(critic.optimizer.iterations.value) == 200
    assert math.isfinite(float(critic.predicted_kl())) == (norm != "euclidean")


@pytest.mark.parametrize(("fraction", "depends"), [(1.0, False), (0.25, True)])
def test_the_critics_curvature_is_of_a_share_of_the_rows(
    fraction: float, depends: bool
) -> None:
    observation = tf.constant(np.random.default_rng(0).normal(size=(32, 4)), tf.float32)
    found = []
    for key in ([1, 2], [3, 4]):
        config = tiny(curvature_fraction=fraction, **{"critic.updates": 1})
        critic = make_critic(config, make(config)[0])
        critic.update(observation, tf.ones(32), tf.constant(key))
        assert isinstance(critic.optimizer, KFAC)
        found.append(critic.optimizer.blocks[0].to_dense())
    assert np.array_equal(*found) != depends


def test_a_critics_step_stays_in_its_radius() -> None:
    """½ mean (V_new − V_old)² is what the radius bounds, where the blocks are exact."""
    config = tiny(
        **{
            "critic.updates": 1,
            "critic.learning_rate": 100.0,
            "critic.kl_radius": 1e-4,
            "critic.damping": 1e-6,
        },
    )
    policy, _ = make(config)
    critic = make_critic(config, policy)
    observation = tf.constant([[0.3, -1.2, 0.7, 2.0]])
    before = policy.value_network(observation)
    critic.update(observation, tf.constant([1.5]), KEY)
    moved = float(policy.value_network(observation)[0, 0] - before[0, 0])
    # Three layers, of which each is given all of the change for its own.
    assert 0.5 * (moved / 3) ** 2 == pytest.approx(1e-4 / 3, rel=0.05)


def test_a_batch_that_is_not_finite_teaches_nothing() -> None:
    policy, algorithm = learner(tiny())
    algorithm.update(random_batch(tiny()), 0, measure=False)
    before = arrays([*policy.network.variables, *algorithm._critic.variables])
    batch = random_batch(tiny())
    batch.target[3] = np.nan
    assert algorithm.update(batch, 1, measure=False)["finite"] == 0.0
    after = arrays([*policy.network.variables, *algorithm._critic.variables])
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_state_is_that_of_both_optimizers() -> None:
    _, algorithm = learner(tiny())
    names = {variable.path for variable in algorithm.variables}
    assert len(names) == len(algorithm.variables)
    assert {v.path for v in algorithm.optimizer.variables} < names
    assert {v.path for v in algorithm._critic.optimizer.variables} < names


def test_the_critics_learning_rate_ends_with_the_run() -> None:
    config = tiny(learning_rate_schedule="linear", total_steps=32 * 3)
    _, algorithm = learner(config)
    rates = [float(algorithm._critic.optimizer.learning_rate)]
    for index in range(3):
        algorithm.update(random_batch(config, index), index, measure=False)
        rates.append(float(algorithm._critic.optimizer.learning_rate))
    expected = config.critic_learning_rate * np.array([1.0, 2 / 3, 1 / 3, 0.0])
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_the_adapted_learning_rate_gives_the_kl_asked_for() -> None:
    target = 2e-3
    config = tiny(
        target_kl=target,
        target_kl_schedule="constant",
        target_kl_adapts="learning_rate",
        learning_rate=1e-4,
        kl_radius=10.0,
        momentum=0.0,
    )
    _, algorithm = learner(config)
    scalars = [
        algorithm.update(random_batch(config, i), i, measure=True) for i in range(120)
    ]
    late = np.median([s["exact_kl"] for s in scalars[80:]])
    assert target / 2 < late < target * 2
    assert scalars[0]["learning_rate"] == pytest.approx(1e-4)
    assert scalars[-1]["learning_rate"] > 1e-3
    # The radius, which did nothing, is what it was.
    assert scalars[-1]["kl_radius"] == pytest.approx(10.0)


def test_a_schedule_and_an_adapted_learning_rate_exclude_each_other() -> None:
    with pytest.raises(UserError, match="needs learning_rate_schedule=constant"):
        make(
            tiny(
                target_kl=0.01,
                target_kl_adapts="learning_rate",
                learning_rate_schedule="linear",
            )
        )


def test_a_gaussian_policy_finds_the_best_action() -> None:
    """The reward is less the further the action is from 0.3 and −0.6."""
    config = tiny(
        kl_radius=0.02,
        entropy_cost=0.0,
        num_envs=16,
        unroll_length=16,
        total_steps=256 * 100,
    )
    policy = ActorCritic(config, Box(-1, 1, (2,)), Box(-np.inf, np.inf, (2,)))
    algorithm = make_algorithm(config, policy)
    random = np.random.default_rng(0)
    best = np.array([0.3, -0.6])
    for index in range(100):
        observation = random.uniform(-1, 1, (256, 2)).astype(np.float32)
        acted = policy.act(observation, np.array([5, index], np.int32))
        reward = -np.square(acted.environment_action - best).sum(axis=1)
        batch = random_batch(config)._replace(
            observation=observation,
            action=acted.action.numpy(),
            advantage=(reward - acted.value.numpy()).astype(np.float32),
            target=reward.astype(np.float32),
        )
        algorithm.update(batch, index, measure=False)
    distribution = policy.evaluate(observation).distribution
    np.testing.assert_allclose(np.mean(distribution.mode(), axis=0), best, atol=0.05)
    assert float(tf.reduce_mean(distribution.stddev())) < 0.4
