"""The share of a batch that curvature is estimated from."""

import tensorflow as tf


def sample_rows(key: tf.Tensor, batch: tf.Tensor, fraction: float) -> tf.Tensor:
    """Rows of `batch` `[N, ...]`, drawn at random without replacement.

    Args:
      key: `[2]`, random; the same one draws the same rows.
      batch: `[N, ...]`.
      fraction: Share of the rows, at least one row; with 1 they stay in order.
    """
    rows = batch.shape[0]
    taken = max(1, round(rows * fraction))
    if taken == rows:
        return batch
    order = tf.argsort(tf.random.stateless_uniform([rows], key))
    return tf.gather(batch, order[:taken])
