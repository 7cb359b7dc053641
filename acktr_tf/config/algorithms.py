"""Algorithms by name, with the settings of each."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from acktr_tf.backend import load_tensorflow
from acktr_tf.config.a2c import A2CSettings
from acktr_tf.config.acktr import ACKTRSettings
from acktr_tf.config.setting import Settings, did_you_mean
from acktr_tf.errors import UserError
from acktr_tf.modules import import_module


class Algorithm(NamedTuple):
    """One algorithm as the settings know it.

    Attributes:
      name: Name that `--algorithm` takes.
      settings: Class of its settings.
      place: Where its class is, `module:Class`, imported when it is needed.
    """

    name: str
    settings: type[Settings]
    place: str

    def load(self) -> Any:
        """Imports the algorithm's class."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            Algorithm("acktr", ACKTRSettings, "acktr_tf.algorithms.acktr:ACKTR"),
            Algorithm("a2c", A2CSettings, "acktr_tf.algorithms.a2c:A2C"),
        )
    }
)
"""The algorithms of the package, by name."""


def find_algorithm(name: str) -> Algorithm:
    """Finds the algorithm that `--algorithm=name` means.

    Args:
      name: Name of an algorithm of the package, or `module:Class` of one outside of it,
        whose attribute `Settings` is the class of its settings.

    Raises:
      UserError: There is no such algorithm; the message names those that there are.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise UserError(
            f"Unknown algorithm `{name}`.{did_you_mean(name, list(ALGORITHMS))} "
            f"Accepted: {', '.join(ALGORITHMS)}, or the class of one of your own as "
            "my_module:MyAlgorithm."
        )
    # Its module will import TensorFlow: on the right backend, and without log noise.
    load_tensorflow()
    imported = import_module(module, f"--algorithm={name}")
    # Apart from the import, whose own AttributeErrors are faults of the module.
    if not hasattr(imported, attribute):
        raise UserError(f"`--algorithm={name}`: module {module} has no `{attribute}`.")
    found = getattr(imported, attribute)
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise UserError(
            f"`--algorithm={name}` must be a class whose attribute `Settings` is a "
            f"subclass of acktr_tf.config.Settings. Received: Settings={settings!r}"
        )
    return Algorithm(name, settings, name)
