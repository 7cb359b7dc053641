"""Algorithms, one per file: rollout in, better policy out."""

from acktr_tf.algorithms.learner import Learner, Plan, Update
from acktr_tf.config import Config, find_algorithm
from acktr_tf.policies.actor_critic import ActorCritic

__all__ = ["Learner", "Plan", "Update", "make_learner"]


def make_learner(config: Config, policy: ActorCritic) -> Learner:
    """Makes the learner that `config` names, before its first update.

    Args:
      config: Settings of the run.
      policy: Policy to train.

    Raises:
      UserError: Settings exclude each other, or do not suit the policy.
    """
    algorithm = find_algorithm(config.run.algorithm).load()
    plan = Plan(config.total_updates, config.batch_size, config.run.seed)
    learner: Learner = algorithm(config.algorithm, config.returns, policy, plan)
    return learner
