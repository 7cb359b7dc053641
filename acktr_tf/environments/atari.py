"""Atari games on ALE's own vector environment, preprocessed in its C++ threads.

Observations are `[B, 4, 84, 84]` uint8: the last four frames, oldest first, grey,
each the maximum of two successive emulator frames, four emulator frames apart
(Mnih et al. 2015). ALE does the no-op starts and presses FIRE at the start of a game
that needs it; rewards and lives are left raw there and treated here.
"""

import re
import warnings
from typing import Any

import ale_py
import gymnasium
import numpy as np
import numpy.typing as npt
from ale_py import roms, vector_env

from acktr_tf.config.setting import did_you_mean
from acktr_tf.environments.vector import EpisodeSeeds, VectorEnvironment
from acktr_tf.errors import UserError
from acktr_tf.types import Array

FRAME_SKIP = 4
EMULATOR_FRAMES_PER_SECOND = 60
FRAME_STACK = 4
FRAME_SIZE = 84
SCREEN_SIZE = (210, 160)  # Height and width of the console's picture.
NOOP_MAX = 30
MAX_FRAMES = 108_000  # Half an hour of play, ALE's own limit.

# ALE has no mode of these for one player, and ends the process that loads one.
MULTI_PLAYER_GAMES = frozenset({"combat", "joust", "maze_craze", "warlords"})

_V5 = re.compile(r"ALE/(?P<game>\w+)-v5")
_NO_FRAMESKIP = re.compile(r"(?P<game>\w+)NoFrameskip-(?P<version>v0|v4)")
_OTHER_VERSION = re.compile(
    r"(ALE/)?(?P<game>\w+?)(-ram)?(NoFrameskip|Deterministic)?-v\d+"
)


def find_game(name: str) -> tuple[str, float] | None:
    """Finds the game that `name` stands for.

    Args:
      name: `ALE/Pong-v5`, `PongNoFrameskip-v4` or `pong`.

    Returns:
      ALE's name of the game and the probability of repeated actions that the name
      stands for in Gymnasium's registry, or None if this is no name of an Atari game.

    Raises:
      UserError: It has the form of an Atari game's name, but there is no such game, it
        is for several players only, or the version is one that is not offered here.
    """
    by_pascal_case = {
        game.title().replace("_", ""): game for game in roms.get_all_rom_ids()
    }
    stickiness = 0.0
    if name in by_pascal_case.values():
        game: str | None = name
    elif match := _V5.fullmatch(name):
        game, stickiness = by_pascal_case.get(match["game"]), 0.25
    elif match := _NO_FRAMESKIP.fullmatch(name):
        game = by_pascal_case.get(match["game"])
        stickiness = {"v0": 0.25, "v4": 0.0}[match["version"]]
    elif (match := _OTHER_VERSION.fullmatch(name)) and match["game"] in by_pascal_case:
        pascal = match["game"]
        game = by_pascal_case[pascal]
        if _is_another_simulators(name):
            return None
        if game not in MULTI_PLAYER_GAMES:
            raise UserError(
                f"`{name}` is not offered: games are played from the screen, with a "
                f"frame skip of 4. Accepted: ALE/{pascal}-v5, "
                f"{pascal}NoFrameskip-v4 or {game}."
            )
    elif name.startswith("ALE/"):
        game = None
    else:
        return None
    if game is None:
        form = "ALE/{}-v5" if name.startswith("ALE/") else "{}NoFrameskip-v4"
        known = [
            form.format(pascal)
            for pascal, game in by_pascal_case.items()
            if game not in MULTI_PLAYER_GAMES
        ]
        raise UserError(f"Unknown Atari game `{name}`.{did_you_mean(name, known)}")
    if game in MULTI_PLAYER_GAMES:
        raise UserError(
            f"`{name}` is a game for several players only. Accepted: the "
            f"{len(game_names())} games of ALE that have a mode for one."
        )
    return game, stickiness


def _is_another_simulators(name: str) -> bool:
    """Returns whether Gymnasium knows an environment of that name that is not ALE's.

    Gymnasium's card game is called `Blackjack-v1`.
    """
    spec = gymnasium.registry.get(name)
    return spec is not None and not str(spec.entry_point).startswith("ale_py.")


def game_names() -> list[str]:
    """Lists ALE's plain names of the games that one player can play."""
    return [game for game in roms.get_all_rom_ids() if game not in MULTI_PLAYER_GAMES]


