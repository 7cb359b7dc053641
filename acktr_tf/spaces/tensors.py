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
    dtype = tf.as_dtype(observations.encoded_space.dtype)
    return tf.concat(
        [_encoded(part, inputs[part.name], dtype) for part in observations.parts],
        axis=1,
    )


def without_mask(observations: Observations, encoded: tf.Tensor) -> tf.Tensor:
    """Returns what networks are given of encoded observations `[N, ...]`."""
    mask = observations.mask
    if mask is None:
        return encoded
    rest = tf.concat([encoded[:, : mask.start], encoded[:, mask.stop :]], axis=1)
    return tf.reshape(rest, [-1, *observations.network_space.shape])


def allowed_options(observations: Observations, encoded: tf.Tensor) -> tf.Tensor | None:
    """Returns the mask `[N, n]` bool in encoded observations, None without one."""
    if observations.mask is None:
        return None
    return encoded[:, observations.mask] > 0


def _encoded(part: Part, tensor: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Encodes one part: `[N, size]` of type `dtype`."""
    rows = tf.reshape(tensor, [-1, math.prod(part.shape)])
    if not part.categories:
        return tf.cast(rows, dtype)
    # Column by column: LiteRT unstacks no int64.
    return tf.concat(
        [
            tf.one_hot(tf.cast(rows[:, column], tf.int64) - start, n, dtype=dtype)
            for column, (n, start) in enumerate(part.categories)
        ],
        axis=1,
    )
