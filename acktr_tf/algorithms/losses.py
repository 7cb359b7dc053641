"""The actor-critic loss, and the log-likelihood whose curvature is its Fisher."""

from typing import NamedTuple

import tensorflow as tf

from acktr_tf.policies.actor_critic import Evaluation


class Losses(NamedTuple):
    """Batch means, each a scalar: `total` is what is minimized."""

    total: tf.Tensor
    policy: tf.Tensor
    value: tf.Tensor
    entropy: tf.Tensor


def actor_critic_loss(
    evaluation: Evaluation,
    action: tf.Tensor,
    advantage: tf.Tensor,
    target: tf.Tensor,
    entropy_cost: float | tf.Tensor,
    value_cost: float,
) -> Losses:
    """Advantage actor-critic loss (Mnih et al. 2016; Wu et al. 2017, section 3.1).

        L = mean(−A log π(a|s) + c_v ½ (V(s) − R)² − c_e H(π(·|s)))

    Args:
      evaluation: Policy and value of the batch, `[N]`.
      action: `[N]`, the actions taken.
      advantage: `[N]`, A; constant with respect to the weights.
      target: `[N]`, R, the value to regress on.
      entropy_cost: c_e.
      value_cost: c_v.
    """
    policy = -tf.reduce_mean(advantage * evaluation.distribution.log_prob(action))
    value = 0.5 * tf.reduce_mean(tf.square(evaluation.value - target))
    entropy = tf.reduce_mean(evaluation.distribution.entropy())
    total = policy + value_cost * value - entropy_cost * entropy
    return Losses(total, policy, value, entropy)


def sampled_log_likelihood(evaluation: Evaluation, key: tf.Tensor) -> tf.Tensor:
    """log p(a, v | s) of a and v drawn from the model itself, one an example.

    The model's joint output distribution is p(a, v | s) = π(a|s) N(v; V(s), 1) (Wu et
    al. 2017, section 3.1); the second moment of this function's gradient, over the
    draws, is the Fisher matrix. Constant terms are left out.

    Args:
      evaluation: Policy and value, `[N]`.
      key: `[2]` int32, the random key.

    Returns:
      `[N]`.
    """
    action_key, value_key = tf.unstack(tf.random.split(key, 2))
    noise = tf.random.stateless_normal(tf.shape(evaluation.value), value_key)
    value = tf.stop_gradient(evaluation.value) + noise
    value_log_likelihood = -0.5 * tf.square(value - evaluation.value)
    return sampled_action_log_likelihood(evaluation, action_key) + value_log_likelihood


def sampled_action_log_likelihood(evaluation: Evaluation, key: tf.Tensor) -> tf.Tensor:
    """log π(a|s) of a drawn from the policy itself, one an example.

    The policy's part of `sampled_log_likelihood`, for one that is learnt alone.

    Args:
      evaluation: Policy and value, `[N]`.
      key: `[2]` int32, the random key.

    Returns:
      `[N]`.
    """
    action = tf.stop_gradient(evaluation.distribution.sample(seed=key))
    return evaluation.distribution.log_prob(action)


def policy_kl(old: Evaluation, new: Evaluation) -> tf.Tensor:
    """Mean over the batch of KL(π_old ‖ π_new), in nats."""
    return tf.reduce_mean(old.distribution.kl_divergence(new.distribution))


def value_kl(old: Evaluation, new: Evaluation) -> tf.Tensor:
    """Mean over the batch of KL(N(V_old, 1) ‖ N(V_new, 1)) = ½ (V_new − V_old)².

    Of the unit-variance Gaussians that the Fisher matrix takes the values for; with
    `policy_kl` it makes the KL of the joint distribution.
    """
    return 0.5 * tf.reduce_mean(tf.square(new.value - old.value))
