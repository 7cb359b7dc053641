"""Environments of all simulators, made by `make_vector_env`."""

import re

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.config.setting import did_you_mean
from acktr_tf.environments.atari import AtariEnvironment, find_game, game_names
from acktr_tf.environments.gym import GymEnvironment
from acktr_tf.environments.vector import EpisodeSeeds, VectorEnvironment, training_seeds
from acktr_tf.errors import UserError

__all__ = [
    "AtariEnvironment",
    "EpisodeSeeds",
    "GymEnvironment",
    "VectorEnvironment",
    "make_vector_env",
    "training_seeds",
]

RESEED_STEPS = 10_000
"""Agent steps between two seeds of an environment in training; see `VectorEnvironment`.

A continued run replays up to this many: about a minute for 32 Atari games.
"""


def make_vector_env(
    settings: EnvironmentSettings,
    seed: int,
    *,
    num_envs: int | None = None,
    episode_seeds: EpisodeSeeds | None = None,
    render: bool = False,
) -> VectorEnvironment:
    """Makes the environments that `settings` name.

    Args:
      settings: Environments of the run.
      seed: Decides the episodes of training; without effect where `episode_seeds` is
        given.
      num_envs: Number of environments; None takes `settings.num_envs`.
      episode_seeds: Reset seed of each episode; None for those of training, where only
        some episodes are given one.
      render: Whether `render()` will be called.

    Raises:
      UserError: The environment is unknown (the message names the closest), cannot be
        made, or has spaces that are not supported.
    """
    num_envs = settings.num_envs if num_envs is None else num_envs
    # Training has no need to know each episode's seed, and scores need whole episodes.
    training = episode_seeds is None
    reseed_steps = RESEED_STEPS if training else 0
    episode_seeds = episode_seeds or training_seeds(seed)
    if game := find_game(settings.env):
        for option in ("env_kwargs", "wrappers"):
            if getattr(settings, option) is not None:
                raise UserError(
                    f"{option} is not for Atari games, whose preprocessing is fixed. "
                    f"Received: {option}={getattr(settings, option)} with "
                    f"env={settings.env}. Leave it out."
                )
        if settings.action_mask is not None:
            raise UserError(
                f"The Atari game `{settings.env}` has no action masks. Received: "
                f"action_mask={settings.action_mask}. Leave it out."
            )
        name, stickiness = game
        if settings.repeat_action_probability is not None:
            stickiness = settings.repeat_action_probability
        return AtariEnvironment(
            name,
            num_envs,
            episode_seeds,
            repeat_action_probability=stickiness,
            clip_rewards=settings.clip_rewards,
            life_loss_terminates=settings.life_loss_terminates,
            reseed_steps=reseed_steps,
            threads=settings.env_threads,
            render=render,
        )
    if not re.search(r"/|:|-v", settings.env):
        # A plain word can only have been meant as a game.
        raise UserError(
            f"Unknown environment `{settings.env}`."
            f"{did_you_mean(settings.env, game_names())} "
            "Accepted: an Atari game (pong, ALE/Pong-v5, PongNoFrameskip-v4), a "
            "Gymnasium id (CartPole-v1), or one with its module (my.module:Name-v0)."
        )
    return GymEnvironment(
        settings.env,
        num_envs,
        episode_seeds,
        vectorization=settings.vectorization,
        render=render,
        env_kwargs=settings.env_kwargs,
        wrappers=settings.wrappers,
        pixels=settings.pixels,
        frame_stack=settings.frame_stack,
        action_mask=settings.action_mask,
        reseed_steps=reseed_steps,
        stagger=training and settings.stagger_episodes,
    )
