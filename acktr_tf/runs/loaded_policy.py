"""Policies loaded from SavedModels."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from acktr_tf.config.config import Config
from acktr_tf.environments import VectorEnvironment
from acktr_tf.errors import UserError
from acktr_tf.policies.distributions import make_action_distribution
from acktr_tf.runs.directory import BEST, CHECKPOINTS, EXPORT, read_config
from acktr_tf.runs.files import DamagedFileError, check_manifest
from acktr_tf.runs.saved_model import MODEL_FILE
from acktr_tf.spaces.observations import Observations
from acktr_tf.spaces.serialization import space_from_description
from acktr_tf.spaces.tensors import tensor_specs
from acktr_tf.types import Array


class LoadedPolicy:
    """Policy from a SavedModel.

    Attributes:
      config: The settings that it was trained with.
      document: All that its `config.json` holds.
      signatures: Signatures of the SavedModel.
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
        actions = make_action_distribution(
            space_from_description(document["action"]),
            squash=config.policy.action_bounds == "squash",
        )

        def draw(key: tf.Tensor, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
            parameters = self._serve(**inputs)[actions.parameter_name]
            action = actions.distribution(parameters).sample(seed=key)
            return actions.to_environment(action)

        self._draw = tf.function(draw, autograph=False, reduce_retracing=True)

    @property
    def step(self) -> int | None:
        """Agent steps that the policy was trained for, if they were written down."""
        return self.document.get("step")

    @property
    def input_names(self) -> list[str]:
        """Names of the arrays that the signatures take."""
        return list(tensor_specs(self._observations))

    def predict(
        self,
        observation: Array,
        key: npt.NDArray[np.int32],
        *,
        deterministic: bool = False,
    ) -> Array:
        """Returns actions `[N, ...]` as the environment takes them.

        Args:
          observation: `[N, ...]`, encoded for networks.
          key: `[2]`, random.
          deterministic: Whether to take the most probable actions; they are drawn
            otherwise.
        """
        tensors = self._tensors(observation)
        if deterministic:
            return np.asarray(self._serve(**tensors)["action"])
        return np.asarray(self._draw(tf.constant(key), tensors))

    def check_fits(self, environments: VectorEnvironment) -> None:
        """Raises a `UserError` unless the policy can play in `environments`."""
        mine, its = self._observations, environments.observations
        if not mine.compatible_with(its):
            self._refuse(environments, "observations", mine.space, its.space)
        actions = space_from_description(self.document["action"])
        if actions != environments.action_space:
            self._refuse(environments, "actions", actions, environments.action_space)

    def _refuse(
        self, environments: VectorEnvironment, what: str, mine: Any, its: Any
    ) -> NoReturn:
        raise UserError(
            f"The policy, trained on {self.config.environment.env}, cannot play "
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
    """Returns whether `directory` holds an exported policy."""
    return (directory / MODEL_FILE).is_file()


def find_best(run_dir: Path) -> Path:
    """Returns the export of the policy that scored best in a run's evaluations.

    Raises:
      UserError: The run has none.
    """
    best = run_dir / EXPORT / BEST
    if not is_export(best):
        raise UserError(
            f"{run_dir} has no best policy. A run keeps one if it is started with "
            "--evaluation_period."
        )
    return best


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
        check_manifest(directory, document["files"])
        model = tf.saved_model.load(str(directory))
        return LoadedPolicy(model, config, document)
    except DamagedFileError as error:
        raise UserError(
            f"The exported policy {directory} is damaged: {error}. Export it again."
        ) from error
    except KeyError as error:
        raise UserError(
            f"{directory} was not written by acktr_tf.export, or by another version "
            f"of it: it lacks {error}."
        ) from error
    # A description of a space, and a SavedModel, may be wrong in any way.
    except Exception as error:
        raise UserError(
            f"The exported policy {directory} cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
