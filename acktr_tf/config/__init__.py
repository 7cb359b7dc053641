"""Settings of a run, one file per component, and nothing that imports TensorFlow."""

from acktr_tf.config.algorithms import Algorithm, find_algorithm
from acktr_tf.config.config import Config, configure, differences, entries
from acktr_tf.config.setting import Entry, Setting, Settings, group, setting

__all__ = [
    "Algorithm",
    "Config",
    "Entry",
    "Setting",
    "Settings",
    "configure",
    "differences",
    "entries",
    "find_algorithm",
    "group",
    "setting",
]
