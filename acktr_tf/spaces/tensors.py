"""Observations as an exported policy takes them: tensors by name, encoded in its graph.

Apart from `observations`, which processes use that must not load TensorFlow.
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from acktr_tf.spaces.observations import OBSERVATION, Observations, Part


def tensor_specs(observations: Observations) -> dict[str, tf.TensorSpec]:
    """By name, what an exported policy is given of `N` observations."""
    return {
        part.name: tf.TensorSpec(
            [None, *part.shape], tf.as_dtype(part.served_dtype), name=part.name
        )
        for part in observations.parts
    }


def encode_tensors(
    observations: Observations, inputs: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """As `observations.encode`, of tensors by name, in a graph."""
    if observations.plain:
        return inputs[OBSERVATION]
    return tf.concat(
        [_encoded(part, inputs[part.name]) for part in observations.parts], axis=1
    )


def _encoded(part: Part, tensor: tf.Tensor) -> tf.Tensor:
    """`[N, size]` float32."""
    rows = tf.reshape(tensor, [-1, math.prod(part.shape)])
    if not part.kinds:
        return tf.cast(rows, tf.float32)
    columns = tf.unstack(rows, axis=1)
    return tf.concat(
        [
            tf.one_hot(tf.cast(column, tf.int64) - first, kinds)
            for column, (kinds, first) in zip(columns, part.kinds, strict=True)
        ],
        axis=1,
    )
