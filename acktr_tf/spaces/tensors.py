"""Observations as an exported policy takes them: tensors by name, encoded in its graph.

A file of its own, because processes that must not load TensorFlow use `observations`.
"""

import math
from collections.abc import Mapping

import tensorflow as tf

from acktr_tf.spaces.observations import OBSERVATION, Observations, Part


def tensor_specs(observations: Observations) -> dict[str, tf.TensorSpec]:
    """Returns by name the tensors that an exported policy takes."""
    return {
        part.name: tf.TensorSpec(
            [None, *part.shape], tf.as_dtype(part.served_dtype), name=part.name
        )
        for part in observations.parts
    }


def encode_tensors(
    observations: Observations, inputs: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Encodes tensors by name in a graph, as `Observations.encode` does arrays."""
    if observations.is_single_box:
        return inputs[OBSERVATION]
    return tf.concat(
        [_encoded(part, inputs[part.name]) for part in observations.parts], axis=1
    )


def _encoded(part: Part, tensor: tf.Tensor) -> tf.Tensor:
    """Encodes one part: `[N, size]` float32."""
    rows = tf.reshape(tensor, [-1, math.prod(part.shape)])
    if not part.categories:
        return tf.cast(rows, tf.float32)
    columns = tf.unstack(rows, axis=1)
    return tf.concat(
        [
            tf.one_hot(tf.cast(column, tf.int64) - start, n)
            for column, (n, start) in zip(columns, part.categories, strict=True)
        ],
        axis=1,
    )
