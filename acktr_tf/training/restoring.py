"""Continuing a run from the newest of its checkpoints that is whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from acktr_tf.environments import VectorEnvironment
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import checkpoints, logs
from acktr_tf.runs.checkpoints import Checkpoint, DamagedCheckpointError
from acktr_tf.states import (
    State,
    StateError,
    Stateful,
    load_states,
    refusals_of,
    with_prefix,
)
from acktr_tf.training.progress import Progress
from acktr_tf.types import Array

ENVIRONMENTS, LOG, PROGRESS = "environments", "log", "progress"
"""Names of parts of a checkpoint that are not only loaded."""


class Restored(NamedTuple):
    """A run as a checkpoint has it.

    Attributes:
      step: Agent steps of the run.
      observation: `[B, ...]`, what to act on next.
      restarted: Environments whose simulator did not repeat itself.
      log: State of the log.
      messages: What is to be said of newer checkpoints that are damaged.
    """

    step: int
    observation: Array
    restarted: list[int]
    log: State
    messages: list[str]


def restore(
    directory: Path,
    parts: Mapping[str, Stateful],
    progress: Progress,
    environments: VectorEnvironment,
) -> Restored | None:
    """Loads the newest checkpoint that is whole into the parts of a run.

    A checkpoint is damaged if a byte of it was changed, or if a part of the run refuses
    its state. It is set aside once an older one is loaded, which overwrites whatever
    was loaded from it.

    Args:
      directory: Where the checkpoints are.
      parts: Parts of the run but for environments and log, by name.
      progress: The one among them that counts.
      environments: The environments.

    Returns:
      What was loaded, or None if there is no checkpoint at all.

    Raises:
      UserError: All checkpoints are damaged, or one is of another format. None was
        changed.
      RunError: The simulator failed.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in reversed(checkpoints.complete(directory)):
        try:
            restored = _load(path, parts, progress, environments)
        except DamagedCheckpointError as error:
            damaged.append(error)
            continue
        return restored._replace(messages=_set_aside(damaged))
    if damaged:
        raise _none_left(damaged)
    return None


def _load(
    path: Path,
    parts: Mapping[str, Stateful],
    progress: Progress,
    environments: VectorEnvironment,
) -> Restored:
    saved = checkpoints.load(path)
    try:
        return _load_parts(saved, parts, progress, environments)
    except RunError:
        raise
    # The state of an algorithm of the user's own may fail to load in any way.
    except Exception as error:
        text = " ".join(str(error).split())
        known = isinstance(error, UserError)
        fault = text if known else f"{type(error).__name__}: {text}"
        raise DamagedCheckpointError(path, fault) from error


def _load_parts(
    saved: Checkpoint,
    parts: Mapping[str, Stateful],
    progress: Progress,
    environments: VectorEnvironment,
) -> Restored:
    load_states(parts, saved.arrays)
    if progress.step != saved.step:
        raise StateError(
            f"{PROGRESS}/updates is {progress.updates}, which makes {progress.step} "
            f"steps instead of {saved.step}"
        )
    log = with_prefix(LOG, saved.arrays)
    with refusals_of(LOG):
        logs.read_state(log)
    with refusals_of(ENVIRONMENTS):
        observation, restarted = environments.load_state(
            with_prefix(ENVIRONMENTS, saved.arrays)
        )
    return Restored(saved.step, observation, restarted, log, [])


def _set_aside(damaged: Sequence[DamagedCheckpointError]) -> list[str]:
    """Renames damaged checkpoints, so that they are counted and read no more."""
    messages = []
    for error in damaged:
        name = checkpoints.set_aside(error.path)
        messages.append(
            f"The checkpoint {error.path} is damaged: {error.fault}. It is now called "
            f"{name}, and the run continues from an earlier one."
        )
    return messages


def _none_left(damaged: Sequence[DamagedCheckpointError]) -> UserError:
    newest, *others = damaged
    if not others:
        return newest
    return UserError(
        f"The checkpoint {newest.path} is damaged: {newest.fault}. So are the "
        f"{len(others)} before it: start a new run in another `--run_dir`."
    )
