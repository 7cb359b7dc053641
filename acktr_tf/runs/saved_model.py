"""Policies as SavedModels, which load where this package is not installed.

A SavedModel takes observations as the environment gives them and returns actions as the
environment takes them; everything in between is inside.
"""

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from acktr_tf.config.config import Config
from acktr_tf.environments import VectorEnvironment
from acktr_tf.errors import RunError, UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.policies.distributions import make_actions
from acktr_tf.runs.directory import (
    BEST,
    CHECKPOINTS,
    CONFIG_FILE,
    read_config,
    write_config,
)
from acktr_tf.spaces.observations import Observations
from acktr_tf.spaces.serialization import describe_space, space_from_description
from acktr_tf.spaces.tensors import encode_tensors, tensor_specs

Array = npt.NDArray[Any]

MODEL_FILE = "saved_model.pb"
CARD_FILES = ("README.md", "learning_curve.png", "episodes.csv.gz", "scores.json")

_MODEL_FILES = (MODEL_FILE, "fingerprint.pb", "variables", "assets")
_SAVING = ".saving-"
_REPLACED = ".replaced-"
_CHECKED_ROWS = 16
_TOLERANCE = 1e-4


# Writing ----------------------------------------------------------------------------
def export_policy(
    policy: ActorCritic,
    config: Config,
    directory: Path,
    extra: Mapping[str, Any],
) -> None:
    """Writes a policy as a SavedModel; see `write_policy` and `replace_export`.

    Args:
      policy: The policy.
      config: The settings that it was trained with.
      directory: Where to.
      extra: More entries for its `config.json`, such as the `step`.
    """
    replace_export(
        directory, lambda target: write_policy(policy, config, target, extra)
    )


def write_policy(
    policy: ActorCritic, config: Config, directory: Path, extra: Mapping[str, Any]
) -> None:
    """Writes a SavedModel and its `config.json`, and checks them by loading them.

    Signature `serving_default`: `observation` `[N, ...]` → `action` `[N, ...]`, the
    mode of the distribution; `value` `[N]`, in raw rewards; and the distribution's
    parameters `[N, P]` under their name. Signature `sample`: `observation` → `action`,
    drawn; `value`. An observation that consists of several arrays is as many inputs,
    see `tensor_specs`.

    Args:
      policy: The policy.
      config: The settings that it was trained with.
      directory: Where to; not atomic, see `replace_export`.
      extra: More entries for `config.json`; numbers that are not finite become null.

    Raises:
      RunError: The loaded policy does not give what the policy gives.
    """
    specs = tensor_specs(policy.observations)

    def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        parameters, value = policy.forward(encode_tensors(policy.observations, inputs))
        mode = policy.actions.distribution(parameters).mode()
        return {
            "action": policy.actions.to_environment(mode),
            "value": value * policy.value_scale.value,
            policy.actions.parameter_name: parameters,
        }

    def sample(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        acted = policy.acted(encode_tensors(policy.observations, inputs), _fresh_key())
        return {
            "action": acted.environment_action,
            "value": acted.value * policy.value_scale.value,
        }

    # Of plain variables: a Keras model in it would want Keras where it is loaded.
    module = tf.Module()
    module.weights = [variable.value for variable in policy.variables]
    with _without_chatter():
        tf.saved_model.save(
            module,
            str(directory),
            signatures={
                name: tf.function(signature, autograph=False).get_concrete_function(
                    **specs
                )
                for name, signature in [("serving_default", serve), ("sample", sample)]
            },
        )
    document = {
        **{name: _finite(value) for name, value in extra.items()},
        "observation": describe_space(policy.observations.raw_space),
        "action": describe_space(policy.actions.space),
        "files": _checksums(directory),
    }
    # Where the run was kept says something of a machine, and nothing of the policy.
    write_config(directory, dataclasses.replace(config, run_dir=""), (), document)
    _check_reload(policy, directory)


def replace_export(directory: Path, write: Callable[[Path], None]) -> None:
    """Puts an export into `directory`, whole or not at all.

    An earlier export there is replaced, once the new one is complete; a `best` in it
    stays.

    Args:
      directory: Where to; its parents are made.
      write: Fills the directory that it is given.

    Raises:
      UserError: `directory` is something else than an earlier export, or its parent
        cannot be written. Nothing was changed.
      RunError: Writing failed (a full disk). What was there is still there.
    """
    # What a link leads to is replaced, not the link.
    directory = Path(os.path.realpath(directory))
    saving = directory.with_name(f"{_SAVING}{directory.name}")
    replaced = directory.with_name(f"{_REPLACED}{directory.name}")
    _put_back(replaced, directory)
    _put_back(directory / f"{_REPLACED}{BEST}", directory / BEST)
    check_replaceable(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _remove(saving, replaced)
        saving.mkdir()
    except OSError as error:
        raise UserError(
            f"{directory.parent} must be a directory that can be written. "
            f"Received: {error.strerror or error}"
        ) from error
    try:
        write(saving)
        if (directory / BEST).is_dir():
            shutil.copytree(directory / BEST, saving / BEST)
        _sync(saving)
        if directory.exists():
            os.rename(directory, replaced)
        os.rename(saving, directory)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"Cannot export to {directory}: {reason}. What was there is as it was."
        ) from error
    finally:
        _put_back(replaced, directory)
        for path in (saving, replaced):
            shutil.rmtree(path, ignore_errors=True)


def check_replaceable(directory: Path) -> None:
    """Raises a `UserError` if an export to `directory` would destroy something else."""
    if not directory.exists():
        return
    refused = "Give a new directory, an empty one, or one that an export wrote."
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory. {refused}")
    names = {
        path.name
        for path in directory.iterdir()
        # What an export of the best policy leaves that was killed.
        if not path.name.startswith((_SAVING, _REPLACED))
    }
    known = {*_MODEL_FILES, *CARD_FILES, CONFIG_FILE, BEST}
    if others := sorted(names - known):
        raise UserError(
            f"{directory} holds {others[0]}, which is not of an export. {refused}"
        )
    if names - {BEST} and not {MODEL_FILE, CONFIG_FILE} <= names:
        raise UserError(f"{directory} holds something else than an export. {refused}")


def copy_export(source: Path, directory: Path) -> None:
    """Copies an exported policy without its card and its `best`."""
    _, document = read_config(source)
    for name in (CONFIG_FILE, *document.get("files", ())):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, directory / name)


