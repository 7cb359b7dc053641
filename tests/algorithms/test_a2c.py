"""A2C, and what it shares with ACKTR: `test_acktr.py` has the rest."""

import time
from typing import Any

import numpy as np
import pytest
from oracles import actor_critic as oracle
from problems import ConstantReward, Identity, arrays, learn, make, random_batch

from acktr_tf.algorithms import A2C, ACKTR, Algorithm, Batch
from acktr_tf.algorithms.schedules import learning_rate
from acktr_tf.config import Config, configure
from acktr_tf.policies.actor_critic import ActorCritic

BOTH = pytest.mark.parametrize("algorithm", ["a2c", "acktr"])


def tiny(algorithm: str = "a2c", **settings: Any) -> Config:
    return configure(
        **{
            "algorithm": algorithm,
            "num_envs": 4,
            "unroll_length": 8,
            "hidden_size": 8,
            "learning_rate": 0.01 if algorithm == "a2c" else 0.25,
            "total_steps": 32 * 100,
            "seed": 3,
            **settings,
        }
    )


# The step against a twin ------------------------------------------------------------
@pytest.mark.parametrize("max_gradient_norm", [0.1, 100.0])
def test_updates_equal_those_of_a_float64_twin(max_gradient_norm: float) -> None:
    config = tiny(
        max_gradient_norm=max_gradient_norm,
        entropy_cost=0.3,
        entropy_cost_schedule="linear",
        value_cost=0.7,
        learning_rate=0.02,
        total_steps=32 * 8,
    )
    policy, algorithm = make(config)
    assert isinstance(algorithm, A2C)
    variables = policy.network.trainable_variables
    policy_names = ["policy" in variable.path for variable in variables]
    # The twin wants each network's weights together.
    order = np.argsort(np.logical_not(policy_names), kind="stable")
    weights = [arrays(variables)[i].astype(np.float64) for i in order]
    twin = oracle.RMSProp(
        config.rmsprop_decay, config.rmsprop_epsilon, max_gradient_norm
    )
    for index in range(5):
        batch = random_batch(config, seed=index)
        scalars = algorithm.update(batch, index, measure=False)
        # From the whole of it at the first update to zero after the last.
        left = 1.0 - index / 8
        parts, of_policy, of_value = oracle.losses(
            weights[:6], weights[6:], batch._asdict(), 0.3 * left, 0.7
        )
        gradients = of_policy + of_value
        weights = twin.step(weights, gradients, 0.02 * left)
        for name, value in parts.items():
            assert scalars[name] == pytest.approx(value, rel=1e-4), name
        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
        assert scalars["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert (norm > max_gradient_norm) == (max_gradient_norm == 0.1)
        assert scalars["learning_rate"] == pytest.approx(0.02 * left, rel=1e-5)
        assert scalars["finite"] == 1.0
        for i, expected in zip(order, weights, strict=True):
            np.testing.assert_allclose(variables[i], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        ("a2c", "learning_rate"),
        ("a2c", "entropy_cost"),
        ("acktr", "learning_rate"),
        ("acktr", "entropy_cost"),
        ("acktr", "kl_target"),
    ],
)
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [0.5, 0.375, 0.25, 0.125]), ("constant", [0.5] * 4)],
)
def test_schedules(
    algorithm: str, name: str, schedule: str, expected: list[float]
) -> None:
    # 100 steps in batches of 32 are 4 updates, the last of them partly beyond.
    settings = {name: 0.5, f"{name}_schedule": schedule}
    config = tiny(algorithm, **settings, total_steps=100)
    _, learner = make(config)
    batch = random_batch(config)
    values = [learner.update(batch, index, measure=False)[name] for index in range(4)]
    assert values == pytest.approx(expected)


def test_a_constant_schedule_is_a_number() -> None:
    config = tiny(learning_rate=0.5, learning_rate_schedule="constant")
    assert learning_rate(config) == 0.5


# What every algorithm promises ------------------------------------------------------
@pytest.fixture(scope="module", params=["a2c", "acktr"])
def shared(request: pytest.FixtureRequest) -> tuple[ActorCritic, Algorithm]:
    """What tests of one update may use one after another: to compile takes seconds."""
    policy, learner = make(tiny(request.param))
    # The first policy is so nearly uniform that its KL drowns in rounding.
    policy.network.get_layer("policy").kernel.assign(
        np.random.default_rng(0).normal(size=(8, 3))
    )
    return policy, learner


