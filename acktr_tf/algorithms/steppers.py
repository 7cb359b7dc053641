"""Steppers: how the gradient of a loss becomes a step of the weights.

The one place where first-order and second-order methods differ. A stepper is told the
inputs of a batch before the gradient is applied, and then the gradient:

    stepper.update_curvature(inputs, key)    curvature of the network at these inputs
    stepper.update_inverses()                whatever of it has to be inverted
    stepper.step(gradients)                  the step

Every method is compiled, and may be called in a graph as well.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import keras
import tensorflow as tf

from acktr_tf.algorithms.compiled import CompiledFunction
from acktr_tf.kfac import KFAC, control, sample_rows
from acktr_tf.states import State, load_variables, variables_state
from acktr_tf.types import Array

LogLikelihood = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(inputs `[N, ...]`, key `[2]`) → log-likelihoods `[N]` of sampled outputs."""


class Stepper(Protocol):
    """Steps the weights of one network along gradients."""

    @property
    def variables(self) -> Sequence[keras.Variable]:
        """Weights that it steps."""

    def update_curvature(self, inputs: tf.Tensor, key: tf.Tensor) -> None:
        """Takes note of the curvature at `inputs` `[N, ...]`, with a random key."""

    def update_inverses(self) -> None:
        """Prepares the steps to come from the curvature noted so far."""

    def step(self, gradients: Sequence[tf.Tensor]) -> None:
        """Takes one step along gradients, one per variable."""

    @property
    def iterations(self) -> tf.Tensor:
        """Number of steps taken, scalar."""

    @property
    def learning_rate(self) -> tf.Tensor:
        """Learning rate of the next step, scalar."""

    def describe(self) -> Mapping[str, tf.Tensor]:
        """Returns scalars about the last step that cost nothing."""

    def measure(self) -> Mapping[str, tf.Tensor]:
        """Returns scalars about the last step that take a computation."""

    def state(self) -> dict[str, Array]:
        """Returns all that decides its future; see `acktr_tf.states`."""

    def load_state(self, state: State) -> None:
        """Loads what `state` returned."""


class FirstOrder:
    """Steps of any Keras optimizer.

    Args:
      optimizer: The optimizer, built for `variables`.
      variables: Weights that it steps.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
    ) -> None:
        self.optimizer = optimizer
        self.variables: Sequence[keras.Variable] = list(variables)
        self._apply = CompiledFunction(
            lambda gradients: optimizer.apply(gradients, self.variables)
        )

    def update_curvature(self, inputs: tf.Tensor, key: tf.Tensor) -> None:
        """Does nothing: the gradient is all that is needed."""

    def update_inverses(self) -> None:
        """Does nothing."""

    def step(self, gradients: Sequence[tf.Tensor]) -> None:
        """Applies the optimizer."""
        self._apply(list(gradients))

    @property
    def iterations(self) -> tf.Tensor:
        """Number of steps taken."""
        return self.optimizer.iterations.value

    @property
    def learning_rate(self) -> tf.Tensor:
        """Learning rate of the next step."""
        return tf.identity(self.optimizer.learning_rate)

    def describe(self) -> Mapping[str, tf.Tensor]:
        """Returns nothing."""
        return {}

    def measure(self) -> Mapping[str, tf.Tensor]:
        """Returns nothing."""
        return {}

    def state(self) -> dict[str, Array]:
        """Returns the state of the optimizer."""
        return variables_state(self.optimizer.variables)

    def load_state(self, state: State) -> None:
        """Loads the state of the optimizer."""
        load_variables(self.optimizer.variables, state)


class NaturalGradient(FirstOrder):
    """Steps of K-FAC (Wu et al. 2017, section 3): F⁻¹∇ in a trust region.

    F is the Fisher matrix of a network, the second moment of the gradient of
    log-likelihoods of outputs that the network draws itself.

    Args:
      kfac: K-FAC optimizer, attached to the network.
      log_likelihood: Log-likelihoods of sampled outputs.
      fraction: Fraction of the inputs that the curvature is estimated from, drawn at
        random.
    """

    optimizer: KFAC

    def __init__(
        self, kfac: KFAC, log_likelihood: LogLikelihood, fraction: float
    ) -> None:
        super().__init__(kfac, kfac.curvature.variables)

        def update_factors(inputs: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
            rows_key, sampling_key = tf.unstack(tf.random.split(key, 2))
            rows = sample_rows(rows_key, inputs, fraction)
            with kfac.curvature_tape() as tape:
                likelihood = log_likelihood(rows, sampling_key)
            kfac.update_factors(tape, likelihood)
            return tf.constant(True)

        def update_if_due(inputs: tf.Tensor, key: tf.Tensor) -> None:
            tf.cond(
                kfac.factors_due(),
                lambda: update_factors(inputs, key),
                lambda: tf.constant(False),
            )

        def describe() -> Mapping[str, tf.Tensor]:
            no_radius = tf.constant(float("nan"))
            return {
                "trust_region_scale": kfac.trust_region_scale,
                "kl_radius": no_radius if kfac.kl_radius is None else kfac.radius,
                "damping": kfac.current_damping,
                "failed_factorizations": kfac.failed_factorizations,
            }

        self._update_curvature = CompiledFunction(update_if_due)
        self._update_inverses = CompiledFunction(kfac.update_inverses)
        self._backtrack = CompiledFunction(
            lambda factor: control.backtrack(kfac, factor)
        )
        self._describe = CompiledFunction(describe)
        self._measure = CompiledFunction(lambda: {"predicted_kl": kfac.predicted_kl()})

    def update_curvature(self, inputs: tf.Tensor, key: tf.Tensor) -> None:
        """Moves the Kronecker factors towards those of the batch, if they are due."""
        self._update_curvature(inputs, key)

    def update_inverses(self) -> None:
        """Inverts the blocks that are due."""
        self._update_inverses()

    def precondition(self, vector: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns F⁻¹ times a vector, one tensor per variable, without a step."""
        curvature = self.optimizer.curvature
        found = curvature.from_matrices(
            curvature.multiply_inverse(
                curvature.to_matrices(
                    {
                        id(variable): part
                        for variable, part in zip(self.variables, vector, strict=True)
                    }
                )
            )
        )
        return [found[id(variable)] for variable in self.variables]

    def backtrack(self, factor: tf.Tensor) -> None:
        """Shortens the last step to `factor` times its length, scalar in (0, 1]."""
        self._backtrack(factor)

    def describe(self) -> Mapping[str, tf.Tensor]:
        """Returns the state of the trust region and of the inversions."""
        return self._describe()

    def measure(self) -> Mapping[str, tf.Tensor]:
        """Returns the predicted KL of the last step; costs two products per layer."""
        return self._measure()
