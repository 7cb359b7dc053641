"""Acceptance: what follows a step, by the exact KL that it had."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from acktr_tf.algorithms.compiled import CompiledFunction
from acktr_tf.kfac import KFAC, control
from acktr_tf.kfac.trust_region import backtracking_factor

MAX_BACKTRACKS = 10
"""At a tenth each, nothing is left of a step after these."""

KL = Callable[[], tf.Tensor]
"""Returns the exact KL of the last step as it is now, scalar, in nats."""


class KLController:
    """Adapts a K-FAC optimizer so that the exact KL of its steps reaches a target.

    Args:
      kfac: The optimizer.
      target: Number of steps so far → KL that the next one should have, in nats; None
        adapts nothing.
      adapts: "radius" or "learning_rate".
    """

    def __init__(
        self,
        kfac: KFAC,
        target: Callable[[tf.Tensor], tf.Tensor] | None,
        adapts: str,
    ) -> None:
        self._kfac = kfac
        self._target = target
        adapt = {
            "radius": control.adapt_radius,
            "learning_rate": control.adapt_learning_rate,
        }[adapts]
        self._adapt = CompiledFunction(lambda kl: adapt(kfac, kl, self.target()))

    def target(self) -> tf.Tensor:
        """Returns the KL that the last step should have had; nan without a target."""
        if self._target is None:
            return tf.constant(float("nan"))
        return self._target(self._kfac.iterations.value - 1)

    def __call__(self, kl: KL) -> None:
        """Adapts the optimizer after a step."""
        if self._target is not None:
            self._adapt(kl())


class Backtracking(Protocol):
    """Stepper whose last step can be shortened."""

    def backtrack(self, factor: tf.Tensor) -> None:
        """Shortens the last step to `factor` times its length."""


def backtrack(stepper: Backtracking, kl: KL, max_kl: float | None) -> None:
    """Shortens the last step until its exact KL is at most `max_kl`.

    A KL that is not a number is beyond every limit. After `MAX_BACKTRACKS` what is left
    of the step is accepted.

    Args:
      stepper: Stepper that took the step.
      kl: Returns the exact KL of the step.
      max_kl: Largest KL accepted, in nats; None accepts every step.
    """
    if max_kl is None:
        return
    for _ in range(MAX_BACKTRACKS):
        found = kl()
        if float(found) <= np.float32(max_kl):
            return
        stepper.backtrack(backtracking_factor(found, max_kl))
