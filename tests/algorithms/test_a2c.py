"""A2C, and what every algorithm promises: `test_acktr.py` has the rest."""

import time
from typing import Any

import numpy as np
import pytest
from oracles import actor_critic as oracle
from problems import ConstantReward, Identity, arrays, learn, make, random_rollout

from acktr_tf.algorithms.a2c import A2C
from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.compiled import CompiledFunction
from acktr_tf.algorithms.learner import Learner
from acktr_tf.algorithms.returns import make_batch
from acktr_tf.algorithms.schedules import scheduled
from acktr_tf.config import Config, configure
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.types import Rollout

EAGER = pytest.mark.usefixtures("eager")
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


def numpy_batch(rollout: Rollout, config: Config) -> dict[str, np.ndarray]:
    batch = make_batch(rollout, config.returns)
    return {name: np.array(part) for name, part in batch._asdict().items()}


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
    policy, learner = make(config)
    variables = policy.network.trainable_variables
    policy_names = ["policy" in variable.path for variable in variables]
    # The twin wants each network's weights together.
    order = np.argsort(np.logical_not(policy_names), kind="stable")
    weights = [arrays(variables)[i].astype(np.float64) for i in order]
    twin = oracle.RMSProp(
        config.algorithm.rmsprop.rmsprop_decay,
        config.algorithm.rmsprop.rmsprop_epsilon,
        max_gradient_norm,
    )
    for index in range(5):
        rollout = random_rollout(config, seed=index)
        update = learner.update(rollout, index, measure=False)
        # From the whole of it at the first update to zero after the last.
        left = 1.0 - index / 8
        parts, of_policy, of_value = oracle.losses(
            weights[:6], weights[6:], numpy_batch(rollout, config), 0.3 * left, 0.7
        )
        gradients = of_policy + of_value
        weights = twin.step(weights, gradients, 0.02 * left)
        for name, value in parts.items():
            assert update.metrics[name] == pytest.approx(value, rel=1e-4), name
        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
        assert update.metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert (norm > max_gradient_norm) == (max_gradient_norm == 0.1)
        rate = update.metrics["learning_rate"]
        assert rate == pytest.approx(0.02 * left, rel=1e-5)
        assert update.applied
        for i, expected in zip(order, weights, strict=True):
            np.testing.assert_allclose(variables[i], expected, rtol=1e-3, atol=2e-5)


@EAGER
@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        ("a2c", "learning_rate"),
        ("a2c", "entropy_cost"),
        ("acktr", "learning_rate"),
        ("acktr", "entropy_cost"),
        ("acktr", "target_kl"),
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
    rollout = random_rollout(config)
    values = [
        learner.update(rollout, index, measure=True).metrics[name] for index in range(4)
    ]
    assert values == pytest.approx(expected)


def test_a_constant_schedule_is_a_number() -> None:
    assert scheduled(0.5, "constant", 10) == 0.5


# What every algorithm promises ------------------------------------------------------
@pytest.fixture(scope="module", params=["a2c", "acktr"])
def shared(request: pytest.FixtureRequest) -> tuple[ActorCritic, Learner]:
    """What tests of one update may use one after another: to compile takes seconds."""
    policy, learner = make(tiny(request.param))
    # The first policy is so nearly uniform that its KL drowns in rounding.
    policy.network.get_layer("policy").kernel.assign(
        np.random.default_rng(0).normal(size=(8, 3))
    )
    return policy, learner


def compiled(learner: Any) -> dict[str, int]:
    """Number of traces of each compiled function of a learner and of its parts."""
    parts = [learner, learner.actor, *([learner.critic] if _critic(learner) else [])]
    return {
        f"{type(part).__name__}.{name}": value.traces
        for part in parts
        for name, value in vars(part).items()
        if isinstance(value, CompiledFunction)
    }


def _critic(learner: Any) -> bool:
    return getattr(learner, "critic", None) is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "a2c"},
        {"algorithm": "acktr", "max_kl": 1e-4},
        {"algorithm": "acktr", "critic": "separate", "network": "mlp"},
    ],
    ids=["a2c", "joint", "separate"],
)
def test_nothing_is_traced_twice(settings: dict[str, Any]) -> None:
    config = tiny(**settings)
    _, learner = make(config)
    for index in range(6):
        rollout = random_rollout(config, index)
        learner.update(rollout, index, measure=index % 2 == 0)
    counts = compiled(learner)
    assert counts["FirstOrder._apply" if len(counts) < 5 else "ACKTR._gradients"] == 1
    assert max(counts.values()) == 1, counts


