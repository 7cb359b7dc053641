"""The one door to simulators."""

import re

from acktr_tf.config.config import Config
from acktr_tf.config.setting import closest
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

A restored run replays as many: about a minute for 32 Atari games.
"""


def make_vector_env(
    config: Config,
    *,
    num_envs: int | None = None,
    episode_seeds: EpisodeSeeds | None = None,
    render: bool = False,
) -> VectorEnvironment:
    """The environments that `config` names.

    Args:
      config: The run's settings.
      num_envs: How many, `config.num_envs` if None.
      episode_seeds: The reset seed of each episode; None for those of training, where
        only some episodes are given one.
      render: Whether `render()` will be called.

    Raises:
      UserError: The environment is unknown (the message names the closest), cannot be
        made, or has spaces that are not supported.
    """
    num_envs = config.num_envs if num_envs is None else num_envs
    # Training has no need to know each episode's seed, and scores need whole episodes.
    training = episode_seeds is None
    reseed_steps = RESEED_STEPS if training else 0
    episode_seeds = episode_seeds or training_seeds(config.seed)
    if game := find_game(config.env):
        name, stickiness = game
        if config.repeat_action_probability >= 0:
            stickiness = config.repeat_action_probability
        return AtariEnvironment(
            name,
            num_envs,
            episode_seeds,
            repeat_action_probability=stickiness,
            clip_rewards=config.clip_rewards,
            life_loss_terminates=config.life_loss_terminates,
            reseed_steps=reseed_steps,
            threads=config.env_threads,
            render=render,
        )
    if not re.search(r"/|:|-v", config.env):
        # A plain word can only have been meant as a game.
        raise UserError(
            f"Unknown environment `{config.env}`.{closest(config.env, game_names())} "
            "Accepted: an Atari game (pong, ALE/Pong-v5, PongNoFrameskip-v4), a "
            "Gymnasium id (CartPole-v1), or one with its module (my.module:Name-v0)."
        )
    return GymEnvironment(
        config.env,
        num_envs,
        episode_seeds,
        vectorization=config.vectorization,
        render=render,
        pixels=config.pixels,
        frame_stack=config.frame_stack,
        reseed_steps=reseed_steps,
        stagger=training and config.stagger_episodes,
    )
