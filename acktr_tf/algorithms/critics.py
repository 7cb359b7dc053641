"""What teaches a value network of its own: natural gradient, or plain."""

import abc

import keras
import tensorflow as tf

from acktr_tf.algorithms.plain import make_rmsprop
from acktr_tf.algorithms.sampling import sample_rows
from acktr_tf.algorithms.schedules import critic_learning_rate
from acktr_tf.config import Config
from acktr_tf.kfac import KFAC
from acktr_tf.policy import ActorCritic


def make_critic(config: Config, policy: ActorCritic) -> "Critic":
    """The critic that `config.critic_norm` names."""
    if config.critic_norm == "euclidean":
        return EuclideanCritic(config, policy)
    return GaussNewtonCritic(config, policy)


class Critic(abc.ABC):
    """Regresses the value on its targets, in some steps a batch.

    Args:
      config: The run's settings.
      policy: Whose value learns.
    """

    optimizer: keras.optimizers.Optimizer

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        self._config = config
        self._policy = policy
        self._variables = policy.value_network.trainable_variables

    @property
    def variables(self) -> list[keras.Variable]:
        """The critic's state."""
        return list(self.optimizer.variables)

    def update(self, observation: tf.Tensor, target: tf.Tensor, key: tf.Tensor) -> None:
        """Takes `critic_updates` steps.

        Args:
          observation: `[N, ...]`.
          target: `[N]`.
          key: `[2]`, random.
        """
        inputs = self._policy.network_inputs(observation)
        variance = self._variance(inputs, target)

        def step(taken: tf.Tensor) -> tuple[tf.Tensor]:
            mine = tf.random.experimental.stateless_fold_in(key, taken)
            self._step(inputs, target, variance, mine)
            return (taken + 1,)

        tf.while_loop(
            lambda taken: taken < self._config.critic_updates,
            step,
            (tf.constant(0),),
            parallel_iterations=1,
        )

    def _variance(self, inputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """σ² of the value's distribution N(V(s), σ²)."""
        return tf.constant(1.0)

    @abc.abstractmethod
    def _step(
        self,
        inputs: tf.Tensor,
        target: tf.Tensor,
        variance: tf.Tensor,
        key: tf.Tensor,
    ) -> None:
        """One step on −log N(R; V(s), σ²), but for its constant."""

    def predicted_kl(self) -> tf.Tensor:
        """Of the step taken last, in nats; nan without a Fisher matrix."""
        return tf.constant(float("nan"))

    @property
    def trust_region_scale(self) -> tf.Tensor:
        """Of the step taken last; nan without a trust region."""
        return tf.constant(float("nan"))

    def _value(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._policy.value_network(inputs)[:, 0]

    def _gradients(
        self, inputs: tf.Tensor, target: tf.Tensor, variance: tf.Tensor
    ) -> list[tf.Tensor]:
        """Of the mean of ½ (V(s) − R)² / σ²."""
        with tf.GradientTape() as tape:
            error = self._value(inputs) - target
            loss = 0.5 * tf.reduce_mean(tf.square(error)) / variance
        return tape.gradient(loss, self._variables)


class GaussNewtonCritic(Critic):
    """Natural gradient of a Gaussian value (Wu et al. 2017, section 3.1).

    The value's distribution is N(V(s), σ²), the Fisher matrix of which is the
    Gauss-Newton matrix E[∇V ∇Vᵀ] / σ². It needs no sampled targets: with one output,
    the gradient of a log-likelihood is ∇V times a number whose mean square is 1 / σ².
    Equation (16) of docs/kfac.md.
    """

    optimizer: KFAC

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        super().__init__(config, policy)
        self.optimizer = KFAC(
            learning_rate=critic_learning_rate(config),
            kl_radius=config.critic_kl_radius,
            momentum=config.critic_momentum,
            damping=config.critic_damping,
            factor_decay=config.critic_factor_decay,
            factor_update_period=1,
            patch_stride=config.patch_period,
            inverse_update_period=config.inverse_update_period,
            stagger_inverses=False,
            name="critic_kfac",
        )
        self.optimizer.attach(policy.value_network)

    def _variance(self, inputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        if self._config.critic_norm == "gauss_newton":
            return tf.constant(1.0)
        error = tf.reduce_mean(tf.square(self._value(inputs) - target))
        return tf.maximum(error, 1e-8)

    def _step(
        self,
        inputs: tf.Tensor,
        target: tf.Tensor,
        variance: tf.Tensor,
        key: tf.Tensor,
    ) -> None:
        rows = sample_rows(key, inputs, self._config.curvature_fraction)
        with self.optimizer.curvature_tape() as tape:
            root = self._value(rows) / tf.sqrt(variance)
        self.optimizer.update_curvature(tape, root)
        gradients = self._gradients(inputs, target, variance)
        self.optimizer.apply(gradients, self._variables)

    def predicted_kl(self) -> tf.Tensor:
        """Of the step taken last, in nats."""
        return self.optimizer.predicted_kl()

    @property
    def trust_region_scale(self) -> tf.Tensor:
        """Of the step taken last."""
        return self.optimizer.trust_region_scale


class EuclideanCritic(Critic):
    """Plain gradients with RMSprop, as A2C's."""

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        super().__init__(config, policy)
        self.optimizer = make_rmsprop(
            config, critic_learning_rate(config), self._variables
        )

    def _step(
        self,
        inputs: tf.Tensor,
        target: tf.Tensor,
        variance: tf.Tensor,
        key: tf.Tensor,
    ) -> None:
        gradients = self._gradients(inputs, target, variance)
        self.optimizer.apply(gradients, self._variables)
