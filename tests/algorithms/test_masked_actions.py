"""Learning with action masks: the curvature, and problems whose best play is known."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from kfac.twins import oracle_layer, randomize
from masked import Board, choices_of
from oracles import kfac as oracle
from oracles.actor_critic import log_softmax
from oracles.networks import Network
from problems import arrays, learn, make

from acktr_tf.config import Config, configure
from acktr_tf.environments import make_vector_env
from acktr_tf.spaces.masks import ActionMask
from acktr_tf.types import Rollout

DRAWS = 40_000


def tiny(**settings: Any) -> Config:
    return configure(
        **{
            "hidden_size": 4,
            "factor_decay": 0.0,
            "curvature_fraction": 1.0,
            **settings,
        }
    )


# Curvature --------------------------------------------------------------------------
def masked_fisher(mask: npt.NDArray[Any], sizes: list[int]) -> oracle.OutputFisher:
    """Fisher `[N, K, K]` of choices among what `mask` allows, in the network's logits.

    Σ_a p(a) s(a) s(a)ᵀ with the score s(a) = 1_a − p, over the allowed a of each
    choice; choices are independent, and scores have mean zero.
    """

    def fisher(outputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        total = np.zeros((*outputs.shape, outputs.shape[1]))
        for example, logits in enumerate(outputs):
            start = 0
            for size in sizes:
                options = start + np.flatnonzero(mask[start : start + size])
                p = np.exp(log_softmax(logits[options]))
                for option, share in enumerate(p):
                    score = np.eye(len(p))[option] - p
                    at = np.ix_([example], options, options)
                    total[at] += share * np.outer(score, score)
                start += size
        return total

    return fisher


@pytest.mark.parametrize(
    ("actions", "mask", "critic"),
    [
        (Discrete(5), [1, 0, 1, 1, 0], "joint"),
        (MultiDiscrete([2, 4]), [1, 1, 0, 1, 1, 0], "separate"),
        (spaces.Tuple([Discrete(3), Discrete(3)]), [0, 1, 0, 1, 0, 1], "joint"),
    ],
    ids=["discrete", "multidiscrete", "tuple"],
)
def test_the_curvature_is_the_exact_fisher_of_the_masked_policy(
    actions: gymnasium.Space[Any], mask: list[int], critic: str
) -> None:
    """Of one state, where a block A ⊗ G is the Fisher matrix itself.

    The standard error of G's entries is at most p(1 − p) / √DRAWS of the largest score.
    """
    observation = spaces.Dict(
        [("eye", Box(-9, 9, (2,))), ("mask", ActionMask(len(mask)))]
    )
    policy, learner = make(tiny(critic=critic), observation, actions)
    randomize(policy.network)
    seen = np.array([[0.7, -1.2]], np.float32)
    rows = np.repeat(np.c_[seen, [mask]].astype(np.float32), DRAWS, axis=0)
    learner.actor.update_curvature(tf.constant(rows), tf.constant([1, 2]))
    names = ["policy_fc1", "policy_fc2", "policy"]
    layers = [oracle_layer(policy.network.get_layer(name)) for name in names]
    twin = Network(tuple(layers[:2]), tuple(layers[2:]))
    fisher = masked_fisher(np.array(mask), [n for n, _ in choices_of(actions)])
    blocks = {block.layer.name: block for block in learner.actor.optimizer.blocks}
    for index, name in enumerate(names):
        exact = oracle.exact_block(twin, np.float64(seen), fisher, index)
        found = blocks[name].to_dense().numpy()
        largest = np.abs(exact).max()
        np.testing.assert_allclose(found, exact, atol=0.03 * largest)
    # Rows and columns of what is forbidden are zero to the bit.
    last = blocks["policy"].to_dense().numpy().reshape(5, len(mask), 5, len(mask))
    forbidden = np.array(mask) == 0
    assert (last[:, forbidden] == 0).all()
    assert (last[..., forbidden] == 0).all()
    assert np.abs(last).max() > 0


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_a_state_without_a_choice_leaves_the_policy_as_it_is(algorithm: str) -> None:
    """Its gradient, KL and Fisher matrix are zero, and everything stays finite."""
    config = configure(
        env="Locks-v0",
        action_mask="doors",
        algorithm=algorithm,
        num_envs=3,
        unroll_length=4,
        hidden_size=4,
        value_cost=0.5,
    )
    environments = make_vector_env(config.environment, 0)
    policy, learner = make(
        config, environments.observation_space, environments.action_space
    )
    observation = np.zeros((4, 3, 6), np.float32)
    observation[..., :2] = np.random.default_rng(0).normal(size=(4, 3, 2))
    observation[..., 3] = 1.0
    zeros = np.zeros((4, 3))
    rollout = Rollout(
        observation=observation,
        action=np.ones((4, 3), np.int32),
        reward=np.float32(zeros + 1),
        terminated=zeros > 0,
        truncated=zeros > 0,
        value=np.float32(zeros),
        final_value=np.float32(zeros),
        last_value=np.float32(zeros[0]),
    )
    weights = policy.policy_network.trainable_variables
    before = arrays(weights)
    update = learner.update(rollout, 0, measure=True)
    assert update.applied
    assert update.metrics["entropy"] == 0.0
    assert update.metrics["policy_loss"] == 0.0
    assert update.metrics["exact_kl"] == 0.0
    for weight, old in zip(arrays(weights), before, strict=True):
        np.testing.assert_array_equal(weight, old)


# Learning ---------------------------------------------------------------------------
SETTINGS: dict[str, dict[str, Any]] = {
    "acktr": {"kl_radius": 0.01, "damping": 0.01},
    "a2c": {"learning_rate": 0.01},
}


@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_the_best_of_what_is_allowed_is_learnt(algorithm: str) -> None:
    """Later doors are better, whichever are locked; one that is locked stops the run.

    At first doors are drawn evenly: of k that are not locked one in k is the last.
    """
    config = configure(
        env="Locks-v0",
        action_mask="doors",
        algorithm=algorithm,
        num_envs=16,
        unroll_length=8,
        hidden_size=8,
        entropy_cost=0.0,
        normalize_observations=True,
        **SETTINGS[algorithm],
    )
    environments = make_vector_env(config.environment, 0)
    _, rewards = learn(config, environments, 40)
    assert np.mean(rewards[:5]) < 0.75
    assert np.mean(rewards[-5:]) > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_the_shortest_way_over_a_board_is_learnt(algorithm: str) -> None:
    """From anywhere but the corner it is 3.2 steps on average, paid 1 at its end."""
    size = Board.size
    distances = np.add.outer(np.arange(size), np.arange(size))
    best = (size**2 - 1) / distances.sum()
    config = configure(
        env="Board-v0",
        action_mask="legal",
        algorithm=algorithm,
        num_envs=16,
        unroll_length=8,
        hidden_size=16,
        entropy_cost=0.0,
        discount=0.9,
        **SETTINGS[algorithm],
    )
    environments = make_vector_env(config.environment, 0)
    _, rewards = learn(config, environments, 80)
    assert np.mean(rewards[:5]) < 0.4 * best
    assert 0.85 * best < np.mean(rewards[-10:]) < 1.15 * best
