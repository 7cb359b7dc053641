"""What crosses the borders between files: rollouts, batches, finished episodes."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

Metrics = Mapping[str, float]
"""Scalars of one update, by the names in `acktr_tf.runs.logs.SCALARS`."""


class Episode(NamedTuple):
    """A finished episode, as the simulator scored it.

    Attributes:
      episode_return: Undiscounted sum of raw rewards over the whole game.
      episode_length: Agent steps from the first observation to the end of the game.
    """

    episode_return: float
    episode_length: int


class Step(NamedTuple):
    """What `B` environments answer to `B` actions.

    Attributes:
      observation: `[B, ...]`, what to act on next, encoded for networks. Where an
        episode ended it is the first observation of the next one.
      reward: `[B]` float32, for learning (clipped where the settings ask for it).
      terminated: `[B]` bool, the state reached has no future: its value is zero.
      truncated: `[B]` bool, the episode was cut off (a time limit) in a state that does
        have a future. Never set together with `terminated`.
      final_observation: `[B, ...]`, the observations reached before any reset, or None
        when no environment was truncated (nothing else needs them).
      episodes: Games that ended with this step, with raw scores.
    """

    observation: npt.NDArray[np.generic]
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    final_observation: npt.NDArray[np.generic] | None
    episodes: list[Episode]


class Rollout(NamedTuple):
    """`T` steps of `B` environments under one policy, time-major.

    Attributes:
      observation: `[T, B, ...]`, encoded for networks.
      action: `[T, B, ...]`, to learn from.
      reward: `[T, B]` float32.
      terminated: `[T, B]` bool.
      truncated: `[T, B]` bool.
      value: `[T, B]` float32, V(observation) when acting.
      final_value: `[T, B]` float32, V of the final observation where `truncated`,
        else 0.
      last_value: `[B]` float32, V of the observation after the last step.
    """

    observation: npt.NDArray[np.generic]
    action: npt.NDArray[np.generic]
    reward: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float32]
    final_value: npt.NDArray[np.float32]
    last_value: npt.NDArray[np.float32]