@BOTH
def test_the_same_seed_gives_the_same_bits_measured_or_not(algorithm: str) -> None:
    states, metrics = [], []
    for measure in [False, True]:
        config = tiny(algorithm)
        _, learner = make(config)
        metrics.append(
            [
                learner.update(random_rollout(config, i), i, measure=measure).metrics
                for i in range(4)
            ]
        )
        states.append(learner.state())
    first, second = states
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert np.array_equal(array, second[name]), name
    for plain, measured in zip(*metrics, strict=True):
        assert {"policy_loss", "gradient_norm"} <= plain.keys() < measured.keys()
        assert plain == {
            name: pytest.approx(measured[name], nan_ok=True, rel=0, abs=0)
            for name in plain
        }


@BOTH
def test_the_state_goes_into_another_learner_that_goes_on_alike(algorithm: str) -> None:
    config = tiny(algorithm)
    rollouts = [random_rollout(config, index) for index in range(4)]
    _, first = make(config)
    for index in (0, 1):
        first.update(rollouts[index], index, measure=False)
    _, second = make(tiny(algorithm, seed=99).replace(seed=3))
    second.load_state(first.state())
    for learner in (first, second):
        for index in (2, 3):
            learner.update(rollouts[index], index, measure=False)
    for name, array in first.state().items():
        assert np.array_equal(array, second.state()[name]), name


def test_the_state_of_another_learner_is_refused() -> None:
    _, a2c = make(tiny("a2c"))
    _, acktr = make(tiny("acktr"))
    with pytest.raises(UserError, match=r"^actor/\S+ is "):
        acktr.load_state(a2c.state())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["reward", "value"])
