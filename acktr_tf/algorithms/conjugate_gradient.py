"""Stepper of the natural gradient with the exact Fisher matrix, by conjugate gradients.

The step of TRPO (Schulman et al. 2015, appendix C), and the yardstick of K-FAC, which
approximates it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from acktr_tf.algorithms.compiled import CompiledFunction
from acktr_tf.algorithms.steppers import NaturalGradient
from acktr_tf.kfac import sample_rows
from acktr_tf.kfac.trust_region import predicted_kl, step_size
from acktr_tf.states import State, load_variables, variables_state
from acktr_tf.types import Array

Vector = list[tf.Tensor]
"""One tensor per variable."""

LinearMap = Callable[[Vector], Vector]


class ConjugateGradient:
    """Steps of (F + λI)⁻¹∇ in a trust region, with F the Fisher matrix itself.

        Δ = (F + λI)⁻¹ ∇,   η = min(η_max, sqrt(2δ / ΔᵀFΔ)),   θ ← θ − ηΔ

    F is the Hessian of the mean KL divergence between the outputs of the network as it
    is and as it would be, and is used through its products with vectors only.

    Args:
      variables: Weights that it steps.
      outputs: Inputs `[N, ...]` → outputs of the network, a tensor or a nest of them.
      divergence: (old outputs, new outputs) → mean KL divergence, scalar, in nats.
      kl_radius: δ, the largest predicted KL ½ΔᵀFΔ of a step, in nats; None for no trust
        region.
      learning_rate: η_max.
      damping: λ.
      max_iterations: Products with F per step, at most.
      tolerance: Relative residual ‖(F + λI)Δ − ∇‖ / ‖∇‖ at which the iteration ends.
      fraction: Fraction of the inputs that F is of, drawn at random.
      preconditioner: K-FAC stepper of the same weights, whose inverse preconditions
        the iteration (`NaturalGradient`; it takes no step of its own); None for none.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        outputs: Callable[[tf.Tensor], Any],
        divergence: Callable[[Any, Any], tf.Tensor],
        *,
        kl_radius: float | None = 0.01,
        learning_rate: float = 1.0,
        damping: float = 0.1,
        max_iterations: int = 10,
        tolerance: float = 1e-5,
        fraction: float = 1.0,
        preconditioner: NaturalGradient | None = None,
    ) -> None:
        self.variables = list(variables)
        self._preconditioner = preconditioner
        self._rows: tf.Tensor | None = None
        self._iterations = _scalar("iterations", "int64")
        self._last_step = [
            keras.Variable(tf.zeros_like(v.value), trainable=False, name="last_step")
            for v in self.variables
        ]
        self._scalars = {
            name: _scalar(name, "float32")
            for name in (
                "predicted_kl",
                "trust_region_scale",
                "cg_iterations",
                "cg_residual",
            )
        }
        self._learning_rate = learning_rate

        def step(gradients: Vector, rows: tf.Tensor) -> None:
            fisher = fisher_product(self.variables, outputs, divergence, rows)

            def damped(vector: Vector) -> Vector:
                return add(fisher(vector), vector, damping)

            direction, products, residual = conjugate_gradient(
                damped,
                gradients,
                max_iterations,
                tolerance,
                _identity if preconditioner is None else preconditioner.precondition,
            )
            norm = inner_product(direction, fisher(direction))
            eta = tf.constant(learning_rate, norm.dtype)
            scale = tf.ones_like(eta)
            if kl_radius is not None:
                scale = step_size(eta, kl_radius, norm) / eta
            taken = [scale * eta * part for part in direction]
            for variable, last, part in zip(
                self.variables, self._last_step, taken, strict=True
            ):
                variable.assign_sub(part)
                last.assign(part)
            self._note(
                predicted_kl=predicted_kl((scale * eta) ** 2 * norm),
                trust_region_scale=scale,
                cg_iterations=products,
                cg_residual=residual,
            )
            self._iterations.assign_add(1)

        def backtrack(factor: tf.Tensor) -> None:
            for variable, last in zip(self.variables, self._last_step, strict=True):
                part = last.value
                kept = tf.cast(factor, part.dtype) * part
                variable.assign_add(part - kept)
                last.assign(kept)
            scalars = self._scalars
            factor = tf.cast(factor, tf.float32)
            self._note(
                predicted_kl=factor**2 * scalars["predicted_kl"].value,
                trust_region_scale=factor * scalars["trust_region_scale"].value,
            )

        self._sample = CompiledFunction(
            lambda inputs, key: sample_rows(key, inputs, fraction)
        )
        self._step = CompiledFunction(step)
        self._backtrack = CompiledFunction(backtrack)

    def update_curvature(self, inputs: tf.Tensor, key: tf.Tensor) -> None:
        """Keeps the inputs that the Fisher matrix of the next step is of."""
        self._rows = self._sample(inputs, key)
        if self._preconditioner is not None:
            self._preconditioner.update_curvature(inputs, key)

    def update_inverses(self) -> None:
        """Inverts the blocks of the preconditioner."""
        if self._preconditioner is not None:
            self._preconditioner.update_inverses()

    def step(self, gradients: Sequence[tf.Tensor]) -> None:
        """Takes one step.

        Raises:
          ValueError: `update_curvature` was not called before.
        """
        if self._rows is None:
            raise ValueError("Call `update_curvature` before `step`.")
        self._step(list(gradients), self._rows)

    def backtrack(self, factor: tf.Tensor) -> None:
        """Shortens the last step to `factor` times its length, scalar in (0, 1]."""
        self._backtrack(factor)

    @property
    def iterations(self) -> tf.Tensor:
        """Number of steps taken."""
        return self._iterations.value

    @property
    def learning_rate(self) -> tf.Tensor:
        """η_max."""
        return tf.constant(self._learning_rate)

    def describe(self) -> Mapping[str, tf.Tensor]:
        """Returns scalars about the last step: the KL predicted, the solve."""
        return {name: variable.value for name, variable in self._scalars.items()}

    def measure(self) -> Mapping[str, tf.Tensor]:
        """Returns nothing more than `describe`."""
        return {}

    def state(self) -> dict[str, Array]:
        """Returns the number of steps, the last step and the preconditioner's state."""
        return variables_state(self._variables())

    def load_state(self, state: State) -> None:
        """Loads what `state` returned."""
        load_variables(self._variables(), state)

    def _variables(self) -> list[keras.Variable]:
        own = [self._iterations, *self._last_step, *self._scalars.values()]
        if self._preconditioner is None:
            return own
        return [*own, *self._preconditioner.optimizer.variables]

    def _note(self, **scalars: tf.Tensor) -> None:
        for name, value in scalars.items():
            self._scalars[name].assign(tf.cast(value, tf.float32))


