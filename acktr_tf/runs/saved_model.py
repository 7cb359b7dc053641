"""Policies written as SavedModels, which load where this package is not installed.

A SavedModel takes observations as the environment gives them and returns actions as the
environment takes them; everything in between is inside.
"""

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from acktr_tf.config.config import Config
from acktr_tf.errors import RunError, UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.runs.directory import BEST, CONFIG_FILE, read_config, write_config
from acktr_tf.runs.files import (
    atomic_directory,
    is_temporary,
    make_manifest,
    not_writable,
    reason,
    recover,
)
from acktr_tf.spaces.serialization import describe_space
from acktr_tf.spaces.tensors import encode_tensors, tensor_specs
from acktr_tf.types import Array

MODEL_FILE = "saved_model.pb"
CARD_FILES = ("README.md", "learning_curve.png", "episodes.csv.gz", "scores.json")

_MODEL_FILES = (MODEL_FILE, "fingerprint.pb", "variables", "assets")
_CHECKED_ROWS = 16
_TOLERANCE = 1e-4


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
    parameters `[N, P]` under their name. Its graph has no operation that LiteRT or ONNX
    lacks. Signature `sample`: `observation` → `action`,
    drawn; `value`. An observation that consists of several arrays is as many inputs,
    see `tensor_specs`; an action mask is one of them. Actions of a `Tuple` or `Dict`
    are its choices end to end, `[N, k]`.

    Args:
      policy: The policy.
      config: The settings that it was trained with.
      directory: Where to; not atomic, see `replace_export`.
      extra: More entries for `config.json`; numbers that are not finite become null.

    Raises:
      RunError: The loaded policy does not give what the policy gives.
    """
    specs = tensor_specs(policy.observations)

    actions = policy.action_distribution

    def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        output = policy(encode_tensors(policy.observations, inputs))
        return {
            "action": actions.greedy_action(output.parameters),
            "value": output.value * policy.value_scale.value,
            actions.parameter_name: output.parameters,
        }

    def sample(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        observation = encode_tensors(policy.observations, inputs)
        step = policy.sample(observation, _fresh_key())
        return {
            "action": step.environment_action,
            "value": step.value * policy.value_scale.value,
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
        "observation": describe_space(policy.observations.space),
        "action": describe_space(actions.space),
        "files": make_manifest(directory),
    }
    # Nothing that leaves the machine says where on it the run was kept.
    write_config(directory, config.replace(run_dir=None), (), document)
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
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(directory.parent, os.W_OK):
            raise PermissionError("permission denied")
        # Of exports that were killed, of the best policy's, too.
        recover(directory)
        recover(directory / BEST)
    except OSError as error:
        raise not_writable(directory.parent, error) from error
    check_replaceable(directory)
    try:
        with atomic_directory(directory) as saving:
            write(saving)
            if (directory / BEST).is_dir():
                shutil.copytree(directory / BEST, saving / BEST)
    except (OSError, tf.errors.OpError) as error:
        fault = reason(error) if isinstance(error, OSError) else error
        raise RunError(
            f"Cannot export to {directory}: {fault}. What was there is as it was."
        ) from error


def check_replaceable(directory: Path) -> None:
    """Raises a `UserError` if an export to `directory` would destroy something else."""
    if not directory.exists():
        return
    refused = "Give a new directory, an empty one, or one that an export wrote."
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory. {refused}")
    # A killed export of the best policy leaves temporary ones.
    names = {path.name for path in directory.iterdir() if not is_temporary(path.name)}
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


def _fresh_key() -> tf.Tensor:
    """Returns a random key `[2]`, another one each time that the graph is run.

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
    random = np.random.default_rng(0)
    shape = policy.observations.encoded_space.shape
    values: Array = random.standard_normal([_CHECKED_ROWS, *shape])
    rows = values.reshape(_CHECKED_ROWS, -1)
    for part, start, stop in policy.observations.slices:
        if part.dtype == np.uint8:
            rows[:, start:stop] = random.integers(0, 256, (_CHECKED_ROWS, part.size))
    specs = tensor_specs(policy.observations)
    inputs = {
        name: tf.constant(array, specs[name].dtype)
        for name, array in policy.observations.inputs(values).items()
    }
    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    outputs = serve(**inputs)
    parameters, value = policy(encode_tensors(policy.observations, inputs))
    actions = policy.action_distribution
    found = outputs[actions.parameter_name]
    agrees = (
        _close(found, parameters)
        and _close(outputs["value"], value * policy.value_scale.value)
        and _close(outputs["action"], actions.greedy_action(found))
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
