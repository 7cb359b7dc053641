"""What every vector of environments here does, whatever simulator is behind it.

The seed that a simulator was last reset with and the actions taken since decide all
that a deterministic simulator does. So a saved position is those, and restoring replays
them.
"""

import abc
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from acktr_tf.environments import checks
from acktr_tf.spaces.observations import Observations
from acktr_tf.types import Episode, Step

Array = npt.NDArray[Any]

EpisodeSeeds = Callable[[int, int], int]
"""(environment index, episode index) → reset seed in [0, 2³¹)."""

UNSEEDED = -1
"""In place of a reset seed: the simulator's own generator goes on."""


def training_seeds(seed: int) -> EpisodeSeeds:
    """Reset seeds that are independent over environments, episodes and runs."""

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
      name: What the user called the environment, for messages.
      num_envs: `B`.
      observation_space: Of one environment, as the simulator has it. Everything here
        that returns observations returns them encoded; see `Observations.encode`.
      action_space: Of one environment.
      episode_seeds: The reset seed of each episode that is given one.
      reseed_steps: Steps of an environment after which the next episode is given a
        seed; those before continue the simulator's own generator. 0 seeds every
        episode. A seed costs time (ALE loads the game anew, as long as 200 steps);
        none for long makes restoring slow.
      time_limit: Steps after which the simulator truncates an episode, by which the
        environments are set apart: the first episode of environment `i` is truncated
        after `(i + 1) / B` of them, and is not among the episodes that `step` returns.
        Else all would be at the same time of their episodes, and each batch of
        another. None sets nothing apart.

    Raises:
      UserError: The observation space is not supported.
    """

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
        # Of the first episodes; the last one's is the simulator's own to end.
        self._first_limits = np.full(num_envs, np.iinfo(np.int64).max)
        if time_limit is not None:
            shares = np.arange(1, num_envs) / num_envs
            self._first_limits[:-1] = np.ceil(shares * time_limit)
        # Of the episode under way, and since the environment was last seeded.
        self._episode_index = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._seeded_index = np.zeros(num_envs, np.int64)
        # Actions of all environments, of which each needs its last `_ages`.
        self._actions: list[Array] = []
        self._ages = np.zeros(num_envs, np.int64)
        self._observation: Array | None = None

    # What a simulator provides --------------------------------------------------
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
        """One step: observation, raw reward, terminated and truncated, `[B, ...]`.

        The observation must not be aliased by later calls.
        """

    def _learning_reward(self, reward: Array) -> Array:
        """The reward to learn from, given the raw one."""
        return reward

    def _learning_terminated(self, terminated: Array) -> Array:
        """Where learning takes the episode as ended, given where the game did."""
        return terminated

    @abc.abstractmethod
    def render(self) -> list[Array]:
        """The current picture of every environment, `[H, W, 3]` uint8 each."""

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the simulators."""

    # What the rest of the package uses ------------------------------------------
    def reset(self) -> Array:
        """Starts the first episode of every environment; returns `[B, ...]`."""
        self._episode_index[:] = 0
        return self._begin(np.ones(self.num_envs, np.bool_), seeded=True)

    def step(self, actions: Array) -> Step:
        """Steps every environment and resets those whose episode ended.

        Args:
          actions: `[B, ...]`, one of the action space for each environment.

        Raises:
          RunError: The simulator died, or returned something that is not a finite
            observation and reward of the announced shape and type.
        """
        with checks.simulator_faults(self.name, self._steps):
            observation, reward, terminated, truncated = self._step_all(actions)
        checks.check_step(
            self.name,
            self._steps,
            self.num_envs,
            self.observations.space,
            observation,
            reward,
        )
        self._steps += 1
        self._returns += reward
        self._lengths += 1
        self._remember(actions)
        cut = self._cut_short() & ~(terminated | truncated)
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
            due = self._ages >= self._reseed_steps
            observation = self._begin(ended, seeded=due)
        self._observation = observation
        return Step(
            observation,
            self._learning_reward(reward).astype(np.float32),
            learning_terminated,
            truncated,
            final_observation,
            episodes,
        )

    def _cut_short(self) -> npt.NDArray[np.bool_]:
        """`[B]`: whose first episode is as long as it may be."""
        return (self._episode_index == 0) & (self._lengths >= self._first_limits)

    def _begin(self, mask: npt.NDArray[np.bool_], seeded: npt.ArrayLike) -> Array:
        """Starts the episode that `_episode_index` names, where `mask`.

        Args:
          mask: `[B]`.
          seeded: `[B]`, or one for all: whether a seed of its own starts it.
        """
        seeded = np.broadcast_to(seeded, mask.shape)
        seeds = np.full(self.num_envs, UNSEEDED)
        for i in np.flatnonzero(mask & seeded):
            seeds[i] = self.episode_seeds(int(i), int(self._episode_index[i]))
            self._seeded_index[i] = self._episode_index[i]
            self._ages[i] = 0
        self._returns[mask] = 0.0
        self._lengths[mask] = 0
        with checks.simulator_faults(self.name, self._steps):
            self._observation = self._reset_some(mask, seeds[mask])
        checks.check_observation(
            self.name,
            self._steps,
            self.num_envs,
            self.observations.space,
            self._observation,
        )
        return self._observation

    def _remember(self, actions: Array) -> None:
        """Adds what was done, and forgets what was done before all seeds."""
        self._actions.append(np.array(actions))
        self._ages += 1
        if len(self._actions) > 2 * self._ages.max() + 1000:
            del self._actions[: -self._ages.max() or None]

    # Saving and restoring -------------------------------------------------------
    def position(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Where every environment is: arrays, and values that JSON can hold."""
        if self._observation is None:
            raise ValueError("Call `reset` before `position`.")
        actions = np.array(self._actions)
        if len(actions):
            actions = np.concatenate(
                [actions[len(actions) - age :, i] for i, age in enumerate(self._ages)]
            )
        arrays: dict[str, Array] = {
            "actions": actions,
            "ages": self._ages.copy(),
            "seeded_index": self._seeded_index.copy(),
            "observation": self._observation.copy(),
            **self._progress(),
        }
        return arrays, {"steps": self._steps}

    def _progress(self) -> dict[str, Array]:
        """`[B]` each: which episode is under way, its length and return so far."""
        return {
            "episode_index": self._episode_index.copy(),
            "lengths": self._lengths.copy(),
            "returns": self._returns.copy(),
        }

    def restore(
        self, arrays: dict[str, Array], values: dict[str, Any]
    ) -> tuple[Array, list[int]]:
        """Replays every environment up to where `position` found it.

        The one that was seeded the longest ago starts first and the others join so
        that all arrive together; until it joins, an environment idles in episodes that
        are thrown away.

        Returns:
          The observation `[B, ...]`, and the indices of the environments whose
          simulator did not repeat itself: those start a new episode.

        Raises:
          RunError: The simulator failed.
        """
        ages = arrays["ages"]
        longest = int(ages.max(initial=0))
        histories = np.split(arrays["actions"], np.cumsum(ages)[:-1])
        self._steps = values["steps"]
        self._episode_index = arrays["seeded_index"].copy()
        observation = self._begin(np.ones(self.num_envs, np.bool_), seeded=True)
        self._actions = []
        for t in range(longest):
            joining = ages == longest - t
            if t and joining.any():
                self._episode_index[joining] = arrays["seeded_index"][joining]
                self._begin(joining, seeded=True)
            # What idles does something that was done before.
            actions = np.repeat(arrays["actions"][:1], self.num_envs, axis=0)
            for i in np.flatnonzero(ages >= longest - t):
                actions[i] = histories[i][t - (longest - ages[i])]
            self._remember(actions)
            with checks.simulator_faults(self.name, self._steps):
                observation, reward, terminated, truncated = self._step_all(actions)
            self._returns += reward
            self._lengths += 1
            ended = terminated | truncated | self._cut_short()
            if ended.any():
                self._episode_index[ended] += 1
                observation = self._begin(ended, seeded=False)
        if longest and (ages == 0).any():
            self._episode_index[ages == 0] = arrays["seeded_index"][ages == 0]
            observation = self._begin(ages == 0, seeded=True)
        differs = np.array(
            [
                not np.array_equal(now, saved)
                for now, saved in zip(observation, arrays["observation"], strict=True)
            ]
        )
        for name, found in self._progress().items():
            differs |= found != arrays[name]
        if differs.any():
            self._episode_index[differs] = arrays["episode_index"][differs] + 1
            observation = self._begin(differs, seeded=True)
        self._observation = observation
        return observation, [int(i) for i in np.flatnonzero(differs)]