def fisher_product(
    variables: Sequence[keras.Variable],
    outputs: Callable[[tf.Tensor], Any],
    divergence: Callable[[Any, Any], tf.Tensor],
    inputs: tf.Tensor,
) -> LinearMap:
    """Returns the exact product with the Fisher matrix: v → F v.

    F is the Hessian of D(f(θ₀), f(θ)) in θ at θ = θ₀, with D the mean KL divergence
    between outputs f. There the gradient of D is zero, so that the second derivatives
    of f do not count and F = E[Jᵀ M J], with M the Fisher matrix of the outputs'
    distribution (Schulman et al. 2015, appendix C.1; Pascanu & Bengio 2014). The
    product is the forward-mode derivative of the gradient of D along v.

    Args:
      variables: Weights θ.
      outputs: See `ConjugateGradient`.
      divergence: See `ConjugateGradient`.
      inputs: `[N, ...]`.
    """
    weights = [variable.value for variable in variables]
    old = tf.nest.map_structure(tf.stop_gradient, outputs(inputs))

    def product(vector: Vector) -> Vector:
        with tf.autodiff.ForwardAccumulator(weights, vector) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                distance = divergence(old, outputs(inputs))
            gradients = tape.gradient(
                distance, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
        found: Vector = accumulator.jvp(
            gradients, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return found

    return product


def conjugate_gradient(
    matrix: LinearMap,
    target: Vector,
    max_iterations: int,
    tolerance: float,
    preconditioner: LinearMap,
) -> tuple[Vector, tf.Tensor, tf.Tensor]:
    """Solves A x = b by preconditioned conjugate gradients (Hestenes & Stiefel 1952).

    Args:
      matrix: Product with A, symmetric and positive definite.
      target: b.
      max_iterations: Products with A, at most.
      tolerance: Relative residual ‖b − A x‖ / ‖b‖ at which the iteration ends.
      preconditioner: Product with an approximation of A⁻¹, symmetric and positive
        definite.

    Returns:
      x, the number of products, and the relative residual; x is 0 where b is.
    """
    size = tf.sqrt(inner_product(target, target))

    def relative(residual: Vector) -> tf.Tensor:
        return tf.math.divide_no_nan(tf.sqrt(inner_product(residual, residual)), size)

    def go_on(count: tf.Tensor, x: Vector, residual: Vector, *rest: Any) -> tf.Tensor:
        # A residual that is not a number ends the iteration.
        return (count < max_iterations) & (relative(residual) > tolerance)

    def iterate(
        count: tf.Tensor, x: Vector, residual: Vector, direction: Vector, rho: tf.Tensor
    ) -> tuple[Any, ...]:
        product = matrix(direction)
        alpha = tf.math.divide_no_nan(rho, inner_product(direction, product))
        x, residual = add(x, direction, alpha), add(residual, product, -alpha)
        conditioned = preconditioner(residual)
        new = inner_product(residual, conditioned)
        beta = tf.math.divide_no_nan(new, rho)
        return count + 1, x, residual, add(conditioned, direction, beta), new

    conditioned = preconditioner(target)
    count, x, residual, _, _ = tf.while_loop(
        go_on,
        iterate,
        (
            tf.constant(0),
            [tf.zeros_like(part) for part in target],
            list(target),
            conditioned,
            inner_product(target, conditioned),
        ),
        parallel_iterations=1,
    )
    return x, count, relative(residual)


def inner_product(left: Vector, right: Vector) -> tf.Tensor:
    """Returns the sum of the products of all elements, scalar."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(left, right, strict=True)])


def add(left: Vector, right: Vector, factor: float | tf.Tensor) -> Vector:
    """Returns `left + factor * right`."""
    return [x + factor * y for x, y in zip(left, right, strict=True)]


def _identity(vector: Vector) -> Vector:
    return vector


def _scalar(name: str, dtype: str) -> keras.Variable:
    return keras.Variable(0, dtype=dtype, trainable=False, name=name)
