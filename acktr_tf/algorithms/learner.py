"""Learner: an algorithm as the training loop sees it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import keras
import numpy.typing as npt

from acktr_tf.config.kfac import KFACSettings
from acktr_tf.policies.actor_critic import ActorCritic, PolicyStep
from acktr_tf.states import State
from acktr_tf.types import Array, Rollout, Scalar


class Plan(NamedTuple):
    """Plan of a run, as far as an algorithm depends on it.

    Attributes:
      total_updates: Updates of the whole run.
      batch_size: Samples in each rollout, `T·B`.
      seed: Seed of everything random.
    """

    total_updates: int
    batch_size: int
    seed: int


class Update(NamedTuple):
    """Outcome of one update.

    Attributes:
      metrics: Scalars by name; each is one of the learner's `scalars`.
      seconds: Phase → wall time spent in it; each is one of the learner's `phases`.
      applied: Whether the step was taken; not if a loss or gradient was not finite.
    """

    metrics: dict[str, float]
    seconds: dict[str, float]
    applied: bool


class KFACNetwork(NamedTuple):
    """Network that an algorithm steps by K-FAC.

    Attributes:
      prefix: Prefix of the paths of the optimizer's settings, such as `critic.`.
      settings: Settings of the optimizer.
      network: The network.
    """

    prefix: str
    settings: KFACSettings
    network: keras.Model


class Learner(Protocol):
    """Algorithm: turns rollouts into a better policy.

    A class of one is given `(settings, returns, policy, plan)`: its own group of
    settings, `ReturnsSettings`, the `ActorCritic` to train and the `Plan`. Its member
    `Settings` is the class of its settings. If it has a static method
    `kfac_networks(settings, policy)` that returns its `KFACNetwork`s, a run states what
    memory they take before it is allocated.

    Attributes:
      policy: Policy that learns; it is what a run evaluates and exports.
      scalars: Scalars that `update` reports, by name: the columns that the algorithm
        adds to `progress.csv`, in their order.
      phases: Phases that `update` times, by name → what the time is spent on. A run
        reports the share of each as `share_<name>`.
    """

    policy: ActorCritic
    scalars: Mapping[str, Scalar]
    phases: Mapping[str, str]

    def act(self, observation: npt.ArrayLike, key: npt.ArrayLike) -> PolicyStep:
        """Chooses actions for `[B, ...]` in training, with the random `key` `[2]`."""

    def update(self, rollout: Rollout, index: int, *, measure: bool) -> Update:
        """Learns from a rollout.

        Args:
          rollout: Steps under the policy as it is.
          index: Number of updates so far; it decides the random draws.
          measure: Whether to report all scalars, of which some cost a forward pass,
            such as the exact KL; otherwise only those that are at hand.
        """

    def state(self) -> dict[str, Array]:
        """Returns all that decides the learner's future; see `acktr_tf.states`."""

    def load_state(self, state: State) -> None:
        """Loads what `state` returned.

        Raises:
          UserError: It is the state of another learner.
        """


class PhaseClock:
    """Wall time of the phases of an update."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Adds the time that the `with` block takes to `phase`."""
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def to_floats(
    tensors: Mapping[str, Any], scalars: Mapping[str, Scalar]
) -> dict[str, float]:
    """Reads scalar tensors as numbers, as many of them as `scalars` declares."""
    return {name: float(tensors[name]) for name in scalars if name in tensors}
