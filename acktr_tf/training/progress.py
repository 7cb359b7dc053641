"""Progress of a run: counters, recent episodes, time, and what the time is spent on."""

import collections
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import psutil

from acktr_tf.states import State, StateError, checked_array, checked_number
from acktr_tf.types import Array, Episode

RECENT_EPISODES = 100


class Best(NamedTuple):
    """Best evaluation of a run.

    Attributes:
      mean: Mean return.
      step: Agent steps of the run then.
    """

    mean: float
    step: int


class Progress:
    """Counters of a run.

    Args:
      batch_size: Agent steps per update.

    Attributes:
      updates: Updates done.
      episodes: Episodes finished.
      best: Best evaluation so far, or None.
    """

    def __init__(self, batch_size: int) -> None:
        self.updates = 0
        self.episodes = 0
        self.best: Best | None = None
        self._batch_size = batch_size
        self._recent: collections.deque[Episode] = collections.deque(
            maxlen=RECENT_EPISODES
        )
        self._seconds_before = 0.0
        self._started = time.monotonic()

    @property
    def step(self) -> int:
        """Agent steps done."""
        return self.updates * self._batch_size

    @property
    def seconds(self) -> float:
        """Wall time of the run, all its continuations together."""
        return self._seconds_before + time.monotonic() - self._started

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """Counts finished episodes."""
        self._recent.extend(episodes)
        self.episodes += len(episodes)

    def episode_scalars(self) -> dict[str, float]:
        """Returns the means of recent episodes, and their number."""
        returns = [episode.episode_return for episode in self._recent]
        lengths = [episode.episode_length for episode in self._recent]
        return {
            "episode_return": float(np.mean(returns)) if returns else math.nan,
            "episode_length": float(np.mean(lengths)) if lengths else math.nan,
            "episodes": self.episodes,
        }

    def state(self) -> dict[str, Array]:
        """Returns the counters; see `acktr_tf.states`."""
        return {
            "updates": np.array(self.updates),
            "episodes": np.array(self.episodes),
            "recent": np.array(self._recent, np.float64).reshape(-1, 2),
            "best": np.array(self.best or (), np.float64),
            "seconds": np.array(self.seconds),
        }

    def load_state(self, state: State) -> None:
        """Loads what `state` returned.

        Raises:
          StateError: It is not the state of such counters.
        """
        self.updates = int(checked_number(state, "updates", "i", 0))
        self.episodes = int(checked_number(state, "episodes", "i", 0))
        recent = checked_array(state, "recent", "f", (None, 2))
        self._recent.clear()
        self._recent.extend(
            Episode(float(score), int(length)) for score, length in recent
        )
        best = checked_array(state, "best", "f", (None,))
        if len(best) not in (0, 2):
            raise StateError(f"best has {len(best)} numbers instead of 0 or 2")
        self.best = Best(float(best[0]), int(best[1])) if len(best) else None
        self._seconds_before = checked_number(state, "seconds", "f", 0)
        self._started = time.monotonic()


class Stopwatch:
    """Speed, and shares of the time by phase, since the last report.

    Args:
      phases: Names of the phases that are reported.
    """

    def __init__(self, phases: Sequence[str]) -> None:
        self._phases = tuple(phases)
        self.restart(0)

    def restart(self, step: int) -> None:
        """Begins anew at `step`."""
        self._step = step
        self._begin = time.monotonic()
        self._seconds = dict.fromkeys(self._phases, 0.0)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds wall time spent in phases."""
        for phase, spent in seconds.items():
            self._seconds[phase] += spent

    def scalars(self, step: int) -> dict[str, float]:
        """Returns speed and shares since the last call, and begins anew."""
        elapsed = time.monotonic() - self._begin
        shares = {
            f"share_{phase}": spent / elapsed for phase, spent in self._seconds.items()
        }
        speed = (step - self._step) / elapsed
        self.restart(step)
        return {
            **shares,
            "share_other": 1.0 - sum(shares.values()),
            "steps_per_second": speed,
        }


def resident_memory() -> float:
    """Returns the resident memory of the process, in MiB."""
    return float(psutil.Process().memory_info().rss / 2**20)
