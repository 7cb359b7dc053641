"""ACKTR: actor-critic using Kronecker-factored trust region (Wu et al. 2017).

The value is learnt in one step with the policy here; `separate_acktr` gives it an
optimizer of its own.
"""

import keras
import tensorflow as tf

from acktr_tf.algorithms import schedules
from acktr_tf.algorithms.base import Algorithm, PhaseClock
from acktr_tf.algorithms.sampling import sample_rows
from acktr_tf.config import Config
from acktr_tf.errors import UserError
from acktr_tf.kfac import KFAC, control
from acktr_tf.kfac.trust_region import backtracking_factor
from acktr_tf.losses import policy_kl, sampled_log_likelihood
from acktr_tf.policy import ActorCritic, Evaluation

SHORTENINGS = 10
"""After so many of a tenth nothing is left of a step."""


class ACKTR(Algorithm):
    """Natural gradient of the actor-critic loss, by K-FAC, in a trust region.

    The Fisher matrix is that of the joint distribution of action and value, so the
    trunk that policy and value share has one block a layer (Wu et al. 2017, 3.1).

    Raises:
      UserError: The learning rate is to be adapted, and to follow a schedule.
    """

    optimizer: KFAC
    _measured_names: tuple[str, ...] = ("predicted_kl",)

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        if (
            config.kl_target > 0
            and config.kl_adaptation == "learning_rate"
            and config.learning_rate_schedule != "constant"
        ):
            raise UserError(
                "kl_adaptation=learning_rate needs learning_rate_schedule=constant: "
                "only one of them can decide the learning rate. Received: "
                f"learning_rate_schedule={config.learning_rate_schedule}"
            )
        self._kl_target_schedule = schedules.kl_target(config)
        super().__init__(config, policy)

    def _make_optimizer(self) -> KFAC:
        config = self._config
        optimizer = KFAC(
            learning_rate=schedules.learning_rate(config),
            kl_radius=config.kl_radius,
            bound={"gradient": "direction", "applied": "update"}[config.trust_region],
            momentum=config.momentum,
            damping=config.damping,
            factor_decay=config.factor_decay,
            factor_update_period=config.factor_update_period,
            inverse_update_period=config.inverse_update_period,
            spatial_correlation={"uncorrelated": "none", "correlated": "full"}[
                config.conv_positions
            ],
            patch_stride=config.patch_period,
            # Runs on Pong with turns ended lower: docs/atari.md.
            stagger_inverses=False,
        )
        optimizer.attach(self._curved_network)
        return optimizer

    @property
    def _curved_network(self) -> keras.Model:
        """The network whose Fisher matrix is taken."""
        return self._policy.network

    def _log_likelihood(self, evaluation: Evaluation, key: tf.Tensor) -> tf.Tensor:
        """The log-likelihood `[N]` of sampled outputs of that network."""
        return sampled_log_likelihood(evaluation, key)

    def _update_curvature(
        self, observation: tf.Tensor, key: tf.Tensor, clock: PhaseClock
    ) -> None:
        keys = tf.random.split(key, 2)

        def factors() -> tf.Tensor:
            rows = sample_rows(keys[0], observation, self._config.curvature_fraction)
            with self.optimizer.curvature_tape() as tape:
                evaluation = self._policy.evaluate(rows)
                log_likelihood = self._log_likelihood(evaluation, keys[1])
            self.optimizer.update_factors(tape, log_likelihood)
            return tf.constant(True)

        def inverses() -> tf.Tensor:
            self.optimizer.update_inverses()
            return tf.constant(True)

        clock.phase(
            "curvature",
            lambda: tf.cond(
                self.optimizer.factors_due(), factors, lambda: tf.constant(False)
            ),
        )
        clock.phase("inverses", inverses)

    def _after_step(
        self,
        observation: tf.Tensor,
        parameters: tf.Tensor,
        value: tf.Tensor,
        key: tf.Tensor,
    ) -> None:
        config = self._config
        if config.kl_target == 0 and config.kl_limit == 0:
            return
        rows, *outputs = (
            sample_rows(key, batch, config.curvature_fraction)
            for batch in (observation, parameters, value)
        )
        old = self._policy.evaluation(*outputs)
        kl = policy_kl(old, self._policy.evaluate(rows))
        if config.kl_target > 0:
            adapt = {
                "radius": control.adapt_radius,
                "learning_rate": control.adapt_learning_rate,
            }[config.kl_adaptation]
            adapt(self.optimizer, kl, self._kl_target())
        if config.kl_limit > 0:
            self._shorten(rows, old, kl)

    def _shorten(self, rows: tf.Tensor, old: Evaluation, kl: tf.Tensor) -> None:
        """Shortens the step just taken until its exact KL is within `kl_limit`."""
        limit = self._config.kl_limit

        def shorten(tries: tf.Tensor, kl: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            control.backtrack(self.optimizer, backtracking_factor(kl, limit))
            return tries + 1, policy_kl(old, self._policy.evaluate(rows))

        tf.while_loop(
            # A KL that is not a number is not within the limit either.
            lambda tries, kl: (tries < SHORTENINGS) & ~(kl <= limit),
            shorten,
            (tf.constant(0), kl),
            parallel_iterations=1,
        )

    def _kl_target(self) -> tf.Tensor:
        """The exact KL that the step taken last should have had."""
        return self._kl_target_schedule(self.optimizer.iterations.value - 1)

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
