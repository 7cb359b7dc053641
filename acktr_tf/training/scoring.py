"""Scores of a policy over whole games, played in parallel environments.

Each game starts from a reset seed of its own and each environment plays a fixed list of
games, so that which games are counted does not depend on how long they last.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import EpisodeSeeds, VectorEnvironment, make_vector_env
from acktr_tf.errors import RunError
from acktr_tf.random_keys import KeyStream
from acktr_tf.types import Array

MAX_STEPS = 100_000
"""Longest game that is waited for; ALE cuts Atari games off at 27,000 agent steps."""

MAX_ENVS = 8

EVALUATION = "evaluation"
"""Purpose of the games by which a finished policy is judged."""

VALIDATION = "validation"
"""Purpose of the games by which a run chooses its best policy: never the same ones."""


class EndlessGameError(RunError):
    """Raised by a game that does not end within the steps that are waited for."""


class Predictor(Protocol):
    """Policy that can play: networks, or what was exported of them."""

    def predict(
        self,
        observation: Array,
        key: npt.NDArray[np.int32],
        *,
        deterministic: bool = False,
    ) -> Array:
        """Returns actions `[N, ...]` as the environment takes them.

        Args:
          observation: `[N, ...]`.
          key: `[2]`, random.
          deterministic: Whether to take the most probable actions; they are drawn
            otherwise.
        """


@dataclasses.dataclass(frozen=True)
class Scores:
    """Raw scores of whole games, in the order of their seeds and not of their ends.

    Attributes:
      returns: `[N]` float64, undiscounted sums of raw rewards.
      lengths: `[N]` int64, in agent steps.
      seeds: `[N]` int64, what each game was reset with.
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def standard_deviation(self) -> float:
        """Standard deviation of the returns of these games (divisor N)."""
        return float(np.std(self.returns))

    @property
    def median(self) -> float:
        """Median return."""
        return float(np.median(self.returns))

    @property
    def minimum(self) -> float:
        """Lowest return."""
        return float(np.min(self.returns))

    @property
    def maximum(self) -> float:
        """Highest return."""
        return float(np.max(self.returns))

    @property
    def steps(self) -> int:
        """Agent steps of all games together."""
        return int(np.sum(self.lengths))

    def to_dict(self) -> dict[str, Any]:
        """Summary and single games, as JSON can hold them."""
        return {
            "games": len(self.returns),
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "median": self.median,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "steps": self.steps,
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
            "seeds": self.seeds.tolist(),
        }


def game_seed(seed: int, game: int, purpose: str = EVALUATION) -> int:
    """The reset seed of a game: unlike those of other games and of training.

    Args:
      seed: Seed of the evaluation.
      game: Its number, from 0.
      purpose: What it is played for; games of different purposes differ.
    """
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), game])
    return int(sequence.generate_state(1)[0] >> 1)


def evaluation_seeds(
    seed: int, num_envs: int, purpose: str = EVALUATION
) -> EpisodeSeeds:
    """Reset seeds by which environment `i` of `B` plays the games i, i + B, i + 2B, ...

    Args:
      seed: Seed of the evaluation.
      num_envs: `B`.
      purpose: See `game_seed`.
    """

    def episode_seed(environment: int, episode: int) -> int:
        return game_seed(seed, episode * num_envs + environment, purpose)

    return episode_seed


def score(
    policy: Predictor,
    environments: VectorEnvironment,
    games: int,
    *,
    deterministic: bool = False,
    max_steps: int = MAX_STEPS,
    watch: Callable[[], None] | None = None,
) -> Scores:
    """Plays whole games and counts their raw scores.

    Environment `i` of `B` plays the games i, i + B, i + 2B, ...; those beyond `games`,
    which it plays while others are not done, are not counted.

    Args:
      policy: The policy.
      environments: `B` environments; made with `evaluation_seeds`, the seed of a game
        does not depend on B.
      games: Games to count.
      deterministic: Whether to take the most probable actions; they are drawn
        otherwise, as in training.
      max_steps: Agent steps after which a game is taken for one that never ends.
      watch: Called for each observation of game 0 that is acted on, while the
        environments' `render` shows it.

    Raises:
      EndlessGameError: A game did not end within `max_steps`.
      RunError: The simulator failed.
    """
    num_envs = environments.num_envs
    seeds = np.array(
        [environments.episode_seeds(j % num_envs, j // num_envs) for j in range(games)]
    )
    keys = KeyStream(int(seeds[0]), "evaluation")
    returns = np.full(games, np.nan)
    lengths = np.zeros(games, np.int64)
    playing = np.arange(num_envs)  # Number of the game in each environment.
    ages = np.zeros(num_envs, np.int64)
    observation = environments.reset()
    for t in itertools.count():
        if watch and playing[0] == 0:
            watch()
        actions = policy.predict(observation, keys.key(t), deterministic=deterministic)
        step = environments.step(actions)
        observation = step.observation
        ages += 1
        if step.episodes:
            # Not by `terminated`, which may mean a lost life.
            index = environments.state()["episode_index"]
            ended = np.flatnonzero(index * num_envs + np.arange(num_envs) > playing)
            for i, episode in zip(ended, step.episodes, strict=True):
                if playing[i] < games:
                    returns[playing[i]] = episode.episode_return
                    lengths[playing[i]] = episode.episode_length
            playing[ended] += num_envs
            ages[ended] = 0
        counted = playing < games
        if not counted.any():
            break
        if (ages[counted] >= max_steps).any():
            game = int(playing[counted & (ages >= max_steps)][0])
            raise EndlessGameError(
                f"Game {game} of {environments.name} (seed {seeds[game]}) has not "
                f"ended after {max_steps} agent steps. An environment with a time "
                "limit ends its games; `acktr_tf.evaluate` takes a larger --max_steps."
            )
    return Scores(returns, lengths, seeds)


def score_policy(
    policy: Predictor,
    settings: EnvironmentSettings,
    seed: int,
    games: int,
    *,
    deterministic: bool = False,
    max_steps: int = MAX_STEPS,
    purpose: str = VALIDATION,
) -> Scores:
    """Scores a policy on environments of its own, made for the occasion.

    Args:
      policy: The policy.
      settings: Settings of the environments.
      seed: Decides the games and the draws.
      games: Games to count.
      deterministic: See `score`.
      max_steps: See `score`.
      purpose: Which games: see `game_seed`.

    Raises:
      RunError: See `score`.
    """
    num_envs = min(games, MAX_ENVS)
    environments = make_vector_env(
        settings,
        seed,
        num_envs=num_envs,
        episode_seeds=evaluation_seeds(seed, num_envs, purpose),
    )
    try:
        return score(
            policy,
            environments,
            games,
            deterministic=deterministic,
            max_steps=max_steps,
        )
    finally:
        environments.close()
