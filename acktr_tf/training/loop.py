"""Training loop: collect, update, log, evaluate, save. No mathematics.

Everything that decides a run's future is in its checkpoint: weights, optimizers, where
each environment is, and counters. Random draws depend on the seed and the counters
alone, so a continued run makes those that the uninterrupted run would have made.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from acktr_tf.algorithms import Learner, Update, make_learner
from acktr_tf.backend import is_out_of_memory
from acktr_tf.config import Config
from acktr_tf.environments import VectorEnvironment, make_vector_env
from acktr_tf.errors import RunError, UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints, saved_model
from acktr_tf.runs import directory as run_directory
from acktr_tf.runs.directory import BEST, CHECKPOINTS, EXPORT
from acktr_tf.runs.logs import RunLog
from acktr_tf.runs.progress_bar import ProgressBar
from acktr_tf.runs.scalars import TRAINING_SCALARS
from acktr_tf.states import Stateful, states
from acktr_tf.training.collector import Collector
from acktr_tf.training.memory import check_memory
from acktr_tf.training.normalization import RunningNormalization
from acktr_tf.training.progress import Best, Progress, Stopwatch, resident_memory
from acktr_tf.training.restoring import (
    ENVIRONMENTS,
    LOG,
    PROGRESS,
    Restored,
    restore,
)
from acktr_tf.training.scoring import EndlessGameError, score_policy
from acktr_tf.training.stopping import StopRequest
from acktr_tf.types import Scalar

MAX_SKIPPED_UPDATES = 10


def train(config: Config, command: Sequence[str]) -> int:
    """Runs, or continues, the run in `config.run.run_dir`.

    Args:
      config: The settings; `run_dir` must be given.
      command: What the user typed, to be kept with the run.

    Returns:
      0 if the run is complete, 130 or 143 if SIGINT or SIGTERM stopped it.

    Raises:
      UserError: The run directory holds something else, was started with other
        settings, or all of its checkpoints are damaged; the environment is unknown; or
        the run takes more memory than is available.
      RunError: The simulator, the disk, the memory or the numbers failed, or standard
        error cannot be written. The last checkpoint is whole.
    """
    if config.run.run_dir is None:
        raise UserError("`run_dir` must be given. Received: run_dir=auto")
    if config.run.deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(config.run.seed)
    run_dir = Path(config.run.run_dir)
    run_directory.check(run_dir, config)
    environments = make_vector_env(config.environment, config.run.seed)
    try:
        # Before the directory is claimed: this may refuse the settings.
        policy = ActorCritic(
            config.policy,
            environments.observation_space,
            environments.action_space,
            config.run.seed,
        )
        notes = check_memory(config, policy)
        learner = make_learner(config, policy)
        with run_directory.opened(run_dir, config, command), StopRequest() as stop:
            run = _Run.begin(config, run_dir, environments, learner, stop, notes)
            try:
                return _loop(run)
            finally:
                run.bar.close()
                run.log.close()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"The memory of the machine, or what this process may have of it, ran out: "
            f"{_first_line(error)}. The run stops; if it had a checkpoint, the last "
            "one is whole. A smaller max_factor_dim, unroll_length or num_envs takes "
            "less memory."
        ) from error
    finally:
        environments.close()


def _loop(run: "_Run") -> int:
    """Trains until the end, or until a signal; returns the exit status."""
    config, progress, learner = run.config, run.progress, run.learner
    skipped, saved = 0, time.monotonic()
    if progress.updates >= config.total_updates:
        run.bar.write(f"The run is complete: {progress.step} steps.")
    while progress.updates < config.total_updates:
        last = progress.updates + 1 == config.total_updates
        evaluate = _evaluation_due(config, progress.step, last)
        logged = evaluate or last or (progress.updates + 1) % config.run.log_period == 0

        collected = run.collector.collect(progress.step)
        rollout = run.normalization.scale_rewards(collected.rollout)
        update = learner.update(rollout, progress.updates, measure=logged)
        skipped = _check_finite(run, update, skipped)
        run.normalization.update_observations(rollout)

        progress.updates += 1
        run.stopwatch.add({**collected.seconds, **update.seconds})
        progress.add_episodes([episode for _, episode in collected.episodes])
        for step, episode in collected.episodes:
            run.log.episode(step, episode, progress.seconds)
        scalars = progress.episode_scalars()
        if logged:
            scalars |= update.metrics | _run_scalars(run)
        if evaluate:
            scalars["evaluation_return"] = _evaluate(run)
            run.stopwatch.restart(progress.step)  # Speed and shares are of training.
        if logged:
            run.log.scalars(progress.step, scalars)
        run.bar.update(progress.step, scalars)

        if run.stop.signal is not None:
            run.save()
            run.bar.write(
                f"Stopped at step {progress.step}. The same command with "
                f"--run_dir={run.directory} continues."
            )
            return run.stop.exit_status
        if run.bar.fault:
            run.save()
            raise RunError(
                f"{run.bar.fault}. The run is saved at step {progress.step}: the same "
                f"command with --run_dir={run.directory} continues."
            )
        if time.monotonic() - saved >= config.run.checkpoint_seconds:
            run.save()
            saved = time.monotonic()
    run.save()
    _export(run, run.directory / EXPORT, progress.episode_scalars())
    complete = f"Complete: the policy is in {run.directory / EXPORT}."
    run.bar.write(complete)
    if run.bar.fault:
        raise RunError(f"{run.bar.fault}. {complete}")
    return 0


def _check_finite(run: "_Run", update: Update, skipped: int) -> int:
    """Tolerates a few steps that were not taken because they were not finite.

    Args:
      run: The run.
      update: The update just made.
      skipped: How many updates before it, in a row, took no step.

    Returns:
      The same number with this update.
    """
    if update.applied:
        return 0
    losses = ", ".join(
        f"{name.replace('_', ' ')} {value:g}"
        for name, value in update.metrics.items()
        if name.endswith("_loss")
    )
    what = (
        f"The gradient of update {run.progress.updates + 1} is not finite"
        f"{f' ({losses})' if losses else ''}"
    )
    if skipped + 1 == MAX_SKIPPED_UPDATES:
        raise RunError(
            f"{what}, as were the {MAX_SKIPPED_UPDATES - 1} before. The run stops; its "
            "last checkpoint is whole. A smaller learning_rate may help."
        )
    run.bar.write(f"{what}: the step is left out.")
    return skipped + 1


def _run_scalars(run: "_Run") -> dict[str, float]:
    return {
        **run.stopwatch.scalars(run.progress.step),
        "updates": run.progress.updates,
        "seconds": run.progress.seconds,
        "reward_scale": run.normalization.reward_scale,
        "memory": resident_memory(),
    }


# Evaluation and export --------------------------------------------------------------
def _evaluation_due(config: Config, step: int, last: bool) -> bool:
    """Returns whether the next update completes a period, or the run."""
    period = config.run.evaluation_period
    if period is None:
        return False
    return last or (step + config.batch_size) // period > step // period


def _evaluate(run: "_Run") -> float:
    """Scores the policy, and exports it if it is the best so far.

    Returns:
      Mean raw return; nan if a game does not end, or the run is being stopped.
    """
    settings, step = run.config.run, run.progress.step
    try:
        scores = score_policy(
            run.learner.policy,
            run.config.environment,
            settings.seed,
            settings.evaluation_games,
        )
    except (UserError, RunError) as error:
        # A signal to all processes may have ended those of the games.
        stopped = run.stop.signal is not None
        if not stopped and not isinstance(error, EndlessGameError):
            raise
        run.bar.write(f"Evaluation at step {step}: given up. {error}")
        return math.nan
    run.bar.write(
        f"Evaluation at step {step}: mean return {scores.mean:.1f} over "
        f"{len(scores.returns)} games."
    )
    if run.progress.best is None or scores.mean > run.progress.best.mean:
        run.progress.best = Best(scores.mean, step)
        about = {"evaluation_return": scores.mean}
        _export(run, run.directory / EXPORT / BEST, about)
    return scores.mean


def _export(run: "_Run", directory: Path, about: dict[str, float]) -> None:
    document = {"step": run.progress.step, **about}
    saved_model.export_policy(run.learner.policy, run.config, directory, document)


# The run ----------------------------------------------------------------------------
@dataclasses.dataclass
class _Run:
    """Everything that one process needs of a run."""

    config: Config
    directory: Path
    stop: StopRequest
    environments: VectorEnvironment
    learner: Learner
    normalization: RunningNormalization
    progress: Progress
    collector: Collector
    stopwatch: Stopwatch
    log: RunLog
    bar: ProgressBar

    @classmethod
    def begin(
        cls,
        config: Config,
        directory: Path,
        environments: VectorEnvironment,
        learner: Learner,
        stop: StopRequest,
        notes: Sequence[str],
    ) -> "_Run":
        """Starts a run, or continues it from its newest checkpoint that is whole.

        Args:
          config: The settings.
          directory: An opened run directory.
          environments: Environments to train on, not yet reset.
          learner: For these environments.
          stop: Request to stop.
          notes: Lines to show at the start, beside those of every run.
        """
        normalization = RunningNormalization(
            config.policy,
            config.returns,
            environments.num_envs,
            learner.policy,
        )
        progress = Progress(config.batch_size)
        messages = _describe(config, directory, environments, learner.policy)
        messages += notes
        parts = _parts(learner, normalization, progress)
        restored = restore(directory / CHECKPOINTS, parts, progress, environments)
        if restored is None:
            observation, log_state = environments.reset(), None
        else:
            observation, log_state = restored.observation, restored.log
            messages += _describe_continued(restored, environments)
        stopwatch = Stopwatch(["acting", "environments", *learner.phases])
        log = RunLog(directory, config, all_scalars(learner), log_state)
        bar = ProgressBar(
            config.total_updates * config.batch_size,
            progress.step,
            config.run.progress_bar,
        )
        for message in messages:
            bar.write(message)
        collector = Collector(
            learner,
            environments,
            config.run.unroll_length,
            config.run.seed,
            observation,
        )
        stopwatch.restart(progress.step)
        run = cls(
            config,
            directory,
            stop,
            environments,
            learner,
            normalization,
            progress,
            collector,
            stopwatch,
            log,
            bar,
        )
        if restored is None:
            run.save()
        return run

    def save(self) -> None:
        """Writes a checkpoint."""
        parts = _parts(self.learner, self.normalization, self.progress)
        arrays = states({**parts, ENVIRONMENTS: self.environments, LOG: self.log})
        checkpoints.save(
            self.directory / CHECKPOINTS,
            checkpoints.Checkpoint(self.progress.step, arrays),
            self.config.run.checkpoints_kept,
        )


def _parts(
    learner: Learner, normalization: RunningNormalization, progress: Progress
) -> dict[str, Stateful]:
    return {"learner": learner, "normalization": normalization, PROGRESS: progress}


def all_scalars(learner: Learner) -> dict[str, Scalar]:
    """Returns all scalars of a run by name, in the order of their columns.

    Args:
      learner: Learner whose scalars and phases are among them.

    Raises:
      ValueError: The learner has a scalar that every run has.
    """
    shares = {
        f"share_{phase}": Scalar(
            "", f"Share of the time spent on {what}.", f"time/share_{phase}"
        )
        for phase, what in learner.phases.items()
    }
    if taken := TRAINING_SCALARS.keys() & {**learner.scalars, **shares}.keys():
        raise ValueError(
            f"Scalars of a learner must not have names that every run uses. Received: "
            f"{', '.join(sorted(taken))}"
        )
    return {**TRAINING_SCALARS, **learner.scalars, **shares}


def _first_line(error: Exception) -> str:
    """Returns the start of a message, without the device and the place in a graph."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.partition(" on /")[0].rstrip(".")


# Messages ---------------------------------------------------------------------------
def _describe(
    config: Config,
    directory: Path,
    environments: VectorEnvironment,
    policy: ActorCritic,
) -> list[str]:
    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices(
        "CPU"
    )
    observation = environments.observations.network_space
    masked = environments.observations.mask is not None
    network = policy.network
    left_out = [f"{name} (text)" for name in environments.left_out]
    return [
        f"Device: {', '.join(device.name.split(':', 1)[1] for device in devices)}",
        f"Environment: {environments.num_envs} x {config.environment.env}, "
        f"observations {observation.dtype} {list(observation.shape)}, "
        f"{environments.action_space}{' with action masks' if masked else ''}"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        f"Network: {network.name}, {network.count_params():,} weights",
        f"Run directory: {directory}",
    ]


def _describe_continued(
    restored: Restored, environments: VectorEnvironment
) -> list[str]:
    messages = [*restored.messages, f"Continuing from step {restored.step}."]
    if restored.restarted:
        messages.append(
            f"The simulator did not repeat itself in {len(restored.restarted)} of "
            f"{environments.num_envs} environments: their episodes start anew."
        )
    return messages
