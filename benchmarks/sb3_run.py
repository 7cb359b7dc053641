"""One run of Stable-Baselines3, laid out as acktr_tf.benchmark lays out its own.

    python benchmarks/sb3_run.py --algorithm=ppo --env=Hopper-v5 --seed=0 \
        --directory=DIR [--total_steps=1000000] [--games=100] \
        [--num_envs=B] [--unroll_length=T]

Needs a Python of its own with stable-baselines3, sb3-contrib and gymnasium[mujoco], and
for Atari games ale-py and opencv-python-headless. Started by side_by_side.py and
throughput.py. Each algorithm has one set of settings for all tasks of a kind:

  PPO   Stable-Baselines3's defaults, which are those of Schulman et al. 2017 for MuJoCo
  A2C   rl-baselines3-zoo's for normalized MuJoCo tasks: its defaults otherwise
  TRPO  rl-baselines3-zoo's for MuJoCo

with observations and rewards normalized by VecNormalize; and for Atari games those of
rl-baselines3-zoo for them (PPO and A2C), with Stable-Baselines3's own preprocessing.

DIR then has run/episodes.csv with the raw returns of the training episodes,
run/progress.csv with the steps and seconds of each batch, scores.json with the final
policy's over whole games, by its most probable actions, and outcome.json; with
--games=0 not the last two. A run that is stopped is begun anew.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

Settings = tuple[Any, int, dict[str, Any]]
"""Class, environments, arguments."""

MUJOCO: dict[str, Settings] = {
    "ppo": (stable_baselines3.PPO, 1, {}),
    "a2c": (stable_baselines3.A2C, 4, {}),
    "trpo": (
        sb3_contrib.TRPO,
        2,
        {
            "n_steps": 1024,
            "batch_size": 128,
            "gae_lambda": 0.95,
            "gamma": 0.99,
            "sub_sampling_factor": 1,
            "cg_max_steps": 25,
            "cg_damping": 0.1,
            "target_kl": 0.04,
            "n_critic_updates": 20,
            "learning_rate": 1e-3,
        },
    ),
}

ATARI: dict[str, Settings] = {
    "ppo": (
        stable_baselines3.PPO,
        8,
        {
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 4,
            "learning_rate": lambda left: 2.5e-4 * left,
            "clip_range": lambda left: 0.1 * left,
            "vf_coef": 0.5,
            "ent_coef": 0.01,
        },
    ),
    "a2c": (
        stable_baselines3.A2C,
        16,
        {
            "n_steps": 5,
            "vf_coef": 0.25,
            "ent_coef": 0.01,
            "policy_kwargs": {
                "optimizer_class": RMSpropTFLike,
                "optimizer_kwargs": {"eps": 1e-5},
            },
        },
    ),
}


class Recorder(BaseCallback):
    """Writes a line for each finished episode, before anything normalizes it.

    And one for each batch, when the next one begins.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._files = [
            (directory / name).open("w", newline="")
            for name in ("episodes.csv", "progress.csv")
        ]
        self._episodes, self._progress = map(csv.writer, self._files)
        self._episodes.writerow(["step", "episode_return", "episode_length", "seconds"])
        self._progress.writerow(["step", "seconds"])
        self._start = time.monotonic()

    @property
    def _seconds(self) -> str:
        return f"{time.monotonic() - self._start:.3f}"

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if episode := info.get("episode"):
                line = [self.num_timesteps, f"{episode['r']:.9g}", episode["l"]]
                self._episodes.writerow([*line, self._seconds])
        return True

    def _on_rollout_start(self) -> None:
        self._progress.writerow([self.num_timesteps, self._seconds])

    def _on_training_end(self) -> None:
        self._on_rollout_start()
        for file in self._files:
            file.close()


def is_atari(env: str) -> bool:
    """Whether this is the name of an Atari game."""
    return env.endswith("NoFrameskip-v4")


def make_environments(
    env: str, num_envs: int, seed: int, discount: float, trained: VecEnv | None = None
) -> VecEnv:
    """Preprocessed as the algorithm is to see them.

    Args:
      env: Name of the environment.
      num_envs: How many.
      seed: Of the first one.
      discount: Of the returns that rewards are normalized by.
      trained: What was trained on; the new ones are for whole games in raw rewards, in
        its normalization.
    """
    if is_atari(env):
        import ale_py

        gymnasium.register_envs(ale_py)
        kwargs = {"clip_reward": False, "terminal_on_life_loss": False}
        return VecFrameStack(
            make_atari_env(
                env, num_envs, seed, wrapper_kwargs=kwargs if trained else {}
            ),
            n_stack=4,
        )
    made = VecNormalize(make_vec_env(env, num_envs, seed=seed), gamma=discount)
    if trained is not None:
        made.obs_rms, made.training, made.norm_reward = trained.obs_rms, False, False
    return made


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithm", choices=MUJOCO, required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--total_steps", type=int, default=1_000_000)
    parser.add_argument("--games", type=int, default=100)
    parser.add_argument("--num_envs", type=int)
    parser.add_argument("--unroll_length", type=int)
    arguments = parser.parse_args()
    atari = is_atari(arguments.env)
    if not atari:
        torch.set_num_threads(1)  # Networks this small are slower with more.
    kinds = ATARI if atari else MUJOCO
    if arguments.algorithm not in kinds:
        parser.error(
            f"--algorithm must be one of {', '.join(kinds)} for {arguments.env}. "
            f"Received: {arguments.algorithm}"
        )
    kind, num_envs, settings = kinds[arguments.algorithm]
    if arguments.unroll_length:
        settings = {**settings, "n_steps": arguments.unroll_length}
    run = arguments.directory / "run"
    run.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    discount = settings.get("gamma", 0.99)
    environments = make_environments(
        arguments.env, arguments.num_envs or num_envs, arguments.seed, discount
    )
    model = kind(
        "CnnPolicy" if atari else "MlpPolicy",
        environments,
        seed=arguments.seed,
        device="cpu",
        **settings,
    )
    model.learn(arguments.total_steps, callback=Recorder(run))
    seconds = time.monotonic() - started
    if not arguments.games:
        return
    games = make_environments(
        arguments.env, 8, 10_000 + arguments.seed, discount, environments
    )
    returns, _ = evaluate_policy(
        model,
        games,
        n_eval_episodes=arguments.games,
        deterministic=True,
        return_episode_rewards=True,
    )
    scores = {
        "games": len(returns),
        "mean": float(np.mean(returns)),
        "returns": returns,
    }
    (arguments.directory / "scores.json").write_text(json.dumps(scores, indent=2))
    # Last: with it the run counts as finished.
    outcome = {"command": [], "exit_status": 0, "seconds": round(seconds, 3)}
    (arguments.directory / "outcome.json").write_text(json.dumps(outcome, indent=2))


if __name__ == "__main__":
    main()
