"""Settings of the environments."""

import dataclasses

from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import PAPER, RELEASED

VECTORIZATIONS = ("sync", "async")


@dataclasses.dataclass(frozen=True)
class EnvironmentSettings(Settings):
    """Environments that a run steps."""

    heading = "Environment"

    env: str = setting(
        "pong",
        "Environment: an Atari game by its Gymnasium name (ALE/Pong-v5, "
        "PongNoFrameskip-v4) or plain name (pong), or any Gymnasium id (CartPole-v1), "
        "your own with its module (my.module:Name-v0).",
    )
    env_kwargs: str | None = setting(
        None,
        "Not for Atari: arguments of the environment, a JSON object "
        '({"map_name": "8x8"}).',
        none="none",
    )
    wrappers: str | None = setting(
        None,
        "Not for Atari: wrappers of each environment, each with its module "
        "(gymnasium.wrappers:FlattenObservation), separated by commas, the innermost "
        "first.",
        none="none",
    )
    num_envs: int = setting(
        32,
        "Environments stepped together.",
        low=1,
        source=f"{RELEASED}: 32",
    )
    repeat_action_probability: float | None = setting(
        None,
        "Atari only: probability that the emulator repeats the last action instead "
        "(sticky actions); auto takes what the game's name stands for: 0.25 for "
        "ALE/*-v5 and *-v0, 0 for *-v4 and plain names.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        none="auto",
        source="Gymnasium's registry",
    )
    clip_rewards: bool = setting(
        True,
        "Atari only: learn from rewards clipped to [-1, 1]. Scores stay raw.",
        source="Mnih et al. 2015",
    )
    life_loss_terminates: bool = setting(
        True,
        "Atari only: a lost life ends the episode for learning. Scores stay those of "
        "whole games.",
        source="Mnih et al. 2015",
    )
    env_threads: int | None = setting(
        None,
        "Atari only: emulator threads; auto takes one per core.",
        low=1,
        none="auto",
        resumable=True,
    )
    vectorization: str = setting(
        "sync",
        "Not for Atari: environments in one process (sync), or each in one of its own "
        "(async), which pays for slow simulators. With pixels always async.",
        choices=VECTORIZATIONS,
        resumable=True,
    )
    pixels: int | None = setting(
        None,
        "Not for Atari: observe pictures of the environment instead, of this height "
        "and width (below 28, with network=separate_cnns); none takes its own "
        "observations.",
        unit="pixels",
        low=1,
        none="none",
        source=f"{PAPER}, MuJoCo from pixels: 42",
    )
    frame_stack: int = setting(
        1,
        "Not for Atari, which has 4: how many observations in a row, up to the current "
        "one, the networks are given.",
        low=1,
        source=f"{PAPER}, MuJoCo: 2",
    )
    action_mask: str | None = setting(
        None,
        "Not for Atari: key of the action mask, the 0 and 1 that say which actions are "
        "allowed, in a Dict observation or else in info; none for no mask. See "
        "docs/environments.md.",
        none="none",
    )
    stagger_episodes: bool = setting(
        False,
        "Not for Atari: cut the first episode of each environment off at another part "
        "of its time limit, so that each batch has all times of an episode in it. No "
        "effect without a time limit.",
        source="own choice: off; see docs/mujoco.md",
    )
