"""A training run, taken up again in memory: nothing is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acktr_tf.algorithms import make_algorithm
from acktr_tf.algorithms.base import Algorithm
from acktr_tf.config import Config
from acktr_tf.environments import make_vector_env
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints
from acktr_tf.runs import directory as run_directory
from acktr_tf.training.collector import Collector
from acktr_tf.training.scales import Scales
from acktr_tf.types import Array, Rollout


class Resumed(NamedTuple):
    """A run as its newest checkpoint left it.

    Attributes:
      config: Its settings.
      policy: What plays.
      algorithm: What learns.
      scales: Those of observations and rewards.
      collector: Goes on where the run's environments were.
      lengths: `[B]`, steps of the episodes under way there.
      step: Agent steps of the run.
      updates: Updates of the run.
    """

    config: Config
    policy: ActorCritic
    algorithm: Algorithm
    scales: Scales
    collector: Collector
    lengths: Array
    step: int
    updates: int

    def rollouts(self, count: int) -> Iterator[Rollout]:
        """That many more, with rewards to learn from; arrays are used again."""
        for index in range(count):
            step = self.step + index * self.config.batch_size
            yield self.scales.scaled(self.collector.collect(step).rollout)


def resume(run_dir: Path) -> Resumed:
    """The run in a directory.

    Raises:
      UserError: There is none, it has no checkpoint, or its checkpoint is damaged.
    """
    config, _ = run_directory.read_config(run_dir)
    newest = checkpoints.latest(run_dir / run_directory.CHECKPOINTS)
    if newest is None:
        raise UserError(f"{run_dir} has no checkpoint.")
    saved = checkpoints.load(newest)
    seed = config.run.seed
    environments = make_vector_env(config.environment, seed)
    policy = ActorCritic(
        config.policy, environments.observation_space, environments.action_space, seed
    )
    algorithm = make_algorithm(config, policy)
    checkpoints.assign_variables("policy", policy.variables, saved.arrays)
    checkpoints.assign_variables("algorithm", algorithm.variables, saved.arrays)
    scales = Scales(config, policy)
    scales.restore(checkpoints.below("scales", saved.arrays))
    arrays = checkpoints.below("environments", saved.arrays)
    observation, restarted = environments.load_state(arrays)
    lengths = np.asarray(arrays["lengths"]).copy()
    lengths[restarted] = 0
    return Resumed(
        config,
        policy,
        algorithm,
        scales,
        Collector(policy, environments, config.run.unroll_length, seed, observation),
        lengths,
        saved.step,
        saved.state["updates"],
    )
