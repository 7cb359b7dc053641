"""ACKTR: actor-critic using Kronecker-factored trust region (Wu et al. 2017)."""

import tensorflow as tf

from acktr_tf.algorithms import schedules
from acktr_tf.algorithms.base import Algorithm, PhaseClock
from acktr_tf.config import Config
from acktr_tf.kfac import KFAC, CurvatureTape
from acktr_tf.losses import policy_kl, sampled_log_likelihood
from acktr_tf.policy import ActorCritic


class ACKTR(Algorithm):
    """Natural gradient of the actor-critic loss, by K-FAC, in a trust region.

    The Fisher matrix is that of the joint distribution of action and value, so the
    trunk that policy and value share has one block a layer (Wu et al. 2017, 3.1).
    """

    optimizer: KFAC
    _measured_names = ("predicted_kl",)

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        self._kl_target_schedule = schedules.kl_target(config)
        super().__init__(config, policy)

    def _make_optimizer(self) -> KFAC:
        config = self._config
        optimizer = KFAC(
            learning_rate=schedules.learning_rate(config),
            kl_radius=config.kl_radius,
            trust_region=config.trust_region,
            momentum=config.momentum,
            damping=config.damping,
            factor_decay=config.factor_decay,
            inverse_update_period=config.inverse_update_period,
            conv_positions=config.conv_positions,
        )
        optimizer.attach(self._policy.network)
        return optimizer

    def _update_curvature(
        self, observation: tf.Tensor, key: tf.Tensor, clock: PhaseClock
    ) -> None:
        keys = tf.random.split(key, 2)

        def factors() -> tf.Tensor:
            rows = self._sample(keys[0], observation)
            with CurvatureTape(self.optimizer.layers) as tape:
                evaluation = self._policy.evaluate(rows)
                log_likelihood = sampled_log_likelihood(evaluation, keys[1])
            self.optimizer.update_factors(tape, log_likelihood)
            return tf.constant(True)

        def inverses() -> tf.Tensor:
            self.optimizer.update_inverses()
            return tf.constant(True)

        period = self._config.factor_update_period
        due = tf.equal(self.optimizer.iterations.value % period, 0)
        clock.phase(
            "curvature", lambda: tf.cond(due, factors, lambda: tf.constant(False))
        )
        clock.phase("inverses", inverses)

    def _after_step(
        self,
        observation: tf.Tensor,
        parameters: tf.Tensor,
        value: tf.Tensor,
        key: tf.Tensor,
    ) -> None:
        if self._config.kl_target == 0:
            return
        rows, *outputs = (
            self._sample(key, batch) for batch in (observation, parameters, value)
        )
        old, new = self._policy.evaluation(*outputs), self._policy.evaluate(rows)
        self.optimizer.adapt_radius(policy_kl(old, new), self._kl_target())

    def _kl_target(self) -> tf.Tensor:
        """The exact KL that the step taken last should have had."""
        return self._kl_target_schedule(self.optimizer.iterations.value - 1)

    def _sample(self, key: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """The share of the batch that curvature is estimated from, drawn at random."""
        rows = batch.shape[0]
        taken = max(1, round(rows * self._config.curvature_fraction))
        if taken == rows:
            return batch
        order = tf.argsort(tf.random.stateless_uniform([rows], key))
        return tf.gather(batch, order[:taken])

    def _measure_step(self) -> dict[str, tf.Tensor]:
        return {"predicted_kl": self.optimizer.predicted_kl()}

    def _describe_step(self) -> dict[str, tf.Tensor]:
        return {
            "trust_region_scale": self.optimizer.trust_region_scale,
            "kl_radius": self.optimizer.radius,
            "kl_target": self._kl_target(),
            "damping": tf.constant(self._config.damping),
            "failed_factorizations": tf.cast(
                self.optimizer.failed_factorizations, tf.float32
            ),
        }
