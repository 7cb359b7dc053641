"""Objectives, and the log-likelihoods whose curvature is their Fisher matrix.

Pure functions of outputs of networks; each loss is a mean over the batch.
"""

from typing import NamedTuple

import tensorflow as tf

from acktr_tf.algorithms.returns import Batch
from acktr_tf.algorithms.steppers import Stepper
from acktr_tf.policies.actor_critic import ActorCritic, PolicyOutput
from acktr_tf.policies.distributions import Distribution


# Objectives -------------------------------------------------------------------------
def policy_gradient_loss(log_prob: tf.Tensor, advantage: tf.Tensor) -> tf.Tensor:
    """Returns −mean(A log π(a|s)) (Mnih et al. 2016, section 4).

    Args:
      log_prob: `[N]`, of the actions taken, in nats.
      advantage: `[N]`, A; constant with respect to the weights.
    """
    return -tf.reduce_mean(advantage * log_prob)


def value_loss(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns ½ mean((V(s) − R)²).

    Args:
      value: `[N]`, V.
      target: `[N]`, R; constant with respect to the weights.
    """
    return 0.5 * tf.reduce_mean(tf.square(value - target))


class Losses(NamedTuple):
    """Parts of the actor-critic loss, each a scalar: `total` is minimized."""

    total: tf.Tensor
    policy: tf.Tensor
    value: tf.Tensor
    entropy: tf.Tensor


def actor_critic_loss(
    distribution: Distribution,
    value: tf.Tensor,
    batch: Batch,
    entropy_cost: float | tf.Tensor,
    value_cost: float,
) -> Losses:
    """Computes the loss of Mnih et al. 2016 (Wu et al. 2017, section 3.1).

        L = mean(−A log π(a|s) + c_v ½ (V(s) − R)² − c_e H(π(·|s)))

    Args:
      distribution: Distributions of actions of the batch, `[N]`.
      value: `[N]`, V.
      batch: `N` samples.
      entropy_cost: c_e.
      value_cost: c_v.
    """
    log_prob = distribution.log_prob(batch.action)
    policy_part = policy_gradient_loss(log_prob, batch.advantage)
    value_part = value_loss(value, batch.target)
    entropy = tf.reduce_mean(distribution.entropy())
    total = policy_part + value_cost * value_part - entropy_cost * entropy
    return Losses(total, policy_part, value_part, entropy)


class ActorCriticGradients(NamedTuple):
    """Gradients of the actor-critic loss, and the outputs that they were taken at.

    Attributes:
      output: Outputs of the policy for the batch.
      gradients: One per variable.
      scalars: Scalars about the loss, by name.
      finite: Whether loss and gradients are finite, scalar bool.
    """

    output: PolicyOutput
    gradients: list[tf.Tensor]
    scalars: dict[str, tf.Tensor]
    finite: tf.Tensor


def actor_critic_gradients(
    policy: ActorCritic,
    stepper: Stepper,
    batch: Batch,
    entropy_cost: tf.Tensor,
    value_cost: float,
) -> ActorCriticGradients:
    """Differentiates `actor_critic_loss` with respect to a stepper's variables.

    Args:
      policy: Policy and value.
      stepper: Stepper of the weights.
      batch: `N` samples.
      entropy_cost: c_e, scalar.
      value_cost: c_v.
    """
    with tf.GradientTape() as tape:
        output = policy(batch.observation)
        distribution = policy.distribution(output)
        losses = actor_critic_loss(
            distribution, output.value, batch, entropy_cost, value_cost
        )
    gradients = tape.gradient(losses.total, stepper.variables)
    norm = tf.linalg.global_norm(gradients)
    scalars = {
        "policy_loss": losses.policy,
        "value_loss": losses.value,
        "entropy": losses.entropy,
        "explained_variance": explained_variance(output.value, batch.target),
        "gradient_norm": norm,
        "learning_rate": stepper.learning_rate,
        "entropy_cost": entropy_cost,
    }
    finite = tf.math.is_finite(norm) & tf.math.is_finite(losses.total)
    return ActorCriticGradients(output, gradients, scalars, finite)


def explained_variance(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns 1 − Var(R − V) / Var(R); nan where all targets R are the same.

    Args:
      value: `[N]`, V.
      target: `[N]`, R.
    """
    variance = tf.math.reduce_variance(target)
    unexplained = tf.math.reduce_variance(target - value)
    return tf.where(variance > 0.0, 1.0 - unexplained / variance, float("nan"))


# Divergences ------------------------------------------------------------------------
def policy_kl(old: Distribution, new: Distribution) -> tf.Tensor:
    """Returns the mean of KL(π_old ‖ π_new), in nats."""
    return tf.reduce_mean(old.kl_divergence(new))


def value_kl(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Returns the mean of KL(N(V_old, 1) ‖ N(V_new, 1)) = ½ (V_new − V_old)².

    The Fisher matrix takes values for Gaussians of variance one; with `policy_kl` this
    is the KL of the joint distribution.

    Args:
      old: `[N]`, V_old.
      new: `[N]`, V_new.
    """
    return 0.5 * tf.reduce_mean(tf.square(new - old))


def exact_kls(
    policy: ActorCritic, observation: tf.Tensor, old: PolicyOutput
) -> dict[str, tf.Tensor]:
    """Measures how far the policy has moved since it gave `old`.

    Args:
      policy: The policy as it is.
      observation: `[N, ...]`.
      old: Outputs for these observations, `[N]`.

    Returns:
      `exact_kl` of the policy, and `exact_kl_joint` of policy and value, in nats.
    """
    new = policy(observation)
    kl = policy_kl(policy.distribution(old), policy.distribution(new))
    return {"exact_kl": kl, "exact_kl_joint": kl + value_kl(old.value, new.value)}


# Log-likelihoods --------------------------------------------------------------------
def sampled_action_log_likelihood(
    distribution: Distribution, key: tf.Tensor
) -> tf.Tensor:
    """Returns log π(a|s) `[N]` of actions that the policy itself draws.

    The second moment of its gradient, over the draws, is the Fisher matrix.

    Args:
      distribution: Distributions of actions, `[N]`.
      key: `[2]` int32, the random key.
    """
    action = tf.stop_gradient(distribution.sample(seed=key))
    return distribution.log_prob(action)


def sampled_log_likelihood(
    distribution: Distribution, value: tf.Tensor, key: tf.Tensor
) -> tf.Tensor:
    """Returns log p(a, v | s) `[N]` of actions and values that the model itself draws.

    The joint distribution is p(a, v | s) = π(a|s) N(v; V(s), 1) (Wu et al. 2017,
    section 3.1), so that a trunk that policy and value share has one Fisher matrix.
    Constant terms are left out.

    Args:
      distribution: Distributions of actions, `[N]`.
      value: `[N]`, V.
      key: `[2]` int32, the random key.
    """
    action_key, value_key = tf.unstack(tf.random.split(key, 2))
    noise = tf.random.stateless_normal(tf.shape(value), value_key)
    drawn = tf.stop_gradient(value) + noise
    value_log_likelihood = -0.5 * tf.square(drawn - value)
    action = sampled_action_log_likelihood(distribution, action_key)
    return action + value_log_likelihood
