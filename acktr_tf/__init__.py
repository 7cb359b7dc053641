"""ACKTR for TensorFlow 2: actor-critic training with natural gradients."""

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Declared, since a module with __getattr__ has every name for a type checker.
    __version__: str
else:

    def __getattr__(name):
        # On demand, so that importing the package reads no files.
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return metadata.version("acktr-tf")
        except metadata.PackageNotFoundError:
            # A source tree that was put on the path without being installed.
            return "0+unknown"
