"""One run of Stable-Baselines3, laid out as acktr_tf.benchmark lays out its own.

    python benchmarks/sb3_run.py --algorithm=ppo --env=Hopper-v5 --seed=0 \
        --directory=DIR [--total_steps=1000000] [--games=100]

Needs a Python of its own with stable-baselines3, sb3-contrib and gymnasium[mujoco].
Started by side_by_side.py. Observations and rewards are normalized by VecNormalize.
Each algorithm has one set of settings for all tasks:

  PPO   Stable-Baselines3's defaults, which are those of Schulman et al. 2017 for MuJoCo
  A2C   rl-baselines3-zoo's for normalized MuJoCo tasks: its defaults otherwise
  TRPO  rl-baselines3-zoo's for MuJoCo

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

import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

ALGORITHMS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    # Class, environments, settings.
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


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithm", choices=ALGORITHMS, required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--total_steps", type=int, default=1_000_000)
    parser.add_argument("--games", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # Networks this small are slower with more.
    run = arguments.directory / "run"
    run.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    kind, num_envs, settings = ALGORITHMS[arguments.algorithm]
    environments = VecNormalize(
        make_vec_env(arguments.env, num_envs, seed=arguments.seed),
        gamma=settings.get("gamma", 0.99),
    )
    model = kind(
        "MlpPolicy", environments, seed=arguments.seed, device="cpu", **settings
    )
    model.learn(arguments.total_steps, callback=Recorder(run))
    seconds = time.monotonic() - started
    if not arguments.games:
        return
    # Of new games, in raw rewards.
    games = VecNormalize(make_vec_env(arguments.env, 8, seed=10_000 + arguments.seed))
    games.obs_rms, games.training, games.norm_reward = (
        environments.obs_rms,
        False,
        False,
    )
    returns, _ = evaluate_policy(
        model,
        games,
        n_eval_episodes=arguments.games,
        deterministic=False,
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
