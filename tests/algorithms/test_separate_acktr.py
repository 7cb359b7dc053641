"""ACKTR with a critic of its own: whose weights move, by what, and how often."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gymnasium.spaces import Box, Discrete
from problems import arrays, make, random_rollout

from acktr_tf.algorithms.acktr import ACKTR, Critic
from acktr_tf.algorithms.losses import sampled_action_log_likelihood
from acktr_tf.algorithms.returns import make_batch
from acktr_tf.algorithms.steppers import NaturalGradient
from acktr_tf.config import Config, configure
from acktr_tf.errors import UserError
from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.policies.actor_critic import ActorCritic

EAGER = pytest.mark.usefixtures("eager")
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
            "critic.learning_rate_schedule": "constant",
            "critic.curvature_fraction": 1.0,
            "critic.inverse_update_period": 2,
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


def learner_of(config: Config) -> tuple[ActorCritic, ACKTR]:
    policy, learner = make(config)
    assert isinstance(learner, ACKTR)
    assert learner.critic is not None
    return policy, learner


def critic_of(config: Config) -> tuple[ActorCritic, Critic]:
    policy, learner = learner_of(config)
    assert learner.critic is not None
    return policy, learner.critic


def blocks_of(critic: Critic) -> list[Any]:
    assert isinstance(critic.stepper, NaturalGradient)
    return critic.stepper.optimizer.blocks


def test_the_setting_chooses_the_critic() -> None:
    _, joint = make(tiny(critic="joint"))
    assert joint.critic is None
    _, separate = make(tiny())
    actor = {id(variable) for variable in separate.actor.variables}
    critic = {id(variable) for variable in separate.critic.stepper.variables}
    assert not actor & critic
    assert len(joint.actor.variables) == len(actor) + len(critic)


def test_a_network_with_a_trunk_is_refused() -> None:
    space = Box(0, 255, (2, 36, 36), np.uint8)
    with pytest.raises(UserError, match=r"critic=separate .*mlp, separate_cnns or"):
        make(tiny(conv3_filters=8), space, Discrete(3))


def test_an_update_equals_both_optimizers_used_by_hand() -> None:
    """Uncompiled, stage by stage, with the same draws."""
    config = tiny()
    policy, learner = learner_of(config)
    twin, _ = make(config)
    settings = config.algorithm

    def optimizer(group: Any, rate: float, **more: Any) -> KFAC:
        return KFAC(
            learning_rate=rate,
            kl_radius=group.kl_radius,
            momentum=group.momentum,
            damping=group.damping,
            factor_decay=group.factor_decay,
            factor_update_period=group.factor_update_period,
            inverse_update_period=group.inverse_update_period,
            stagger_inverses=False,
            **more,
        )

    of_critic = settings.critic_optimizer
    actor = optimizer(settings.kfac, settings.learning_rate.learning_rate)
    critic = optimizer(of_critic.kfac, of_critic.learning_rate.learning_rate)
    actor.attach(twin.policy_network)
    critic.attach(twin.value_network)
    for index in range(4):
        rollout = random_rollout(config, index)
        metrics = learner.update(rollout, index, measure=True).metrics

        batch = make_batch(rollout, config.returns)
        keys = tf.random.split(learner._keys.key(index), 2)
        with CurvatureTape(actor.layers) as curvature_tape:
            log_likelihood = sampled_action_log_likelihood(
                twin.distribution(twin(batch.observation)), keys[1]
            )
        actor.update_curvature(curvature_tape, log_likelihood)
        weights = twin.policy_network.trainable_variables
        with tf.GradientTape() as tape:
            distribution = twin.distribution(twin(batch.observation))
            loss = tf.reduce_mean(
                -batch.advantage * distribution.log_prob(batch.action)
                - settings.loss.entropy_cost * distribution.entropy()
            )
        actor.apply(tape.gradient(loss, weights), weights)

        weights = twin.value_network.trainable_variables
        for _ in range(3):
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
        for name, used in [("", actor), ("critic_", critic)]:
            assert metrics[f"{name}predicted_kl"] == pytest.approx(
                float(used.predicted_kl()), rel=2e-2
            )
            assert metrics[f"{name}trust_region_scale"] == pytest.approx(
                float(used.trust_region_scale), rel=2e-2
            )
    assert learner.critic is not None
    assert int(learner.critic.stepper.iterations) == 4 * 3


@EAGER
def test_the_value_is_no_business_of_the_policy_and_the_reverse() -> None:
    """Neither another target nor another cost of the value changes the policy."""
    rollout = random_rollout(tiny())
    results = {}
    for name, settings in [
        ("plain", {}),
        ("cost", {"value_cost": 9.0}),
        ("target", {"value_lambda": 0.1}),
        ("advantage", {"gae_lambda": 0.1, "value_lambda": 0.95}),
    ]:
        policy, learner = learner_of(tiny(gae_lambda=0.95).replace(**settings))
        learner.update(rollout, 0, measure=False)
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


@EAGER
def test_the_critics_curvature_is_gauss_newton() -> None:
    """Of one example a block is exact, ∇V ∇Vᵀ / σ²; σ² may be its squared error."""
    observation = tf.constant([[0.3, -1.2, 0.7, 2.0]])
    target = tf.constant([1.5])
    for norm in ["gauss_newton", "adaptive_gauss_newton"]:
        policy, critic = critic_of(tiny(**{"critic.norm": norm, "critic.updates": 1}))
        weights = policy.value_network.trainable_variables
        with tf.GradientTape() as tape:
            value = policy.value_network(observation)[0, 0]
        gradients = dict(
            zip([id(w) for w in weights], tape.gradient(value, weights), strict=True)
        )
        variance = 1.0 if norm == "gauss_newton" else float(value - target[0]) ** 2
        critic.fit(observation, target, KEY)
        for block in blocks_of(critic):
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
    policy, critic = critic_of(
        tiny(
            **{
                "critic.norm": norm,
                "critic.updates": 20,
                "critic.learning_rate": 0.05,
                "critic.inverse_update_period": 10,
            }
        )
    )
    random = np.random.default_rng(0)
    observation = tf.constant(random.normal(size=(64, 4)), tf.float32)
    target = tf.sin(observation[:, 0]) + 0.5 * observation[:, 1]

    def error() -> float:
        value = policy.value_network(observation)[:, 0]
        return float(tf.reduce_mean(tf.square(value - target)))

    before = error()
    for _ in range(10):
        critic.fit(observation, target, KEY)
    assert error() < 0.1 * before
    assert int(critic.stepper.iterations) == 200
    assert ("predicted_kl" in critic.stepper.measure()) == (norm != "euclidean")


@EAGER
@pytest.mark.parametrize(("fraction", "depends"), [(1.0, False), (0.25, True)])
def test_the_critics_curvature_is_of_a_share_of_the_rows(
    fraction: float, depends: bool
) -> None:
    observation = tf.constant(np.random.default_rng(0).normal(size=(32, 4)), tf.float32)
    found = []
    for key in ([1, 2], [3, 4]):
        _, critic = critic_of(
            tiny(**{"critic.curvature_fraction": fraction, "critic.updates": 1})
        )
        critic.fit(observation, tf.ones(32), tf.constant(key))
        found.append(blocks_of(critic)[0].to_dense())
    assert np.array_equal(*found) != depends


@EAGER
def test_a_critics_step_stays_in_its_radius() -> None:
    """½ mean (V_new − V_old)² is what the radius bounds, where the blocks are exact."""
    policy, critic = critic_of(
        tiny(
            **{
                "critic.updates": 1,
                "critic.learning_rate": 100.0,
                "critic.kl_radius": 1e-4,
                "critic.damping": 1e-6,
            }
        )
    )
    observation = tf.constant([[0.3, -1.2, 0.7, 2.0]])
    before = policy.value_network(observation)
    critic.fit(observation, tf.constant([1.5]), KEY)
    moved = float(policy.value_network(observation)[0, 0] - before[0, 0])
    # Three layers, of which each is given all of the change for its own.
    assert 0.5 * (moved / 3) ** 2 == pytest.approx(1e-4 / 3, rel=0.05)


@EAGER
def test_a_batch_that_is_not_finite_teaches_nothing() -> None:
    _, learner = learner_of(tiny())
    learner.update(random_rollout(tiny()), 0, measure=False)
    before = {
        name: array
        for name, array in learner.state().items()
        # Factors of finite outputs are as good as any.
        if name.startswith(("policy/", "critic/"))
    }
    rollout = random_rollout(tiny())
    rollout.reward[3, 1] = np.nan
    update = learner.update(rollout, 1, measure=False)
    assert not update.applied
    assert "critic" not in update.seconds
    after = learner.state()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], name)


def test_the_state_is_that_of_both_optimizers() -> None:
    _, learner = learner_of(tiny())
    parts = {name.split("/")[0] for name in learner.state()}
    assert parts == {"policy", "actor", "critic"}


@EAGER
def test_the_critics_learning_rate_ends_with_the_run() -> None:
    config = tiny(**{"critic.learning_rate_schedule": "linear"}, total_steps=32 * 3)
    _, learner = learner_of(config)
    assert learner.critic is not None
    rates = [float(learner.critic.stepper.learning_rate)]
    for index in range(3):
        learner.update(random_rollout(config, index), index, measure=False)
        rates.append(float(learner.critic.stepper.learning_rate))
    initial = config.algorithm.critic_optimizer.learning_rate.learning_rate
    np.testing.assert_allclose(
        rates, initial * np.array([1.0, 2 / 3, 1 / 3, 0.0]), atol=1e-6
    )


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
    _, learner = learner_of(config)
    metrics = [
        learner.update(random_rollout(config, i), i, measure=True).metrics
        for i in range(120)
    ]
    late = np.median([m["exact_kl"] for m in metrics[80:]])
    assert target / 2 < late < target * 2
    assert metrics[0]["learning_rate"] == pytest.approx(1e-4)
    assert metrics[-1]["learning_rate"] > 1e-3
    # The radius, which did nothing, is what it was.
    assert metrics[-1]["kl_radius"] == pytest.approx(10.0)


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
    space = Box(-np.inf, np.inf, (2,))
    policy, learner = make(config, Box(-1, 1, (2,)), space)
    random = np.random.default_rng(0)
    best = np.array([0.3, -0.6])
    for index in range(100):
        observation = random.uniform(-1, 1, (256, 2)).astype(np.float32)
        step = policy.act(observation, np.array([5, index], np.int32))
        reward = -np.square(step.environment_action - best).sum(axis=1)
        rollout = random_rollout(config)._replace(
            observation=observation.reshape(16, 16, 2),
            action=step.action.numpy().reshape(16, 16, 2),
            reward=reward.astype(np.float32).reshape(16, 16),
            terminated=np.ones((16, 16), np.bool_),
            value=step.value.numpy().reshape(16, 16),
        )
        learner.update(rollout, index, measure=False)
    distribution = policy.distribution(policy(observation))
    np.testing.assert_allclose(np.mean(distribution.mode(), axis=0), best, atol=0.05)
    assert float(tf.reduce_mean(distribution.stddev())) < 0.4
