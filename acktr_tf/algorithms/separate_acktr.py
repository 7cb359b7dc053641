"""ACKTR with an optimizer each for policy and value (Wu et al. 2017, section 5.2)."""

import keras
import tensorflow as tf

from acktr_tf.algorithms.acktr import ACKTR
from acktr_tf.algorithms.base import PhaseClock
from acktr_tf.algorithms.critics import Critic, make_critic
from acktr_tf.algorithms.losses import sampled_action_log_likelihood
from acktr_tf.config.config import Config
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic, Evaluation


class SeparateACKTR(ACKTR):
    """Natural gradient for the policy, and a critic that takes steps of its own.

    Raises:
      UserError: Policy and value share weights.
    """

    _measured_names = ("predicted_kl", "critic_predicted_kl")

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        mine, other = (
            {id(variable) for variable in network.trainable_variables}
            for network in (policy.policy_network, policy.value_network)
        )
        if mine & other:
            raise UserError(
                "critic=separate needs a network without a trunk that policy and value "
                f"share: network=mlp. Received: {policy.network.name}."
            )
        self._critic: Critic = make_critic(config, policy)
        super().__init__(config, policy)

    @property
    def variables(self) -> list[keras.Variable]:
        """The algorithm's state."""
        return [*super().variables, *self._critic.variables]

    @property
    def _trained_variables(self) -> list[keras.Variable]:
        return list(self._policy.policy_network.trainable_variables)

    @property
    def _curved_network(self) -> keras.Model:
        return self._policy.policy_network

    def _log_likelihood(self, evaluation: Evaluation, key: tf.Tensor) -> tf.Tensor:
        return sampled_action_log_likelihood(evaluation, key)

    def _update_critic(
        self,
        observation: tf.Tensor,
        target: tf.Tensor,
        key: tf.Tensor,
        finite: tf.Tensor,
        clock: PhaseClock,
    ) -> None:
        def learn() -> tf.Tensor:
            self._critic.update(observation, target, key)
            return tf.constant(True)

        clock.phase("critic", lambda: tf.cond(finite, learn, lambda: tf.constant(True)))

    def _measure_step(self) -> dict[str, tf.Tensor]:
        return {
            **super()._measure_step(),
            "critic_predicted_kl": self._critic.predicted_kl(),
        }

    def _describe_step(self) -> dict[str, tf.Tensor]:
        return {
            **super()._describe_step(),
            "critic_trust_region_scale": self._critic.trust_region_scale,
        }
