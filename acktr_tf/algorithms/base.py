"""What ACKTR and A2C share: the loss, its gradient, and what is reported of a step."""

import abc
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from acktr_tf.algorithms import schedules
from acktr_tf.algorithms.batches import Batch
from acktr_tf.algorithms.losses import Losses, actor_critic_loss, policy_kl, value_kl
from acktr_tf.config.config import Config
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.random_keys import KeyStream


class PhaseClock:
    """Wall time of the parts of a tf.function, taken inside of it.

    Each part is a function of its own, which starts when the part before it has ended
    with all of its side effects.
    """

    def __init__(self) -> None:
        self._now = _now()
        self.seconds: dict[str, tf.Tensor] = {}

    def phase(self, name: str, part: Callable[[], Any]) -> Any:
        """Runs `part`, which must return at least one tensor, and times it."""
        with tf.control_dependencies([self._now]):
            result = tf.function(part, autograph=False)()
        # The copies cost nothing, and wait for the values and not just side effects.
        result = tf.nest.map_structure(tf.identity, result)
        with tf.control_dependencies(tf.nest.flatten(result)):
            now = _now()
        self.seconds[name] = now - self._now
        self._now = now
        return result


def _now() -> tf.Tensor:
    # Not tf.timestamp, which refuses to run with --deterministic.
    now = tf.numpy_function(time.perf_counter, [], tf.float64)
    now.set_shape([])
    return now


