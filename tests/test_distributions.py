"""Actions of a discrete space."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium.spaces import Discrete

from acktr_tf.distributions import CategoricalActions


@pytest.mark.parametrize("space", [Discrete(4), Discrete(4, start=9)])
def test_one_logit_an_action_counted_from_zero(space: Discrete) -> None:
    actions = CategoricalActions(space)
    assert actions.num_parameters == 4
    assert type(actions.num_parameters) is int
    certain = tf.constant([[0.0, 99.0, 0.0, 0.0], [0.0, 0.0, 0.0, 99.0]])
    distribution = actions.distribution(certain)
    sample = distribution.sample(seed=tf.constant([1, 2]))
    assert sample.dtype == tf.int32
    assert sample.numpy().tolist() == [1, 3]
    assert distribution.batch_shape == [2]


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    logits = np.array([[0.5, -1.0, 2.0]])
    distribution = CategoricalActions(Discrete(3)).distribution(tf.constant(logits))
    expected = np.exp(logits) / np.exp(logits).sum()
    for action in range(3):
        np.testing.assert_allclose(
            distribution.log_prob([action]), np.log(expected[:, action])
        )


def test_large_logits_stay_finite() -> None:
    logits = tf.constant([[1e4, 0.0], [-1e4, 1e4]])
    distribution = CategoricalActions(Discrete(2)).distribution(logits)
    assert np.isfinite(distribution.entropy().numpy()).all()
    assert np.isfinite(distribution.log_prob([1, 0]).numpy()).all()
    assert np.isfinite(distribution.kl_divergence(distribution).numpy()).all()