class AtariEnvironment(VectorEnvironment):
    """`num_envs` copies of one Atari game.

    In games that have a FIRE button, the first action after a lost life is FIRE
    whatever the agent chose: several of them wait for it, and an agent that has not
    learnt to press it would wait with them. The agent sees this as part of the game.

    Args:
      game: ALE's name, for example `pong`.
      num_envs: `B`.
      episode_seeds: Reset seed of each game.
      repeat_action_probability: Probability that the emulator repeats the previous
        action (sticky actions, Machado et al. 2018).
      clip_rewards: Learn from rewards clipped to [-1, 1].
      life_loss_terminates: A lost life is a terminal state for learning.
      reseed_steps: See `VectorEnvironment`.
      threads: Emulator threads; None takes one per core.
      render: Whether `render` will be called. The colour screen is that of a second
        emulator which is given the same seeds and actions.

    Raises:
      UserError: The game's ROM is missing or damaged.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        episode_seeds: EpisodeSeeds,
        *,
        repeat_action_probability: float = 0.0,
        clip_rewards: bool = True,
        life_loss_terminates: bool = True,
        reseed_steps: int = 0,
        threads: int | None = None,
        render: bool = False,
    ) -> None:
        require_rom(game)
        options: dict[str, Any] = {
            "num_threads": threads or 0,
            "max_num_frames_per_episode": MAX_FRAMES,
            "repeat_action_probability": repeat_action_probability,
            "frameskip": FRAME_SKIP,
            "noop_max": NOOP_MAX,
            "use_fire_reset": True,
            "reward_clipping": False,
            "episodic_life": False,
        }
        self._emulator = vector_env.AtariVectorEnv(
            game,
            num_envs,
            stack_num=FRAME_STACK,
            img_height=FRAME_SIZE,
            img_width=FRAME_SIZE,
            **options,
        )
        self._screen = (
            vector_env.AtariVectorEnv(
                game,
                num_envs,
                stack_num=1,
                grayscale=False,
                img_height=SCREEN_SIZE[0],
                img_width=SCREEN_SIZE[1],
                **options,
            )
            if render
            else None
        )
        self._picture: Array | None = None
        super().__init__(
            game,
            num_envs,
            self._emulator.single_observation_space,
            self._emulator.single_action_space,
            episode_seeds,
            reseed_steps,
        )
        self._clip_rewards = clip_rewards
        self._life_loss_terminates = life_loss_terminates
        buttons = self._emulator.ale.get_action_set()
        self._fire = (
            buttons.index(ale_py.Action.FIRE) if ale_py.Action.FIRE in buttons else None
        )
        self._lives = np.zeros(num_envs, np.int32)
        self._life_lost = np.zeros(num_envs, np.bool_)

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        observation, info = self._emulator.reset(
            seed=seeds, options={"reset_mask": mask}
        )
        if self._screen is not None:
            self._picture, _ = self._screen.reset(
                seed=seeds, options={"reset_mask": mask}
            )
        self._lives[mask] = info["lives"][mask]
        self._life_lost[mask] = False
        return np.asarray(observation)

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        if self._fire is not None and self._life_lost.any():
            actions = np.where(self._life_lost, self._fire, actions)
        observation, reward, terminated, truncated, info = self._emulator.step(actions)
        if self._screen is not None:
            self._picture = self._screen.step(actions)[0]
        self._life_lost = (info["lives"] < self._lives) & ~terminated & ~truncated
        self._lives = info["lives"].copy()
        return observation, reward, terminated, truncated

    def _learning_reward(self, reward: Array) -> Array:
        return np.clip(reward, -1, 1) if self._clip_rewards else reward

    def _learning_terminated(self, terminated: Array) -> Array:
        if not self._life_loss_terminates:
            return terminated
        return terminated | self._life_lost

    def render(self) -> list[Array]:
        """Returns the colour screen of every game, `[210, 160, 3]` uint8 each.

        Raises:
          ValueError: The environment was made without `render=True`.
        """
        if self._picture is None:
            raise ValueError("Make the environment with `render=True` to render it.")
        return list(self._picture[:, 0])

    @property
    def frames_per_second(self) -> float:
        """Pictures per second that show a game at the console's speed."""
        return EMULATOR_FRAMES_PER_SECOND / FRAME_SKIP

    def close(self) -> None:
        """Stops the emulators' threads."""
        del self._emulator, self._screen


def require_rom(game: str) -> None:
    """Raises a `UserError` unless ALE has the game's ROM, whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            path: Any = roms.get_rom_path(game)
        except OSError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"No ROM for the game `{game}`: {reason}. ale-py brings the ROMs with "
                "it: reinstall it, or unset ALE_ROMS_DIR if that is set."
            ) from error
    if path is None:
        raise UserError(
            f"Unknown Atari game `{game}`.{did_you_mean(game, game_names())}"
        )
