"""Random rows of a batch, from which the curvature is estimated."""

from typing import Any

import keras
import tensorflow as tf


def sample_rows(
    key: tf.Tensor, batch: Any, fraction: float = 1.0, max_rows: int | None = None
) -> Any:
    """Draws rows of a batch at random without replacement.

    Args:
      key: `[2]`; the same key draws the same rows.
      batch: A tensor `[N, ...]`, or a nest of such tensors, of all of which the same
        rows are drawn. A part that is None stays None.
      fraction: Share of the rows in (0, 1], at least one row.
      max_rows: Largest number of rows; None for no limit.

    Returns:
      The drawn rows, nested as `batch`. If they are all rows, they keep their order.

    Raises:
      ValueError: The batch has no tensor.
    """
    tensors = [part for part in keras.tree.flatten(batch) if part is not None]
    if not tensors:
        raise ValueError(f"`sample_rows` needs a tensor. Received: batch={batch!r}")
    rows = tensors[0].shape[0]
    if rows is None:
        drawn = _draw_unknown(key, tf.shape(tensors[0])[0], fraction, max_rows)
    else:
        drawn = _draw(key, rows, fraction, max_rows)
    if drawn is None:
        return batch
    return keras.tree.map_structure(
        lambda part: None if part is None else tf.gather(part, drawn), batch
    )


def _draw(
    key: tf.Tensor, rows: int, fraction: float, max_rows: int | None
) -> tf.Tensor | None:
    """Indices of the rows, or None for all."""
    taken = max(1, round(rows * fraction))
    if max_rows is not None:
        taken = min(taken, max_rows)
    if taken == rows:
        return None
    order = tf.argsort(tf.random.stateless_uniform([rows], key))
    return order[:taken]


def _draw_unknown(
    key: tf.Tensor, rows: tf.Tensor, fraction: float, max_rows: int | None
) -> tf.Tensor | None:
    """As `_draw`, where the number of rows is known only when the graph runs."""
    if fraction == 1.0 and max_rows is None:
        return None
    taken = tf.cast(tf.round(fraction * tf.cast(rows, tf.float32)), tf.int32)
    taken = tf.maximum(1, taken)
    if max_rows is not None:
        taken = tf.minimum(taken, max_rows)
    order = tf.argsort(tf.random.stateless_uniform([rows], key))
    return tf.where(tf.equal(taken, rows), tf.range(rows), order)[:taken]
