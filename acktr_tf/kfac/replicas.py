"""Means over the replicas of a `tf.distribute` strategy."""

from typing import Any

import tensorflow as tf


def mean_over_replicas(values: Any) -> Any:
    """Returns the means over all replicas; with one replica, the values themselves.

    Args:
      values: A tensor or a nest of tensors, in the context of a replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
