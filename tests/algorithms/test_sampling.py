"""The share of a batch that curvature is estimated from."""

import math

import numpy as np
import pytest
import tensorflow as tf

from acktr_tf.algorithms.sampling import sample_rows


@pytest.mark.parametrize(
    ("fraction", "taken"), [(1.0, 32), (0.5, 16), (0.125, 4), (0.01, 1)]
)
def test_the_share_of_rows(fraction: float, taken: int) -> None:
    observation = tf.constant(np.arange(32)[:, None] * np.ones(4), tf.float32)
    drawn = [
        sample_rows(tf.constant([1, i]), observation, fraction)[:, 0].numpy()
        for i in range(200)
    ]
    for rows in drawn:
        # Rows of the batch, none of them twice.
        assert len(rows) == len(set(rows)) == taken
        assert set(rows) <= set(range(32))
    # Each row as often as any other: 200·taken/32 times, give or take 5 deviations.
    counts = np.bincount(np.concatenate(drawn).astype(int), minlength=32)
    share = taken / 32
    deviation = math.sqrt(200 * share * (1 - share))
    assert np.abs(counts - 200 * share).max() <= 5 * deviation