def test_nothing_is_traced_twice(shared: tuple[ActorCritic, Algorithm]) -> None:
    _, learner = shared
    for index in range(6):
        learner.update(random_batch(tiny(), index), index, measure=index % 2 == 0)
    assert learner.compiled_update.experimental_get_tracing_count() == 1


@BOTH
def test_the_same_seed_gives_the_same_bits_measured_or_not(algorithm: str) -> None:
    outcomes = []
    for measure in [False, True]:
        config = tiny(algorithm)
        policy, learner = make(config)
        scalars = [
            learner.update(random_batch(config, index), index, measure=measure)
            for index in range(4)
        ]
        outcomes.append((policy, learner, scalars))
    (policy, learner, scalars), (other_policy, other_learner, other_scalars) = outcomes
    for mine, other in [
        (policy.network.variables, other_policy.network.variables),
        (learner.optimizer.variables, other_learner.optimizer.variables),
    ]:
        for a, b in zip(arrays(mine), arrays(other), strict=True):
            assert np.array_equal(a, b)
    for a, b in zip(scalars, other_scalars, strict=True):
        assert a.keys() == b.keys()
        compared = {
            name
            for name in a
            if not name.startswith("seconds_") and not np.isnan(a[name])
        }
        assert {"policy_loss", "gradient_norm"} <= compared
        assert {n: a[n] for n in compared} == {n: b[n] for n in compared}


