"""A training run, taken up again in memory: nothing is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from acktr_tf.algorithms import Learner, make_learner
from acktr_tf.config import Config
from acktr_tf.environments import make_vector_env
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints
from acktr_tf.runs import directory as run_directory
from acktr_tf.states import with_prefix
from acktr_tf.training.collector import Collector
from acktr_tf.training.normalization import RunningNormalization
from acktr_tf.types import Array, Rollout


class Resumed(NamedTuple):
    """A run as its newest checkpoint left it.

    Attributes:
      config: Its settings.
      policy: Policy of the run.
      learner: Learner of the run.
      normalization: Normalization of observations and rewards.
      collector: Goes on where the run's environments were.
      lengths: `[B]`, steps of the episodes under way there.
      step: Agent steps of the run.
      updates: Updates of the run.
    """

    config: Config
    policy: ActorCritic
    learner: Learner
    normalization: RunningNormalization
    collector: Collector
    lengths: Array
    step: int
    updates: int

    def rollouts(self, count: int) -> Iterator[Rollout]:
        """That many more, with rewards to learn from; arrays are used again."""
        for index in range(count):
            step = self.step + index * self.config.batch_size
            rollout = self.collector.collect(step).rollout
            yield self.normalization.scale_rewards(rollout)


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
    learner = make_learner(config, policy)
    learner.load_state(with_prefix("learner", saved.arrays))
    normalization = RunningNormalization(
        config.policy, config.returns, environments.num_envs, policy
    )
    normalization.load_state(with_prefix("normalization", saved.arrays))
    state = with_prefix("environments", saved.arrays)
    observation, restarted = environments.load_state(state)
    lengths = state["lengths"].copy()
    lengths[restarted] = 0
    return Resumed(
        config,
        policy,
        learner,
        normalization,
        Collector(learner, environments, config.run.unroll_length, seed, observation),
        lengths,
        saved.step,
        int(saved.arrays["progress/updates"]),
    )
