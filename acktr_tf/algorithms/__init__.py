"""One file an algorithm: rollout in, better policy out."""

from acktr_tf.algorithms.a2c import A2C
from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.base import Algorithm
from acktr_tf.algorithms.batches import Batch, make_batch
from acktr_tf.algorithms.separate_acktr import SeparateACKTR
from acktr_tf.config.config import Config
from acktr_tf.policies.actor_critic import ActorCritic

__all__ = [
    "A2C",
    "ACKTR",
    "Algorithm",
    "Batch",
    "SeparateACKTR",
    "make_algorithm",
    "make_batch",
]


def make_algorithm(config: Config, policy: ActorCritic) -> Algorithm:
    """The algorithm that `config` names, about to make its first update."""
    if config.algorithm == "a2c":
        return A2C(config, policy)
    if config.critic == "joint":
        return ACKTR(config, policy)
    return SeparateACKTR(config, policy)
