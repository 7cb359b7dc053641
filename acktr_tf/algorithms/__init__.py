"""Algorithms, one per file: rollout in, better policy out."""

from acktr_tf.algorithms.learner import KFACNetwork, Learner, Plan, Update
from acktr_tf.config import Config, find_algorithm
from acktr_tf.policies.actor_critic import ActorCritic

__all__ = [
    "KFACNetwork",
    "Learner",
    "Plan",
    "Update",
    "kfac_networks",
    "make_learner",
]


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


def kfac_networks(config: Config, policy: ActorCritic) -> list[KFACNetwork]:
    """Returns the networks that the learner of `config` will step by K-FAC.

    Args:
      config: Settings of the run.
      policy: Policy to train.
    """
    algorithm = find_algorithm(config.run.algorithm).load()
    if not hasattr(algorithm, "kfac_networks"):
        return []
    return list(algorithm.kfac_networks(config.algorithm, policy))