# Loading ----------------------------------------------------------------------------
class LoadedPolicy:
    """A policy from a SavedModel.

    Attributes:
      config: The settings that it was trained with.
      document: All that its `config.json` holds.
      signatures: Those of the SavedModel.
    """

    def __init__(self, model: Any, config: Config, document: dict[str, Any]) -> None:
        self.config = config
        self.document = document
        self.signatures = model.signatures
        self._model = model  # Holds the variables, which the signatures do not.
        self._serve = model.signatures["serving_default"]
        self._observations = Observations(
            space_from_description(document["observation"])
        )
        actions = make_actions(
            space_from_description(document["action"]),
            squash=config.action_bounds == "squash",
        )

        def draw(key: tf.Tensor, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
            parameters = self._serve(**inputs)[actions.parameter_name]
            action = actions.distribution(parameters).sample(seed=key)
            return actions.to_environment(action)

        self._draw = tf.function(draw, autograph=False, reduce_retracing=True)

    @property
    def step(self) -> int | None:
        """Agent steps that it was trained for, if they were written down."""
        return self.document.get("step")

    @property
    def input_names(self) -> list[str]:
        """Of what the signatures are given, one array each."""
        return list(tensor_specs(self._observations))

    def greedy(self, observation: Array) -> Array:
        """The most probable actions `[N, ...]`, as the environment takes them."""
        return np.asarray(self._serve(**self._tensors(observation))["action"])

    def sample(self, observation: Array, key: npt.NDArray[np.int32]) -> Array:
        """Actions `[N, ...]` drawn with the random `key` `[2]`."""
        return np.asarray(self._draw(tf.constant(key), self._tensors(observation)))

    def check_fits(self, environments: VectorEnvironment) -> None:
        """Raises a `UserError` unless the policy can play in `environments`."""
        mine, its = self._observations, environments.observations
        if not mine.alike(its):
            self._refuse(environments, "observations", mine.raw_space, its.raw_space)
        actions = space_from_description(self.document["action"])
        if actions != environments.action_space:
            self._refuse(environments, "actions", actions, environments.action_space)

    def _refuse(
        self, environments: VectorEnvironment, what: str, mine: Any, its: Any
    ) -> NoReturn:
        raise UserError(
            f"The policy, trained on {self.config.env}, cannot play "
            f"{environments.name}: its {what} are {' '.join(str(mine).split())}, those "
            f"of the environment {' '.join(str(its).split())}."
        )

    def _tensors(self, observation: Array) -> dict[str, tf.Tensor]:
        specs = tensor_specs(self._observations)
        return {
            name: tf.convert_to_tensor(array, specs[name].dtype)
            for name, array in self._observations.inputs(observation).items()
        }


def is_export(directory: Path) -> bool:
    """Whether `directory` holds an exported policy."""
    return (directory / MODEL_FILE).is_file()


def load_policy(directory: Path) -> LoadedPolicy:
    """Loads a policy that `export_policy` wrote, after a check of every byte.

    Raises:
      UserError: There is none, or a file is missing, cut off or changed.
    """
    if not directory.is_dir():
        raise UserError(f"There is no exported policy {directory}: no such directory.")
    if not is_export(directory):
        hint = ""
        if (directory / CHECKPOINTS).is_dir():
            hint = f" It is a run directory: give it as --run_dir={directory}."
        raise UserError(
            f"{directory} is not an exported policy: it has no {MODEL_FILE}.{hint}"
        )
    config, document = read_config(directory)
    try:
        _check_files(directory, document["files"])
        model = tf.saved_model.load(str(directory))
        return LoadedPolicy(model, config, document)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory} was not written by acktr_tf.export, or by another version "
            f"of it: it lacks {error}."
        ) from error
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"The exported policy {directory} cannot be loaded: {error}"
        ) from error


