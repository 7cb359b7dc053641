"""The run directory: what is where, whose it is, and the policy that it holds."""

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from acktr_tf.config.config import Config, differences
from acktr_tf.environments import make_vector_env
from acktr_tf.errors import RunError, UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs import checkpoints
from acktr_tf.runs.files import (
    check_entries,
    is_count,
    is_temporary,
    is_words,
    not_writable,
    read_json,
    reason,
    write_atomically,
)
from acktr_tf.runs.locks import exclusive_lock
from acktr_tf.states import StateError, refusals_of, with_prefix

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
EXPORT = "export"
BEST = "best"

_PACKAGES = (
    "acktr-tf",
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "gymnasium",
    "ale-py",
    "mujoco",
    "numpy",
    "scipy",
)


# config.json ------------------------------------------------------------------------
def _is_text_by_name(value: Any) -> bool:
    return isinstance(value, dict) and is_words(list(value.values()))


_ENTRIES = {
    "command": is_words,
    "versions": _is_text_by_name,
    "step": lambda value: value is None or is_count(value),
    "files": lambda value: isinstance(value, dict),
    "observation": lambda value: isinstance(value, dict),
    "action": lambda value: isinstance(value, dict),
}
"""Entries that may be there → whether a value of one is accepted."""


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide what is learnt."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def write_config(
    directory: Path,
    config: Config,
    command: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`: the settings, the versions and the command.

    It is whole or absent at every instant.

    Args:
      directory: Where to; made if it does not exist.
      config: The settings.
      command: What the user typed; left out if empty.
      extra: More entries.

    Raises:
      UserError: The directory cannot be made or written.
      RunError: The disk is full.
    """
    document: dict[str, Any] = {"settings": config.to_dict(), "versions": versions()}
    if command:
        document["command"] = list(command)
    document.update(extra or {})
    text = json.dumps(document, indent=2) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / CONFIG_FILE, text.encode())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"Cannot write {directory / CONFIG_FILE}: {reason(error)}. What was "
                "there is as it was."
            ) from error
        raise not_writable(directory, error) from error


def without_run_dir(command: Sequence[str]) -> list[str]:
    """Returns a run's command without its `--run_dir`.

    Nothing that leaves the machine says where on it the run was kept.
    """
    words = iter(command)
    kept = []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in ("--run_dir", "-run_dir"):
            kept.append(word)
        elif not equals:
            next(words, None)
    return kept


def read_config(directory: Path) -> tuple[Config, dict[str, Any]]:
    """Reads the `config.json` of a run directory or of an exported policy.

    Settings that the file does not have take their defaults.

    Returns:
      The settings, and all that the file holds.

    Raises:
      UserError: The file is missing, damaged, or of another version: it has a setting
        that this version does not know, or a value that it does not accept.
    """
    path = directory / CONFIG_FILE
    try:
        document = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"has no {CONFIG_FILE}" if directory.is_dir() else "does not exist"
        raise UserError(
            f"{directory} is neither a run directory nor an exported policy: it {what}."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(document.get("settings"), dict):
        raise UserError(f"{path} is damaged: it must hold `settings` by name.")
    check_entries(path, document, _ENTRIES)
    try:
        config = Config.from_dict(document["settings"])
    except UserError as error:
        raise UserError(
            f"{path} was written by another version of acktr_tf, or changed by hand. "
            f"{error}"
        ) from error
    return config, document


# The directory ----------------------------------------------------------------------
def check(run_dir: Path, config: Config) -> None:
    """Refuses a run directory in which `config` can neither start nor continue.

    Raises:
      UserError: It is a file, holds something else than a run, or a run with other
        settings, which are named. Nothing was changed.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"`run_dir` must be a directory. Received a file: {run_dir}")
    try:
        names = [path.name for path in run_dir.iterdir()] if run_dir.is_dir() else []
    except OSError as error:
        raise not_writable(run_dir, error) from error
    if CONFIG_FILE not in names:
        # A run that was killed while it made its first file leaves a temporary one.
        others = [name for name in names if not is_temporary(name)]
        if others:
            raise UserError(
                f"`run_dir` must be a run, an empty directory or a new one. Received: "
                f"{run_dir}, which has no {CONFIG_FILE} and holds {sorted(others)[0]}."
            )
        return
    started, _ = read_config(run_dir)
    if changed := differences(started, config):
        raise UserError(
            f"{run_dir} holds a run with other settings: {'; '.join(changed)}. Give "
            "the settings it was started with to continue it, or another `--run_dir`."
        )


@contextlib.contextmanager
def opened(run_dir: Path, config: Config, command: Sequence[str]) -> Iterator[None]:
    """Holds a run directory, made if need be, for this process alone.

    Args:
      run_dir: The directory, which `check` has accepted.
      config: The settings, written down if this is a new run. Of a run that is
        continued, a larger `total_steps` is.
      command: What the user typed, written down with them.

    Raises:
      UserError: It cannot be made or written, or another process trains in it.
    """
    refusal = (
        f"Another process trains in {run_dir}. Stop it to continue the run here, "
        "or give another `--run_dir`."
    )
    with exclusive_lock(run_dir, refusal):
        # Looked at again: another process may have begun a run since `check`.
        check(run_dir, config)
        if not os.access(run_dir, os.W_OK):
            raise not_writable(run_dir, PermissionError("permission denied"))
        for path in list(run_dir.iterdir()):
            if is_temporary(path.name) and path.is_file():
                path.unlink()
        if not (run_dir / CONFIG_FILE).exists():
            write_config(run_dir, config, command)
        started, document = read_config(run_dir)
        if started.run.total_steps != config.run.total_steps:
            longer = started.replace(total_steps=config.run.total_steps)
            kept = {"versions": document.get("versions", {})}
            write_config(run_dir, longer, command, kept)
        yield


# The policy -------------------------------------------------------------------------
class RestoredPolicy(NamedTuple):
    """Policy of a run, as a checkpoint has it.

    Attributes:
      policy: Networks and distribution.
      config: The settings of the run.
      step: Agent steps that it was trained for.
      path: The checkpoint.
    """

    policy: ActorCritic
    config: Config
    step: int
    path: Path


def restored_policy(run_dir: Path, path: Path | None = None) -> RestoredPolicy:
    """Restores the policy of a run from one of its checkpoints.

    Args:
      run_dir: The run directory.
      path: The checkpoint, or None for the newest.

    Raises:
      UserError: There is no run, no checkpoint, or it is damaged.
    """
    config, _ = read_config(run_dir)
    if path is None:
        path = checkpoints.latest(run_dir / CHECKPOINTS)
    if path is None:
        raise UserError(
            f"{run_dir} has no policy yet: neither {EXPORT}/ nor a checkpoint."
        )
    if not path.is_dir():
        raise UserError(f"There is no checkpoint {path}.")
    saved = checkpoints.load(path)
    part = "learner/policy"
    environments = make_vector_env(config.environment, config.run.seed, num_envs=1)
    try:
        policy = ActorCritic(
            config.policy,
            environments.observation_space,
            environments.action_space,
            config.run.seed,
        )
    finally:
        environments.close()
    try:
        with refusals_of(part):
            policy.load_state(with_prefix(part, saved.arrays))
    except StateError as error:
        raise checkpoints.DamagedCheckpointError(path, str(error)) from error
    return RestoredPolicy(policy, config, saved.step, path)
