"""Step rules: how the natural gradient and the step before make the next step.

Equation numbers are those of docs/kfac.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf

from acktr_tf.kfac.curvature import Curvature, inner_product
from acktr_tf.kfac.quadratic import quadratic_step
from acktr_tf.kfac.trust_region import step_size

FisherInnerProducts = Callable[[Sequence[Sequence[tf.Tensor]]], tf.Tensor]
"""Returns the inner products `[D, D]` of D directions in the metric of the Fisher
matrix. A direction is a list with one tensor per trainable variable."""


class Directions(NamedTuple):
    """Quantities that a step is made of; lists have one matrix per block.

    Attributes:
      gradients: g, of the loss.
      natural: Δ = F⁻¹ g, the natural gradient, by the damped blocks.
      damped_norm: ⟨g, F⁻¹ g⟩ = ΔᵀFΔ in the damped metric, scalar.
      velocities: v, the step before.
      learning_rate: η_max, scalar.
      radius: Function that returns δ, scalar; None without a trust region.
      damping: Function that returns λ in force, scalar.
    """

    gradients: Sequence[tf.Tensor]
    natural: Sequence[tf.Tensor]
    damped_norm: tf.Tensor
    velocities: Sequence[tf.Tensor]
    learning_rate: tf.Tensor
    radius: Callable[[], tf.Tensor] | None
    damping: Callable[[], tf.Tensor]


class Step(NamedTuple):
    """Step that a rule chose.

    Attributes:
      matrices: v, which is subtracted from the weights, one matrix per block.
      scale: Factor by which the trust region shortened it, scalar in (0, 1].
      predicted_change: Change of the loss that the rule's quadratic model predicts,
        scalar; None if the rule has no such model.
    """

    matrices: list[tf.Tensor]
    scale: tf.Tensor
    predicted_change: tf.Tensor | None = None


class StepRule(Protocol):
    """Rule that chooses the step."""

    def __call__(self, directions: Directions, curvature: Curvature) -> Step:
        """Returns the step.

        Args:
          directions: Quantities that it is made of.
          curvature: Fisher matrix of the model.
        """


class Momentum:
    """Running mean of steps inside the trust region. Equations (11), (13).

        v ← μ v + (1 − μ) η Δ

    Args:
      momentum: μ.
      bound: What the radius bounds: "direction", ηΔ; or "update", v.
    """

    def __init__(self, momentum: float, bound: str) -> None:
        self._momentum = momentum
        self._bound = bound

    def __call__(self, directions: Directions, curvature: Curvature) -> Step:
        """Returns the step; see `StepRule`.

        Args:
          directions: See `StepRule`.
          curvature: See `StepRule`.
        """
        eta = self._step_size(directions)
        velocities = [
            self._momentum * old + (1.0 - self._momentum) * eta * direction
            for old, direction in zip(
                directions.velocities, directions.natural, strict=True
            )
        ]
        shrink = tf.constant(1.0)
        if directions.radius is not None and self._bound == "update":
            squared_norm = curvature.squared_norm(velocities)
            shrink = step_size(shrink, directions.radius(), squared_norm)
        rate = tf.cast(directions.learning_rate, eta.dtype)
        return Step(
            [shrink * velocity for velocity in velocities],
            tf.math.divide_no_nan(shrink * eta, rate),
        )

    def _step_size(self, directions: Directions) -> tf.Tensor:
        rate, squared_norm = directions.learning_rate, directions.damped_norm
        if directions.radius is None or self._bound != "direction":
            return tf.cast(rate, squared_norm.dtype)
        return step_size(rate, directions.radius(), squared_norm)


class QuadraticModel:
    """Step αΔ + βv that minimizes a quadratic model of the loss. Equation (19).

    Args:
      fisher_inner_products: Inner products in the metric of the exact Fisher matrix of
        the batch.
      variables: Trainable variables in the order in which it wants their tensors.
    """

    def __init__(
        self,
        fisher_inner_products: FisherInnerProducts,
        variables: Sequence[object],
    ) -> None:
        self._fisher_inner_products = fisher_inner_products
        self._variables = variables

    def __call__(self, directions: Directions, curvature: Curvature) -> Step:
        """Returns the step; see `StepRule`.

        Args:
          directions: See `StepRule`.
          curvature: See `StepRule`.
        """
        pair = [directions.natural, directions.velocities]
        tensors = [curvature.from_matrices(each) for each in pair]
        fisher = self._fisher_inner_products(
            [[each[id(v)] for v in self._variables] for each in tensors]
        )
        euclidean = tf.stack(
            [tf.stack([inner_product(x, y) for y in pair]) for x in pair]
        )
        slope = tf.stack([inner_product(directions.gradients, each) for each in pair])
        damped = fisher + directions.damping() * euclidean
        rate = tf.cast(directions.learning_rate, damped.dtype)
        weights = rate * quadratic_step(damped, slope)
        scale = tf.constant(1.0)
        if directions.radius is not None:
            norm = tf.tensordot(weights, tf.linalg.matvec(fisher, weights), 1)
            scale = step_size(scale, directions.radius(), norm)
        weights *= scale
        predicted = 0.5 * tf.tensordot(
            weights, tf.linalg.matvec(damped, weights), 1
        ) - tf.tensordot(weights, slope, 1)
        matrices = [
            weights[0] * natural + weights[1] * before
            for natural, before in zip(*pair, strict=True)
        ]
        return Step(matrices, scale, predicted)
