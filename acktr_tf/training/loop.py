"""The host loop: collect, update, log, evaluate, checkpoint. No mathematics.

Everything that decides a run's future is in its checkpoint: weights, optimizer, where
each environment is, and counters. Random draws depend on the seed and the counters
alone, so a continued run makes those that the uninterrupted run would have made.
"""

import collections
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from acktr_tf.algorithms import Algorithm, make_algorithm, make_batch
from acktr_tf.config.config import Config
from acktr_tf.environments import VectorEnvironment, make_vector_env
from acktr_tf.environments.vector import Array
from acktr_tf.errors import RunError, UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints, saved_model
from acktr_tf.runs import directory as run_directory
from acktr_tf.runs.directory import BEST, CHECKPOINTS, EXPORT
from acktr_tf.runs.logs import ProgressBar, RunLog
from acktr_tf.training.collector import Collector
from acktr_tf.training.scales import Scales
from acktr_tf.training.scoring import EndlessGameError, score_policy
from acktr_tf.training.stopping import StopRequest
from acktr_tf.types import Episode

RECENT_EPISODES = 100
MAX_SKIPPED_UPDATES = 10

_PHASES = {
    "share_acting": ("acting",),
    "share_environments": ("environments",),
    "share_gradients": ("gradients", "step"),
    "share_curvature": ("curvature",),
    "share_inverses": ("inverses",),
    "share_critic": ("critic",),
}