# Parts ------------------------------------------------------------------------------
def _fresh_key() -> tf.Tensor:
    """A random key `[2]`, another one each time that the graph is run.

    The seeds of 0 ask for one from the system, also in a graph that was traced under a
    global seed: that would be written into the graph, and two processes would draw
    alike.
    """
    return tf.raw_ops.RandomUniformInt(
        shape=[2],
        minval=tf.constant(tf.int32.min),
        maxval=tf.constant(tf.int32.max),
        seed=0,
        seed2=0,
    )


def _check_reload(policy: ActorCritic, directory: Path) -> None:
    spec = policy.observation_spec
    shape = [_CHECKED_ROWS, *spec.shape[1:]]
    random = np.random.default_rng(0)
    values: Array
    if spec.dtype.is_integer:
        values = random.integers(spec.dtype.min, spec.dtype.max, shape, endpoint=True)
    else:
        values = random.standard_normal(shape)
    specs = tensor_specs(policy.observations)
    inputs = {
        name: tf.constant(array, specs[name].dtype)
        for name, array in policy.observations.inputs(values).items()
    }
    outputs = tf.saved_model.load(str(directory)).signatures["serving_default"](
        **inputs
    )
    observation = encode_tensors(policy.observations, inputs)
    parameters, value = policy.forward(observation)
    found = outputs[policy.actions.parameter_name]
    mode = policy.actions.distribution(found).mode()
    agrees = (
        _close(found, parameters)
        and _close(outputs["value"], value * policy.value_scale.value)
        and _close(outputs["action"], policy.actions.to_environment(mode))
    )
    if not agrees:
        raise RunError(
            "The exported policy does not give what the policy itself gives, or its "
            "outputs are not finite. Nothing was exported."
        )


def _close(exported: tf.Tensor, expected: tf.Tensor) -> bool:
    return np.allclose(exported, expected, rtol=_TOLERANCE, atol=_TOLERANCE)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps TensorFlow from announcing each file that it has written."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _checksums(directory: Path) -> dict[str, dict[str, Any]]:
    """Length and SHA-256 of every file below `directory`."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            name = path.relative_to(directory).as_posix()
            found[name] = {
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
    return found


def _check_files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise UserError(
                f"The exported policy {directory} is damaged: {name} is missing."
            )
        data = path.read_bytes()
        if len(data) != expected["bytes"]:
            fault = f"must have {expected['bytes']} bytes and has {len(data)}"
        elif hashlib.sha256(data).hexdigest() != expected["sha256"]:
            fault = "is not what was written: its bytes were changed"
        else:
            continue
        raise UserError(f"The exported policy {directory} is damaged: {name} {fault}.")


def _sync(directory: Path) -> None:
    """Waits until all of `directory` is on the disk."""
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_back(replaced: Path, directory: Path) -> None:
    """Undoes half a replacement: one that failed, or whose process was killed."""
    if replaced.exists() and not directory.exists():
        os.rename(replaced, directory)


def _remove(*directories: Path) -> None:
    for path in directories:
        if path.exists():
            shutil.rmtree(path)