class Algorithm(abc.ABC):
    """Learns from batches: `update` is one compiled step.

    Args:
      config: The run's settings.
      policy: What learns.

    Attributes:
      optimizer: That of the loss.
    """

    def __init__(self, config: Config, policy: ActorCritic) -> None:
        self._config = config
        self._policy = policy
        self._keys = KeyStream(config.seed, "update")
        self._entropy_cost = schedules.entropy_cost(config)
        self.optimizer = self._make_optimizer()
        rows = config.batch_size
        observation, action = policy.observation_spec, policy.actions.spec
        self.compiled_update = tf.function(
            self._update,
            autograph=False,
            input_signature=[
                tf.TensorSpec([rows, *observation.shape[1:]], observation.dtype),
                tf.TensorSpec([rows, *action.shape], action.dtype),
                tf.TensorSpec([rows], tf.float32),
                tf.TensorSpec([rows], tf.float32),
                tf.TensorSpec([2], tf.int32),
                tf.TensorSpec([], tf.bool),
            ],
        )

    @abc.abstractmethod
    def _make_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer, built."""

    @property
    def variables(self) -> list[keras.Variable]:
        """The algorithm's state."""
        return list(self.optimizer.variables)

    @property
    def _trained_variables(self) -> list[keras.Variable]:
        """What the optimizer steps."""
        return list(self._policy.network.trainable_variables)

    def _update_curvature(  # noqa: B027 (plain gradients need nothing)
        self, observation: tf.Tensor, key: tf.Tensor, clock: PhaseClock
    ) -> None:
        """Prepares the optimizer with what it must know beside the gradient."""

    def _after_step(  # noqa: B027 (most steps leave nothing to do)
        self,
        observation: tf.Tensor,
        parameters: tf.Tensor,
        value: tf.Tensor,
        key: tf.Tensor,
    ) -> None:
        """What a step is followed by.

        Args:
          observation: `[N, ...]`, the batch.
          parameters: `[N, P]`, those of the policy on it before the step.
          value: `[N]`, the value of it before the step.
          key: `[2]`, the update's random key.
        """

    def _update_critic(  # noqa: B027 (a joint loss has taught the value already)
        self,
        observation: tf.Tensor,
        target: tf.Tensor,
        key: tf.Tensor,
        finite: tf.Tensor,
        clock: PhaseClock,
    ) -> None:
        """Teaches a value that the loss' optimizer does not step.

        Args:
          observation: `[N, ...]`, the batch.
          target: `[N]`, what the value regresses on.
          key: `[2]`, the update's random key.
          finite: Whether the losses and gradients were; nothing may be learnt if not.
          clock: Times it.
        """

    def _measure_step(self) -> dict[str, tf.Tensor]:
        """Scalars about the step just taken that are costly: made only when logged."""
        return {}

    def _describe_step(self) -> dict[str, tf.Tensor]:
        """Scalars about the step just taken that cost nothing."""
        return {}

    def update(self, batch: Batch, index: int, measure: bool) -> dict[str, float]:
        """Takes one step.

        Args:
          batch: What to learn from.
          index: Updates so far.
          measure: Whether to compute the scalars that cost a forward pass, such as the
            exact KL; they are nan otherwise.

        Returns:
          Scalars by name, and the seconds of each phase as `seconds_<phase>`. A step
          whose gradient was not finite was not taken; `finite` is 0 then.
        """
        scalars = self.compiled_update(
            *batch, self._keys.key(index), tf.constant(measure)
        )
        return {name: float(value) for name, value in scalars.items()}

    def _update(
        self,
        observation: tf.Tensor,
        action: tf.Tensor,
        advantage: tf.Tensor,
        target: tf.Tensor,
        key: tf.Tensor,
        measure: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        clock = PhaseClock()
        self._update_curvature(observation, key, clock)
        variables = self._trained_variables
        entropy_cost = self._entropy_cost(self.optimizer.iterations.value)

        def gradients_of_loss() -> Any:
            with tf.GradientTape() as tape:
                parameters, value = self._policy.forward(observation)
                evaluation = self._policy.evaluation(parameters, value)
                losses = actor_critic_loss(
                    evaluation,
                    action,
                    advantage,
                    target,
                    entropy_cost,
                    self._config.value_cost,
                )
            return parameters, value, losses, tape.gradient(losses.total, variables)

        parameters, value, losses, gradients = clock.phase(
            "gradients", gradients_of_loss
        )
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(losses.total)
        learning_rate = tf.identity(self.optimizer.learning_rate)

        def step() -> tf.Tensor:
            self.optimizer.apply(gradients, variables)
            self._after_step(observation, parameters, value, key)
            return tf.constant(True)

        clock.phase("step", lambda: tf.cond(finite, step, lambda: tf.constant(False)))
        self._update_critic(observation, target, key, finite, clock)
        old = self._policy.evaluation(parameters, value)

        def measured() -> dict[str, tf.Tensor]:
            new = self._policy.evaluate(observation)
            exact_kl = policy_kl(old, new)
            return {
                "exact_kl": exact_kl,
                "exact_kl_joint": exact_kl + value_kl(old, new),
                **self._measure_step(),
            }

        def not_measured() -> dict[str, tf.Tensor]:
            return dict.fromkeys(measured_names, tf.constant(float("nan")))

        measured_names = ["exact_kl", "exact_kl_joint", *self._measured_names]
        measurements = clock.phase(
            "measurements", lambda: tf.cond(measure, measured, not_measured)
        )
        return {
            **_describe_losses(losses, target, old.value),
            "gradient_norm": norm,
            "learning_rate": learning_rate,
            "entropy_cost": entropy_cost,
            "finite": tf.cast(finite, tf.float32),
            **self._describe_step(),
            **measurements,
            **{f"seconds_{name}": time for name, time in clock.seconds.items()},
        }

    _measured_names: tuple[str, ...] = ()


def _describe_losses(
    losses: Losses, target: tf.Tensor, value: tf.Tensor
) -> dict[str, tf.Tensor]:
    variance = tf.math.reduce_variance(target)
    unexplained = tf.math.reduce_variance(target - value)
    return {
        "policy_loss": losses.policy,
        "value_loss": losses.value,
        "entropy": losses.entropy,
        # Targets that are all the same leave nothing to explain.
        "explained_variance": tf.where(
            variance > 0.0, 1.0 - unexplained / variance, float("nan")
        ),
    }
