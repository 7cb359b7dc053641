"""State of a part of a run: named arrays, from which the part can go on.

Every part that decides the future of a run has the same two methods:

    state() -> dict[str, Array]      a copy of all that decides its future
    load_state(state) -> None        goes on where the state was taken

A checkpoint holds the states of all parts, each under a prefix of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from acktr_tf.errors import UserError
from acktr_tf.types import Array

if TYPE_CHECKING:
    import keras

State = Mapping[str, Array]
"""Name → array of numbers, truth values or text."""


class HasState(Protocol):
    """Part of a run that decides its future."""

    def state(self) -> dict[str, Array]:
        """Returns a copy of all that decides its future."""


class Stateful(HasState, Protocol):
    """Part of a run that can go on from a state."""

    def load_state(self, state: State) -> None:
        """Goes on where the state was taken."""


def states(parts: Mapping[str, HasState]) -> dict[str, Array]:
    """Returns the states of several parts in one, each under its name."""
    return {
        name: array
        for prefix, part in parts.items()
        for name, array in add_prefix(prefix, part.state()).items()
    }


def load_states(parts: Mapping[str, Stateful], state: State) -> None:
    """Loads what `states` returned into the parts of the same names."""
    for prefix, part in parts.items():
        part.load_state(with_prefix(prefix, state))


def add_prefix(prefix: str, state: State) -> dict[str, Array]:
    """Returns the arrays by `prefix/name`."""
    return {f"{prefix}/{name}": array for name, array in state.items()}


def with_prefix(prefix: str, state: State) -> dict[str, Array]:
    """Returns the arrays whose names begin with `prefix/`, without the prefix."""
    prefix += "/"
    return {
        name.removeprefix(prefix): array
        for name, array in state.items()
        if name.startswith(prefix)
    }


def variables_state(variables: Sequence["keras.Variable"]) -> dict[str, Array]:
    """Copies the values of variables, by `index/path of the variable`.

    Args:
      variables: Variables, in the same order whenever the run is continued.
    """
    return {
        key: np.array(variable.numpy())
        for key, variable in zip(_keys(variables), variables, strict=True)
    }


def load_variables(variables: Sequence["keras.Variable"], state: State) -> None:
    """Assigns to variables the values that `variables_state` took.

    Args:
      variables: The same variables, in the same order, already built.
      state: Their state.

    Raises:
      UserError: An array is missing, superfluous, or of another shape or dtype than its
        variable. No variable has been changed then.
    """
    keys = _keys(variables)
    problems = [f"lacks {key}" for key in keys if key not in state]
    problems += [
        f"has {key}, which the run does not" for key in state if key not in set(keys)
    ]
    for key, variable in zip(keys, variables, strict=True):
        if key not in state:
            continue
        saved = f"{state[key].dtype.name}{list(state[key].shape)}"
        expected = f"{variable.dtype}{list(variable.shape)}"
        if saved != expected:
            problems.append(f"has {key} as {saved} where the run has {expected}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"The checkpoint does not fit the run: it {problems[0]}{more}. It was "
            "written with other settings or by another version; start a new run in "
            "another `--run_dir`."
        )
    for key, variable in zip(keys, variables, strict=True):
        variable.assign(state[key])


def _keys(variables: Sequence["keras.Variable"]) -> list[str]:
    # Keras numbers the names of layers by how many the process has made before, so the
    # number is left out; the index tells variables of the same name apart.
    return [
        f"{index:04d}/{re.sub(r'_[0-9]+(?=[_/]|$)', '', variable.path)}"
        for index, variable in enumerate(variables)
    ]
