"""What one update learns from: a rollout with its advantages and targets, as rows."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acktr_tf.algorithms.returns import generalized_advantages
from acktr_tf.types import Rollout


class Batch(NamedTuple):
    """A rollout laid out for learning, `N = T·B` rows.

    Attributes:
      observation: `[N, ...]`.
      action: `[N, ...]`.
      advantage: `[N]` float32.
      target: `[N]` float32, what the value regresses on.
    """

    observation: npt.NDArray[Any]
    action: npt.NDArray[Any]
    advantage: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]


def make_batch(
    rollout: Rollout, discount: float, gae_lambda: float, value_lambda: float
) -> Batch:
    """The batch of a rollout, step by step and environment by environment.

    Args:
      rollout: `T` steps of `B` environments.
      discount: γ.
      gae_lambda: λ of the advantages; see `returns.generalized_advantages`.
      value_lambda: λ of the targets, A + V: with 1 they are bootstrapped at the end of
        the rollout only.

    Returns:
      Of `T·B` rows; it shares the observations' and the actions' memory with the
      rollout.
    """

    def advantages(decay: float) -> npt.NDArray[Any]:
        return generalized_advantages(
            rollout.reward,
            rollout.terminated,
            rollout.truncated,
            rollout.value,
            rollout.final_value,
            rollout.last_value,
            discount,
            decay,
        )

    def flat(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.reshape(-1, *array.shape[2:])

    advantage = surprise = advantages(gae_lambda)
    if value_lambda != gae_lambda:
        surprise = advantages(value_lambda)
    return Batch(
        flat(rollout.observation),
        flat(rollout.action),
        flat(advantage),
        flat(surprise + rollout.value),
    )
