"""Vectors of environments, whatever simulator is behind them.

The seed that a simulator was last reset with and the actions taken since decide all
that a deterministic simulator does. So the saved state is the seed and the actions, and
loading it replays the actions.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from acktr_tf.environments import checks
from acktr_tf.environments.replay import ActionHistory, Replay
from acktr_tf.spaces.actions import joint_choices
from acktr_tf.spaces.observations import Observations, Part
from acktr_tf.states import StateError, checked_array, checked_number
from acktr_tf.types import Array, Episode, Step

EpisodeSeeds = Callable[[int, int], int]
"""(environment index, episode index) → reset seed in [0, 2³¹)."""

UNSEEDED = -1
"""Stands for no reset seed: the simulator's own generator goes on."""


def training_seeds(seed: int) -> EpisodeSeeds:
    """Returns reset seeds that are independent over environments, episodes and runs."""

    def episode_seed(environment: int, episode: int) -> int:
        sequence = np.random.SeedSequence([seed, environment, episode])
        return int(sequence.generate_state(1)[0] >> 1)

    return episode_seed


class VectorEnvironment(abc.ABC):
    """`B` environments stepped together, each reset as soon as its episode ends.

    The reset happens within the step that ends the episode, so every step is a real
    transition: there is no reset step to mask. Subclasses say how to reset some of the
    environments and how to step all of them.

    Args:
      name: Name that the user gave the environment, for messages.
      num_envs: `B`.
      observation_space: Space of one environment, as the simulator has it. Every method
        that returns observations returns them encoded; see `Observations.encode`.
      action_space: Space of one environment.
      episode_seeds: Reset seed of each episode that is given one.
      reseed_steps: Steps of an environment after which the next episode is given a
        seed; those before continue the simulator's own generator. 0 seeds every
        episode. A seed costs time (ALE loads the game anew, as long as 200 steps);
        none for long makes restoring slow.
      time_limit: Steps after which the simulator truncates an episode, by which the
        environments are set apart: the first episode of environment `i` is truncated
        after `(i + 1) / B` of them, and is not among the episodes that `step` returns.
        Otherwise all environments would be at the same time of their episodes, and each
        batch at another. None sets nothing apart.

    Attributes:
      left_out: Names of the parts of the simulator's observations that are left out.

    Raises:
      UserError: The observation space is not supported.
    """

    left_out: Sequence[str] = ()

    def __init__(
        self,
        name: str,
        num_envs: int,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        episode_seeds: EpisodeSeeds,
        reseed_steps: int = 0,
        time_limit: int | None = None,
    ) -> None:
        self.name = name
        self.num_envs = num_envs
        self.observation_space = observation_space
        self.observations = Observations(observation_space)
        self.action_space = action_space
        self.episode_seeds = episode_seeds
        self._reseed_steps = reseed_steps
        self._steps = 0
        # Of the first episodes; the simulator itself ends that of the last environment.
        self._first_limits = np.full(num_envs, np.iinfo(np.int64).max)
        if time_limit is not None:
            shares = np.arange(1, num_envs) / num_envs
            self._first_limits[:-1] = np.ceil(shares * time_limit)
        # Of the episode under way.
        self._episode_index = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        # Since the environment was last seeded.
        self._seeded_episode = np.zeros(num_envs, np.int64)
        self._history = ActionHistory(num_envs)
        self._observation: Array | None = None

    # Provided by a simulator ----------------------------------------------------
    @abc.abstractmethod
    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        """Starts new episodes where `mask` `[B]`, with `seeds` `[mask.sum()]`.

        A seed may be `UNSEEDED`.

        Returns:
          `[B, ...]` the current observation of every environment, not aliased by later
          calls.
        """

    @abc.abstractmethod
    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Steps all environments.

        Returns:
          Observation, raw reward, terminated and truncated, `[B, ...]` each. The
          observation must not be aliased by later calls.
        """

    def _learning_reward(self, reward: Array) -> Array:
        """Returns the reward to learn from, given the raw one."""
        return reward

    def _learning_terminated(self, terminated: Array) -> Array:
        """Returns where the episode ends for learning, given where the game ended."""
        return terminated

    @abc.abstractmethod
    def render(self) -> list[Array]:
        """Returns the current picture of every environment, `[H, W, 3]` uint8 each.

        Raises:
          RunError: The simulator failed, or drew something that is no picture.
        """

    @property
    def frames_per_second(self) -> float:
        """Pictures per second that show a game at its own speed."""
        return 30.0

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the simulators."""

    # Used by the rest of the package --------------------------------------------
    def reset(self) -> Array:
        """Starts the first episode of every environment; returns `[B, ...]`."""
        self._episode_index[:] = 0
        return self._reset_where(np.ones(self.num_envs, np.bool_), seeded=True)

    def step(self, actions: Array) -> Step:
        """Steps every environment and resets those whose episode ended.

        Args:
          actions: `[B, ...]`, one of the action space for each environment; of a
            `Tuple` or `Dict` all choices end to end, `[B, k]`.

        Raises:
          RunError: The simulator died, or returned something that is not a finite
            observation and reward of the announced shape and type, or rewards that add
            up to more than float32 holds.
        """
        with checks.simulator_faults(self.name, self._steps):
            observation, reward, terminated, truncated = self._step_all(actions)
        checks.check_step(
            self.name,
            self._steps,
            self.num_envs,
            self.observations.encoded_space,
            observation,
            reward,
        )
        self._steps += 1
        self._returns += reward
        checks.check_returns(self.name, self._steps - 1, self._returns)
        self._lengths += 1
        self._history.record(actions)
        cut = self._stagger_cut() & ~(terminated | truncated)
        truncated = truncated | cut
        # An episode that ends in a terminal state at its time limit has no future.
        truncated = truncated & ~terminated
        learning_terminated = self._learning_terminated(terminated) & ~truncated
        ended = terminated | truncated
        episodes = [
            Episode(float(self._returns[i]), int(self._lengths[i]))
            for i in np.flatnonzero(ended & ~cut)
        ]
        final_observation = None
        if ended.any():
            if truncated.any():
                final_observation = observation.copy()
            self._episode_index[ended] += 1
            due = self._history.steps_since_seed >= self._reseed_steps
            observation = self._reset_where(ended, seeded=due)
        self._observation = observation
        return Step(
            observation,
            self._learning_reward(reward).astype(np.float32),
            learning_terminated,
            truncated,
            final_observation,
            episodes,
        )

    def _stagger_cut(self) -> npt.NDArray[np.bool_]:
        """Returns `[B]`, where the first episode is as long as it may be."""
        return (self._episode_index == 0) & (self._lengths >= self._first_limits)

    def _reset_where(self, mask: npt.NDArray[np.bool_], seeded: npt.ArrayLike) -> Array:
        """Starts the episode that `_episode_index` names, where `mask`.

        Args:
          mask: `[B]`.
          seeded: `[B]`, or one for all: whether a seed of its own starts the episode.
        """
        seeded = np.broadcast_to(seeded, mask.shape)
        seeds = np.full(self.num_envs, UNSEEDED)
        for i in np.flatnonzero(mask & seeded):
            seeds[i] = self.episode_seeds(int(i), int(self._episode_index[i]))
            self._seeded_episode[i] = self._episode_index[i]
            self._history.forget(int(i))
        self._returns[mask] = 0.0
        self._lengths[mask] = 0
        with checks.simulator_faults(self.name, self._steps):
            self._observation = self._reset_some(mask, seeds[mask])
        checks.check_observation(
            self.name,
            self._steps,
            self.num_envs,
            self.observations.encoded_space,
            self._observation,
        )
        return self._observation

    # Saving and restoring -------------------------------------------------------
    def state(self) -> dict[str, Array]:
        """Returns all that `load_state` needs to come back here."""
        if self._observation is None:
            raise ValueError("Call `reset` before `state`.")
        return {
            "steps": np.array(self._steps),
            "actions": self._history.flat(),
            "steps_since_seed": self._history.steps_since_seed.copy(),
            "seeded_episode": self._seeded_episode.copy(),
            "observation": self._observation.copy(),
            **self._progress(),
        }

    def _progress(self) -> dict[str, Array]:
        """Returns `[B]` each: the episode under way, its length and return so far."""
        return {
            "episode_index": self._episode_index.copy(),
            "lengths": self._lengths.copy(),
            "returns": self._returns.copy(),
        }

    def load_state(self, state: Mapping[str, Array]) -> tuple[Array, list[int]]:
        """Replays every environment up to where `state` found it.

        Until an environment joins the replay, it idles in episodes that are thrown
        away; see `Replay`.

        Args:
          state: As `state` returns it.

        Returns:
          The observation `[B, ...]`, and the indices of the environments whose
          simulator did not repeat itself: they start a new episode.

        Raises:
          StateError: The state is not one of such environments. Nothing was changed.
          RunError: The simulator failed.
        """
        self._check_state(state)
        replay = Replay(state["actions"], state["steps_since_seed"])
        seeded_episode = state["seeded_episode"]
        self._steps = int(state["steps"])
        self._history = ActionHistory(self.num_envs)
        self._episode_index = seeded_episode.copy()
        observation = self._reset_where(np.ones(self.num_envs, np.bool_), seeded=True)
        for step in range(replay.length + 1):
            joining = replay.joining(step)
            if step and joining.any():
                self._episode_index[joining] = seeded_episode[joining]
                observation = self._reset_where(joining, seeded=True)
            if step < replay.length:
                observation = self._replay_step(replay.actions(step))
        differs = np.array(
            [
                not np.array_equal(now, saved)
                for now, saved in zip(observation, state["observation"], strict=True)
            ]
        )
        for name, found in self._progress().items():
            differs |= found != state[name]
        if differs.any():
            self._episode_index[differs] = state["episode_index"][differs] + 1
            observation = self._reset_where(differs, seeded=True)
        self._observation = observation
        return observation, [int(i) for i in np.flatnonzero(differs)]

    def _check_state(self, state: Mapping[str, Array]) -> None:
        """Raises a `StateError` unless `state` is one of such environments."""
        count, space = (self.num_envs,), self.observations.encoded_space
        longest = checked_number(state, "steps", "i", 0)
        for name in ("steps_since_seed", "lengths"):
            checked_array(state, name, "i", count, 0, longest)
        for name in ("seeded_episode", "episode_index"):
            checked_array(state, name, "i", count, 0)
        checked_array(state, "returns", "f", count)
        kind = space.dtype.kind
        checked_array(state, "observation", kind, (*count, *space.shape))
        recorded = int(state["steps_since_seed"].sum())
        if not recorded:
            return
        choices = joint_choices(self.action_space)
        actions_space = self.action_space if choices is None else choices
        shape = actions_space.shape or ()
        kind = np.dtype(actions_space.dtype).kind
        actions = checked_array(state, "actions", kind, (None, *shape))
        if len(actions) != recorded:
            raise StateError(
                f"actions has {len(actions)} rows where steps_since_seed has {recorded}"
            )
        categories = Part("actions", (), actions_space).categories
        columns = actions.reshape(recorded, -1).T[: len(categories)]
        for column, (n, start) in zip(columns, categories, strict=True):
            if ((column < start) | (column >= start + n)).any():
                raise StateError("actions has one that is not of the action space")

    def _replay_step(self, actions: Array) -> Array:
        """Steps every environment as `step` did, and returns the observation."""
        self._history.record(actions)
        with checks.simulator_faults(self.name, self._steps):
            observation, reward, terminated, truncated = self._step_all(actions)
        self._returns += reward
        self._lengths += 1
        ended = terminated | truncated | self._stagger_cut()
        if ended.any():
            self._episode_index[ended] += 1
            observation = self._reset_where(ended, seeded=False)
        return observation