@pytest.mark.parametrize("what", ["advantage", "target"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_not_taken(
    shared: tuple[ActorCritic, Algorithm], what: str, value: float
) -> None:
    policy, learner = shared
    before = arrays(policy.network.variables)
    iterations = int(learner.optimizer.iterations)
    good = random_batch(tiny(), 1)
    bad = good._replace(**{what: getattr(good, what).copy()})
    getattr(bad, what)[5] = value

    scalars = learner.update(bad, 1, measure=True)
    assert scalars["finite"] == 0.0
    assert scalars["exact_kl"] == pytest.approx(0.0, abs=1e-7)
    assert int(learner.optimizer.iterations) == iterations
    for mine, old in zip(arrays(policy.network.variables), before, strict=True):
        assert np.array_equal(mine, old)

    # And the next one is as good as ever.
    scalars = learner.update(good, 2, measure=False)
    assert scalars["finite"] == 1.0
    after = arrays(policy.network.variables)
    assert all(np.isfinite(array).all() for array in after)
    assert any(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    for variable in learner.optimizer.variables:
        assert np.isfinite(np.asarray(variable)).all(), variable.path


def test_a_bad_batch_leaves_no_trace_in_rmsprop() -> None:
    weights = []
    for with_bad in [False, True]:
        config = tiny()
        policy, learner = make(config)
        if with_bad:
            bad = random_batch(config, 7)
            bad.advantage[0] = np.nan
            assert learner.update(bad, 0, measure=False)["finite"] == 0.0
        learner.update(random_batch(config, 0), 1, measure=False)
        weights.append(arrays(policy.network.variables))
    for a, b in zip(*weights, strict=True):
        assert np.array_equal(a, b)


def test_the_exact_kl_is_that_between_old_and_new_policy(
    shared: tuple[ActorCritic, Algorithm],
) -> None:
    policy, learner = shared
    for index in range(3):
        batch = random_batch(tiny(), index)
        old_logits, old_value = (
            tensor.numpy().astype(np.float64)
            for tensor in policy.forward(batch.observation)
        )
        scalars = learner.update(batch, index, measure=True)
        new_logits, new_value = (
            tensor.numpy().astype(np.float64)
            for tensor in policy.forward(batch.observation)
        )
        kl = oracle.kl_divergence(old_logits, new_logits).mean()
        assert kl > 1e-5
        assert scalars["exact_kl"] == pytest.approx(kl, rel=1e-2, abs=1e-7)
        of_values = 0.5 * np.mean((new_value - old_value) ** 2)
        assert scalars["exact_kl_joint"] == pytest.approx(
            kl + of_values, rel=1e-2, abs=1e-7
        )
        unmeasured = learner.update(batch, index, measure=False)
        assert np.isnan(unmeasured["exact_kl"])
        assert np.isnan(unmeasured["exact_kl_joint"])


def test_explained_variance(shared: tuple[ActorCritic, Algorithm]) -> None:
    policy, learner = shared
    batch = random_batch(tiny())
    value = policy.forward(batch.observation)[1].numpy()
    scalars = learner.update(batch, 0, measure=False)
    expected = 1.0 - np.var(batch.target - value) / np.var(batch.target)
    assert scalars["explained_variance"] == pytest.approx(expected, rel=1e-4)

    value = policy.forward(batch.observation)[1].numpy()
    scalars = learner.update(batch._replace(target=value), 1, measure=False)
    assert scalars["explained_variance"] == pytest.approx(1.0, abs=1e-5)

    same = batch._replace(target=np.ones_like(batch.target))
    assert np.isnan(learner.update(same, 2, measure=False)["explained_variance"])


def test_the_phases_of_an_update_are_all_timed(
    shared: tuple[ActorCritic, Algorithm],
) -> None:
    _, learner = shared
    batch = random_batch(tiny())
    learner.update(batch, 0, measure=True)
    expected = {"gradients", "step", "measurements"}
    if isinstance(learner, ACKTR):
        expected |= {"curvature", "inverses"}
    total, start = 0.0, time.perf_counter()
    for index in range(1, 21):
        scalars = learner.update(batch, index, measure=True)
        seconds = {
            name.removeprefix("seconds_"): value
            for name, value in scalars.items()
            if name.startswith("seconds_")
        }
        assert seconds.keys() == expected
        assert all(value > 0 for value in seconds.values())
        total += sum(seconds.values())
    assert total < time.perf_counter() - start


def test_a_batch_of_another_size_is_refused(
    shared: tuple[ActorCritic, Algorithm],
) -> None:
    _, learner = shared
    short = Batch(*(array[:-1] for array in random_batch(tiny())))
    with pytest.raises((TypeError, ValueError)):
        learner.update(short, 0, measure=False)


# Learning ---------------------------------------------------------------------------
LEARNING = {
    "a2c": {"learning_rate": 0.03},
    "acktr": {
        "learning_rate": 0.25,
        "kl_radius": 0.02,
        "target_kl": None,  # The radius is the test's own.
        "curvature_fraction": 1.0,
    },
}


@BOTH
def test_naming_symbols_is_learnt(algorithm: str) -> None:
    config = tiny(
        algorithm,
        num_envs=8,
        discount=0.5,
        learning_rate_schedule="constant",
        **LEARNING[algorithm],
    )
    policy, rewards = learn(config, Identity(8), updates=60)
    assert np.mean(rewards[:2]) < 0.5
    assert np.mean(rewards[-5:]) > 0.9
    logits, _ = policy.forward(np.eye(3, dtype=np.float32))
    assert np.argmax(logits, axis=1).tolist() == [0, 1, 2]


@BOTH
def test_the_value_of_a_constant_reward(algorithm: str) -> None:
    """With γ = 0.9 it is 10: a time limit of 7 steps does not end anything.

    Taken for ends, the limits would make it the mean of (1 − 0.9^k)/0.1 over the k
    steps left, k = 1 … 7: 3.29, for the observation does not tell them apart.
    """
    config = tiny(
        algorithm,
        unroll_length=14,
        discount=0.9,
        entropy_cost=0.1,
        value_cost=1.0,
        total_steps=14 * 4 * 200,
        **{**LEARNING[algorithm], "kl_radius": 1.0, "max_gradient_norm": 1e9},
    )
    look = np.ones((1, 2), np.float32)
    policy, _ = learn(config, ConstantReward(4, limit=7), updates=200)
    assert policy.value(look).numpy()[0] == pytest.approx(10.0, abs=0.2)

    policy, _ = learn(
        config, ConstantReward(4, limit=7), updates=200, truncation_terminates=True
    )
    wrong = np.mean([(1 - 0.9**k) / 0.1 for k in range(1, 8)])
    assert wrong == pytest.approx(3.29, abs=0.01)
    assert policy.value(look).numpy()[0] == pytest.approx(wrong, abs=0.2)


def test_the_algorithm_is_the_one_named() -> None:
    assert type(make(tiny("a2c"))[1]) is A2C
    assert type(make(tiny("acktr"))[1]) is ACKTR
