"""Actions since environments were last seeded: recorded, and replayed."""

import numpy as np
import numpy.typing as npt

from acktr_tf.types import Array


class ActionHistory:
    """Records the actions of `B` environments since each was last seeded.

    Args:
      num_envs: `B`.

    Attributes:
      steps_since_seed: `[B]`, how many of the last actions belong to each environment.
    """

    def __init__(self, num_envs: int) -> None:
        self.steps_since_seed = np.zeros(num_envs, np.int64)
        self._actions: list[Array] = []

    def record(self, actions: Array) -> None:
        """Adds the actions `[B, ...]` of one step."""
        self._actions.append(np.array(actions))
        self.steps_since_seed += 1
        # Actions from before all seeds are dropped, now and then.
        needed = self.steps_since_seed.max()
        if len(self._actions) > 2 * needed + 1000:
            del self._actions[: -needed or None]

    def forget(self, environment: int) -> None:
        """Drops the actions of an environment that is seeded anew."""
        self.steps_since_seed[environment] = 0

    def flat(self) -> Array:
        """Returns the actions since each seed, those of one environment together."""
        actions = np.array(self._actions)
        if not len(actions):
            return actions
        return np.concatenate(
            [
                actions[len(actions) - steps :, i]
                for i, steps in enumerate(self.steps_since_seed)
            ]
        )


class Replay:
    """Recorded actions, in an order in which all environments arrive together.

    The environment that was seeded the longest ago starts first, and the others join
    later. Until an environment joins, it takes some recorded action.

    Args:
      actions: As `ActionHistory.flat` returns them.
      steps_since_seed: `[B]`.

    Attributes:
      length: Steps of the replay.
    """

    def __init__(self, actions: Array, steps_since_seed: Array) -> None:
        self.length = int(steps_since_seed.max(initial=0))
        self._starts = self.length - steps_since_seed
        self._histories = np.split(actions, np.cumsum(steps_since_seed)[:-1])
        self._idle = actions[:1]

    def joining(self, step: int) -> npt.NDArray[np.bool_]:
        """Returns `[B]`, which environments are to be seeded before this step."""
        joining: npt.NDArray[np.bool_] = self._starts == step
        return joining

    def actions(self, step: int) -> Array:
        """Returns the actions `[B, ...]` of this step."""
        actions = np.repeat(self._idle, len(self._starts), axis=0)
        for i in np.flatnonzero(self._starts <= step):
            actions[i] = self._histories[i][step - self._starts[i]]
        return actions
