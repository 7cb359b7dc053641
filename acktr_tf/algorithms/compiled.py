"""Compiled functions that are traced once."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class CompiledFunction:
    """Graph of a function of tensors whose shapes never change in a run.

    It is traced at the first call. Later calls do not look for a trace, which takes a
    third of a call of a small graph. Within another graph the function is inlined.

    Args:
      function: Function of tensors, or of nests of tensors.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = tf.function(function, autograph=False)
        self._concrete: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function.

        Raises:
          TypeError: The tensors are not of the shapes and types of the first call.
        """
        if not tf.executing_eagerly() or tf.config.functions_run_eagerly():
            return self._function(*arguments)
        if self._concrete is None:
            self._concrete = self._function.get_concrete_function(*arguments)
        return self._concrete(*arguments)

    @property
    def traces(self) -> int:
        """Number of times that the function was traced."""
        return int(self._function.experimental_get_tracing_count())