def test_a_step_that_is_not_finite_is_not_taken(
    shared: tuple[ActorCritic, Learner], what: str, value: float
) -> None:
    policy, learner = shared
    before = arrays(policy.network.variables)
    iterations = int(learner.actor.iterations)
    good = random_rollout(tiny(), 1)
    bad = good._replace(**{what: getattr(good, what).copy()})
    getattr(bad, what)[5, 1] = value

    update = learner.update(bad, 1, measure=True)
    assert not update.applied
    assert update.metrics["exact_kl"] == pytest.approx(0.0, abs=1e-7)
    assert int(learner.actor.iterations) == iterations
    for mine, old in zip(arrays(policy.network.variables), before, strict=True):
        assert np.array_equal(mine, old)

    # And the next one is as good as ever.
    assert learner.update(good, 2, measure=False).applied
    after = arrays(policy.network.variables)
    assert all(np.isfinite(array).all() for array in after)
    assert any(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    for name, array in learner.state().items():
        assert np.isfinite(array).all(), name


@EAGER
def test_a_bad_batch_leaves_no_trace_in_rmsprop() -> None:
    weights = []
    for with_bad in [False, True]:
        config = tiny()
        policy, learner = make(config)
        if with_bad:
            bad = random_rollout(config, 7)
            bad.reward[0] = np.nan
            assert not learner.update(bad, 0, measure=False).applied
        learner.update(random_rollout(config, 0), 1, measure=False)
        weights.append(arrays(policy.network.variables))
    for a, b in zip(*weights, strict=True):
        assert np.array_equal(a, b)


def test_the_exact_kl_is_that_between_old_and_new_policy(
    shared: tuple[ActorCritic, Learner],
) -> None:
    policy, learner = shared
    for index in range(3):
        rollout = random_rollout(tiny(), index)
        observation = rollout.observation.reshape(-1, 4)
        old_logits, old_value = (np.float64(part) for part in policy(observation))
        metrics = learner.update(rollout, index, measure=True).metrics
        new_logits, new_value = (np.float64(part) for part in policy(observation))
        kl = oracle.kl_divergence(old_logits, new_logits).mean()
        assert kl > 1e-5
        assert metrics["exact_kl"] == pytest.approx(kl, rel=1e-2, abs=1e-7)
        of_values = 0.5 * np.mean((new_value - old_value) ** 2)
        assert metrics["exact_kl_joint"] == pytest.approx(
            kl + of_values, rel=1e-2, abs=1e-7
        )
        unmeasured = learner.update(rollout, index, measure=False).metrics
        assert "exact_kl" not in unmeasured
        assert "exact_kl_joint" not in unmeasured


def test_explained_variance(shared: tuple[ActorCritic, Learner]) -> None:
    policy, learner = shared
    rollout = random_rollout(tiny())
    target = numpy_batch(rollout, _config_of(learner))["target"]
    value = policy(rollout.observation.reshape(-1, 4)).value.numpy()
    metrics = learner.update(rollout, 0, measure=False).metrics
    expected = 1.0 - np.var(target - value) / np.var(target)
    assert metrics["explained_variance"] == pytest.approx(expected, rel=1e-4)

    # Where every step ends an episode, the target is the reward.
    ends = rollout._replace(terminated=np.ones_like(rollout.terminated))
    value = policy(rollout.observation.reshape(-1, 4)).value.numpy()
    perfect = ends._replace(reward=value.reshape(ends.reward.shape))
    metrics = learner.update(perfect, 1, measure=False).metrics
    assert metrics["explained_variance"] == pytest.approx(1.0, abs=1e-5)

    same = ends._replace(
        reward=np.ones_like(ends.reward), value=np.zeros_like(ends.value)
    )
    metrics = learner.update(same, 2, measure=False).metrics
    assert np.isnan(metrics["explained_variance"])


def _config_of(learner: Any) -> Config:
    return tiny("a2c" if isinstance(learner, A2C) else "acktr")


def test_every_scalar_and_phase_is_declared(
    shared: tuple[ActorCritic, Learner],
) -> None:
    _, learner = shared
    rollout = random_rollout(tiny())
    learner.update(rollout, 0, measure=True)
    total, start = 0.0, time.perf_counter()
    for index in range(1, 21):
        update = learner.update(rollout, index, measure=True)
        assert update.metrics.keys() == learner.scalars.keys()
        assert update.seconds.keys() == learner.phases.keys()
        assert all(value > 0 for value in update.seconds.values())
        total += sum(update.seconds.values())
    assert total < time.perf_counter() - start


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
    logits = policy(np.eye(3, dtype=np.float32)).parameters
    assert np.argmax(logits, axis=1).tolist() == [0, 1, 2]


@BOTH
def test_the_value_of_a_constant_reward(algorithm: str) -> None:
    """With γ = 0.9 it is 10: a time limit of 7 steps does not end anything.

    Taken for ends, the limits would make it the mean of (1 − 0.9^k)/0.1 over the k
    steps left, k = 1 … 7: 3.29, for the observation does not tell them apart.
    """
    settings = {
        "a2c": {"max_gradient_norm": 1e9},
        "acktr": {"kl_radius": 1.0},
    }
    config = tiny(
        algorithm,
        **{
            **LEARNING[algorithm],
            "unroll_length": 14,
            "discount": 0.9,
            "gae_lambda": 0.95,
            "entropy_cost": 0.1,
            "value_cost": 1.0,
            "total_steps": 14 * 4 * 200,
            **settings[algorithm],
        },
    )
    look = np.ones((1, 2), np.float32)
    policy, _ = learn(config, ConstantReward(4, limit=7), updates=200)
    assert policy.value(look).numpy()[0] == pytest.approx(10.0, abs=0.2)
    if algorithm == "acktr":
        return  # Rollouts and targets are the same for both.

    policy, _ = learn(
        config, ConstantReward(4, limit=7), updates=200, truncation_terminates=True
    )
    wrong = np.mean([(1 - 0.9**k) / 0.1 for k in range(1, 8)])
    assert wrong == pytest.approx(3.29, abs=0.01)
    assert policy.value(look).numpy()[0] == pytest.approx(wrong, abs=0.2)


def test_the_algorithm_is_the_one_named() -> None:
    assert type(make(tiny("a2c"))[1]) is A2C
    assert type(make(tiny("acktr"))[1]) is ACKTR
