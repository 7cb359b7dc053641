"""One file an algorithm: rollout in, better policy out."""

from acktr_tf.algorithms.a2c import A2C
from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.base import Algorithm
from acktr_tf.algorithms.batches import Batch, make_batch
from acktr_tf.config import Config
from acktr_tf.policy import ActorCritic

__all__ = ["A2C", "ACKTR", "Algorithm", "Batch", "make_algorithm", "make_batch"]


def make_algorithm(config: Config, policy: ActorCritic) -> Algorithm:
    """The algorithm that `config` names, about to make its first update."""
    return {"acktr": ACKTR, "a2c": A2C}[config.algorithm](config, policy)
