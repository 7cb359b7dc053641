"""State of a part of a run: named arrays, from which the part can go on.

Every part that decides the future of a run has the same two methods:

    state() -> dict[str, Array]      a copy of all that decides its future
    load_state(state) -> None        goes on where the state was taken

A checkpoint holds the states of all parts, each under a prefix of its own.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from acktr_tf.errors import UserError
from acktr_tf.types import Array

if TYPE_CHECKING:
    import keras

State = Mapping[str, Array]
"""Name → array of numbers, truth values or text."""


class StateError(UserError):
    """A state is not one of the part that is to go on from it.

    The message begins with the name of the array that shows it.
    """


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
    """Loads what `states` returned into the parts of the same names.

    Raises:
      StateError: A part refuses its state. The parts before it have theirs.
    """
    for prefix, part in parts.items():
        with refusals_of(prefix):
            part.load_state(with_prefix(prefix, state))


@contextlib.contextmanager
def refusals_of(prefix: str) -> Iterator[None]:
    """Puts the name of a part before what a `StateError` of it says."""
    try:
        yield
    except StateError as error:
        raise StateError(f"{prefix}/{error}") from error


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


def checked_array(
    state: State,
    name: str,
    kind: str,
    shape: Sequence[int | None],
    low: float | None = None,
    high: float | None = None,
) -> Array:
    """Returns an array of a state, if it is as the part would have written it.

    Args:
      state: The state.
      name: Name of the array.
      kind: NumPy's letter of its kind: `i` for integers, `u` for those without a
        sign, `f` for floats, `U` for text.
      shape: Its shape; None stands for any length.
      low: Lowest value that it may hold, or None.
      high: Highest value, or None.

    Raises:
      StateError: The array is missing, of another kind or shape, not finite, or holds a
        value that is out of range.
    """
    if name not in state:
        raise StateError(f"{name} is missing")
    array = state[name]
    fits = len(array.shape) == len(shape) and all(
        expected in (None, length)
        for expected, length in zip(shape, array.shape, strict=True)
    )
    if array.dtype.kind != kind or not fits:
        lengths = ", ".join("*" if n is None else str(n) for n in shape)
        raise StateError(
            f"{name} is {_described(array)} where the run has {_KINDS[kind]}[{lengths}]"
        )
    if kind == "f" and not np.isfinite(array).all():
        raise StateError(f"{name} is not finite")
    for bound, outside in ((low, np.less), (high, np.greater)):
        if bound is not None and (wrong := array[outside(array, bound)]).size:
            side = "below" if outside is np.less else "above"
            raise StateError(f"{name} is {wrong.flat[0]}, {side} {bound:g}")
    return array


def checked_number(
    state: State,
    name: str,
    kind: str,
    low: float | None = None,
    high: float | None = None,
) -> float:
    """Returns a single number of a state; see `checked_array`."""
    number: float = checked_array(state, name, kind, (), low, high).item()
    return number


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
      StateError: An array is missing, superfluous, of another shape or dtype than its
        variable, or a count below zero. No variable has been changed then.
    """
    keys = _keys(variables)
    problems = [f"{key} is missing" for key in keys if key not in state]
    problems += [
        f"{key} is nothing that the run has" for key in state if key not in set(keys)
    ]
    for key, variable in zip(keys, variables, strict=True):
        if key not in state:
            continue
        saved = _described(state[key])
        expected = f"{variable.dtype}{list(variable.shape)}"
        if saved != expected:
            problems.append(f"{key} is {saved} where the run has {expected}")
        elif state[key].dtype.kind == "i" and (state[key] < 0).any():
            # All integers of optimizers count something.
            problems.append(f"{key} is {state[key].min()}, below 0")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StateError(f"{problems[0]}{more}")
    for key, variable in zip(keys, variables, strict=True):
        variable.assign(state[key])


_KINDS = {"i": "integers", "u": "whole numbers", "f": "floats", "U": "text"}


def _described(array: Array) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _keys(variables: Sequence["keras.Variable"]) -> list[str]:
    # Keras numbers the names of layers by how many the process has made before, so the
    # number is left out; the index tells variables of the same name apart.
    return [
        f"{index:04d}/{re.sub(r'_[0-9]+(?=[_/]|$)', '', variable.path)}"
        for index, variable in enumerate(variables)
    ]
