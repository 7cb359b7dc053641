"""Policies to export, to save and to load in tests, and environments for them."""

import gymnasium
import numpy as np
import tensorflow as tf

from acktr_tf.config.config import configure
from acktr_tf.environments import make_vector_env
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints
from acktr_tf.runs import directory as run_directory
from acktr_tf.states import add_prefix

CARTPOLE = configure(env="CartPole-v1", hidden_size=8)


class Numbered(gymnasium.Env):
    """Float64 observations, and actions called 5, 6 and 7."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 4
        return self.np_random.uniform(-1, 1, 2), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._left -= 1
        reward = float(action - 5)
        return self.np_random.uniform(-1, 1, 2), reward, self._left == 0, False, {}


if "Numbered-v0" not in gymnasium.registry:
    gymnasium.register("Numbered-v0", Numbered)


def environment_of(config, num_envs=1):
    return make_vector_env(config.environment, config.run.seed, num_envs=num_envs)


def new_policy(config, seed=None):
    """A policy as a training begins with it."""
    environments = environment_of(config)
    environments.close()
    return ActorCritic(
        config.policy,
        environments.observation_space,
        environments.action_space,
        config.run.seed if seed is None else seed,
    )


def make_policy(config):
    """A policy as a training leaves it: preferences, and values that are not zero."""
    policy = new_policy(config)
    for name in ("policy", "value"):
        layer = policy.network.get_layer(name)
        layer.kernel.assign(10.0 * layer.kernel)
        layer.bias.assign(0.1 * np.arange(layer.units) + 0.5)
    return policy


def save_policy(run_dir, config, step, seed=None):
    """A checkpoint of a new policy; returns the policy."""
    policy = new_policy(config, step if seed is None else seed)
    arrays = {
        **add_prefix("learner/policy", policy.state()),
        "learner/optimizer/0000/iteration": np.zeros(1),
    }
    directory = run_dir / run_directory.CHECKPOINTS
    checkpoints.save(directory, checkpoints.Checkpoint(step, arrays), 9)
    return policy


def observations(policy, rows, seed=0):
    random = np.random.default_rng(seed)
    shape = (rows, *policy.observation_spec.shape[1:])
    if policy.observation_spec.dtype == tf.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape).astype(np.float32)


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