def train(config: Config, command: Sequence[str]) -> int:
    """Runs, or continues, the run in `config.run_dir`.

    Args:
      config: The settings; `run_dir` must not be empty.
      command: What the user typed, to be kept with the run.

    Returns:
      0 if the run is complete, 130 or 143 if SIGINT or SIGTERM stopped it.

    Raises:
      UserError: The run directory holds something else, was started with other
        settings, or its checkpoint is damaged; or the environment is unknown.
      RunError: The simulator, the disk or the numbers failed. The last checkpoint is
        whole.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(config.seed)
    run_dir = Path(config.run_dir)
    run_directory.check(run_dir, config)
    environments = make_vector_env(config)
    try:
        # Before the directory is claimed: this may refuse the settings.
        policy = ActorCritic(
            config, environments.observation_space, environments.action_space
        )
        algorithm = make_algorithm(config, policy)
        with run_directory.opened(run_dir, config, command), StopRequest() as stop:
            return _Run(config, run_dir, environments, policy, algorithm).run(stop)
    finally:
        environments.close()


class _Run:
    """One process' part of a run.

    Args:
      config: The settings.
      run_dir: An opened run directory.
      environments: Those to train on, not yet reset.
      policy: For these environments.
      algorithm: Which trains the policy.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        environments: VectorEnvironment,
        policy: ActorCritic,
        algorithm: Algorithm,
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._environments = environments
        self._policy = policy
        self._algorithm = algorithm
        self._scales = Scales(config, self._policy)
        self._stop: StopRequest | None = None
        self._updates = 0
        self._episodes = 0
        self._skipped = 0
        self._recent: collections.deque[Episode] = collections.deque(
            maxlen=RECENT_EPISODES
        )
        self._best: dict[str, float] | None = None
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._last_checkpoint = self._started
        self._durations: dict[str, float] = collections.defaultdict(float)
        self._window = (self._started, 0)
        self._restored_from = checkpoints.latest(run_dir / CHECKPOINTS)
        messages = _describe(config, run_dir, environments, self._policy)
        if self._restored_from is None:
            observation = environments.reset()
            position = None
        else:
            observation, position, restored = self._restore(self._restored_from)
            messages += restored
        self._log = RunLog(run_dir, config, position)
        self._bar = ProgressBar(
            config.total_updates * config.batch_size, self._step, config.progress_bar
        )
        for message in messages:
            self._bar.write(message)
        self._collector = Collector(
            self._policy, environments, config.unroll_length, config.seed, observation
        )
        self._window = (time.monotonic(), self._step)

    @property
    def _step(self) -> int:
        return self._updates * self._config.batch_size

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def run(self, stop: StopRequest) -> int:
        """Trains until the end or until `stop`; returns the exit status."""
        self._stop = stop
        try:
            if self._restored_from is None:
                self._save()
            if self._updates >= self._config.total_updates:
                self._bar.write(f"The run is complete: {self._step} steps.")
            while self._updates < self._config.total_updates:
                self._train_once()
                if stop.signal is not None:
                    self._save()
                    self._bar.write(
                        f"Stopped at step {self._step}. The same command with "
                        f"--run_dir={self._run_dir} continues."
                    )
                    return stop.exit_status
                if self._checkpoint_due():
                    self._save()
            self._finish()
            return 0
        finally:
            self._bar.close()
            self._log.close()

    # One update -----------------------------------------------------------------
    def _train_once(self) -> None:
        config = self._config
        evaluate = self._evaluation_due()
        last = self._updates + 1 == config.total_updates
        logged = evaluate or last or (self._updates + 1) % config.log_period == 0
        collected = self._collector.collect(self._step)
        rollout = self._scales.scaled(collected.rollout)
        batch = make_batch(
            rollout, config.discount, config.gae_lambda, config.value_target_lambda
        )
        metrics = self._algorithm.update(batch, self._updates, measure=logged)
        self._check_finite(metrics)
        self._scales.update(rollout)
        self._updates += 1
        self._durations["acting"] += collected.acting_seconds
        self._durations["environments"] += collected.environment_seconds
        for name, value in metrics.items():
            if name.startswith("seconds_"):
                self._durations[name.removeprefix("seconds_")] += value
        for step, episode in collected.episodes:
            self._log.episode(step, episode, self._seconds)
            self._recent.append(episode)
            self._episodes += 1
        if logged:
            scalars = {**self._episode_scalars(), **self._run_scalars()}
            scalars.update(
                {k: v for k, v in metrics.items() if not k.startswith("seconds_")}
            )
            if evaluate:
                scalars["evaluation_return"] = self._evaluate()
                # Speed and shares are those of training.
                self._window = (time.monotonic(), self._step)
            self._log.scalars(self._step, scalars)
            self._bar.update(self._step, scalars)
        else:
            self._bar.update(self._step, self._episode_scalars())

    def _check_finite(self, metrics: dict[str, float]) -> None:
        """Tolerates a few steps that were not taken because they were not finite."""
        if metrics.pop("finite"):
            self._skipped = 0
            return
        self._skipped += 1
        what = (
            f"The gradient of update {self._updates + 1} is not finite (policy loss "
            f"{metrics['policy_loss']:g}, value loss {metrics['value_loss']:g})"
        )
        if self._skipped == MAX_SKIPPED_UPDATES:
            raise RunError(
                f"{what}, as were the {MAX_SKIPPED_UPDATES - 1} before. The run stops; "
                "its last checkpoint is whole. A smaller learning_rate may help."
            )
        self._bar.write(f"{what}: the step is left out.")

    def _episode_scalars(self) -> dict[str, float]:
        returns = [episode.episode_return for episode in self._recent]
        lengths = [episode.episode_length for episode in self._recent]
        return {
            "episode_return": float(np.mean(returns)) if returns else math.nan,
            "episode_length": float(np.mean(lengths)) if lengths else math.nan,
            "episodes": self._episodes,
        }

    def _run_scalars(self) -> dict[str, float]:
        """Speed and shares since the last call, and the state of the process."""
        now = time.monotonic()
        since, step = self._window
        elapsed = now - since
        self._window = (now, self._step)
        shares = {
            share: sum(self._durations[phase] for phase in phases) / elapsed
            for share, phases in _PHASES.items()
        }
        self._durations.clear()
        return {
            **shares,
            "share_other": 1.0 - sum(shares.values()),
            "steps_per_second": (self._step - step) / elapsed,
            "updates": self._updates,
            "seconds": self._seconds,
            "reward_scale": self._scales.reward_scale,
            "memory": psutil.Process().memory_info().rss / 2**20,
        }

    # Evaluation and export ------------------------------------------------------
    def _evaluation_due(self) -> bool:
        """Whether the next update completes a period, or the run."""
        period, batch_size = self._config.evaluation_period, self._config.batch_size
        if period == 0:
            return False
        last = self._updates + 1 == self._config.total_updates
        return last or (self._step + batch_size) // period > self._step // period

    def _evaluate(self) -> float:
        """Mean raw return of the policy; exports it if it is the best so far.

        nan if there is none because a game does not end, or the run is being stopped.
        """
        games = self._config.evaluation_games
        try:
            scores = score_policy(self._policy, self._config, games)
        except (UserError, RunError) as error:
            # A signal to all processes may have ended those of the games.
            stopped = self._stop is not None and self._stop.signal is not None
            if not stopped and not isinstance(error, EndlessGameError):
                raise
            self._bar.write(f"Evaluation at step {self._step}: given up. {error}")
            return math.nan
        mean = scores.mean
        self._bar.write(
            f"Evaluation at step {self._step}: mean return {mean:.1f} over "
            f"{len(scores.returns)} games."
        )
        if self._best is None or mean > self._best["mean"]:
            self._best = {"mean": mean, "step": self._step}
            self._export(self._run_dir / EXPORT / BEST, {"evaluation_return": mean})
        return mean

    def _finish(self) -> None:
        self._save()
        self._export(self._run_dir / EXPORT, self._episode_scalars())
        self._bar.write(f"Complete: the policy is in {self._run_dir / EXPORT}.")

    def _export(self, directory: Path, about: dict[str, Any]) -> None:
        saved_model.export_policy(
            self._policy,
            self._config,
            directory,
            {"step": self._step, **about},
        )

    # Checkpoints ----------------------------------------------------------------
    def _checkpoint_due(self) -> bool:
        elapsed = time.monotonic() - self._last_checkpoint
        return elapsed >= self._config.checkpoint_seconds

    def _save(self) -> None:
        arrays, position = self._environments.position()
        state = {
            "updates": self._updates,
            "episodes": self._episodes,
            "recent": [list(episode) for episode in self._recent],
            "best": self._best,
            "seconds": self._seconds,
            "environments": position,
            "log": self._log.position(),
        }
        checkpoints.save(
            self._run_dir / CHECKPOINTS,
            checkpoints.Checkpoint(
                self._step,
                {
                    **{f"environments/{name}": a for name, a in arrays.items()},
                    **checkpoints.variables_to_arrays("policy", self._policy.variables),
                    **checkpoints.variables_to_arrays(
                        "algorithm", self._algorithm.variables
                    ),
                    **{f"scales/{n}": a for n, a in self._scales.arrays().items()},
                },
                state,
            ),
            self._config.checkpoints_kept,
        )
        self._last_checkpoint = time.monotonic()

    def _restore(self, path: Path) -> tuple[Array, dict[str, int], list[str]]:
        """Puts the run where `path` left it.

        Returns:
          What to act on next, where the logs stood, and what to tell the user.
        """
        saved = checkpoints.load(path)
        checkpoints.assign_variables("policy", self._policy.variables, saved.arrays)
        checkpoints.assign_variables(
            "algorithm", self._algorithm.variables, saved.arrays
        )
        self._scales.restore(checkpoints.below("scales", saved.arrays))
        state = saved.state
        self._updates = state["updates"]
        self._episodes = state["episodes"]
        self._recent.extend(Episode(*episode) for episode in state["recent"])
        self._best = state["best"]
        self._seconds_before = state["seconds"]
        observation, restarted = self._environments.restore(
            checkpoints.below("environments", saved.arrays), state["environments"]
        )
        messages = [f"Continuing from step {saved.step}."]
        if restarted:
            messages.append(
                f"The simulator did not repeat itself in {len(restarted)} of "
                f"{self._config.num_envs} environments: their episodes start anew."
            )
        return observation, state["log"], messages


def _describe(
    config: Config,
    run_dir: Path,
    environments: VectorEnvironment,
    policy: ActorCritic,
) -> list[str]:
    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices(
        "CPU"
    )
    observation = environments.observations.space
    network = policy.network
    return [
        f"Device: {', '.join(device.name.split(':', 1)[1] for device in devices)}",
        f"Environment: {config.num_envs} x {config.env}, observations "
        f"{observation.dtype} {list(observation.shape)}, {environments.action_space}",
        f"Network: {network.name}, {network.count_params():,} weights",
        f"Run directory: {run_dir}",
    ]
