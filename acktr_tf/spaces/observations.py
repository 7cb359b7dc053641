"""From an observation space to the one array that networks are given.

A plain `Box` is that array. The parts of anything else (a `Dict`, a `Discrete`) are
laid end to end as one vector of floats, in the order of the space: numbers as they are,
and what counts kinds as one-hot vectors.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from acktr_tf.errors import UserError

Array: TypeAlias = npt.NDArray[Any]

OBSERVATION_SPACES = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple"
OBSERVATION = "observation"


class Part(NamedTuple):
    """One of the arrays that an observation consists of.

    Attributes:
      name: Its keys, joined as a name that TensorFlow takes; `observation` if it is
        the whole.
      keys: Where it is in the observation.
      space: Its space.
    """

    name: str
    keys: tuple[Any, ...]
    space: gymnasium.Space[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one observation."""
        return tuple(self.space.shape or ())

    @property
    def dtype(self) -> Any:
        """As the environment gives it."""
        return np.dtype(self.space.dtype)

    @property
    def served_dtype(self) -> Any:
        """As an exported policy takes it: networks take every float as float32."""
        return np.dtype(np.float32) if self.dtype.kind == "f" else self.dtype

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """(kinds, the first of them) for each of its numbers; empty for plain ones."""
        if isinstance(self.space, spaces.Discrete):
            return [(int(self.space.n), int(self.space.start))]
        if isinstance(self.space, spaces.MultiDiscrete):
            pairs = zip(
                np.ravel(self.space.nvec), np.ravel(self.space.start), strict=True
            )
            return [(int(n), int(start)) for n, start in pairs]
        return []

    @property
    def size(self) -> int:
        """Numbers that it makes in the vector."""
        return sum(n for n, _ in self.kinds) or math.prod(self.shape)


class Observations:
    """Observations of one kind of space.

    Args:
      space: Of one environment.

    Attributes:
      raw_space: The space.
      parts: The arrays that an observation consists of.
      plain: Whether it is one array, which networks are given as it is.
      space: What networks are given.

    Raises:
      UserError: The space is not supported; the message says which are.
    """

    space: spaces.Box

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.raw_space = space
        self.parts = list(_parts(space, ()))
        if not self.parts:
            raise UserError(
                "The observation space must have at least one part. Received: "
                f"{' '.join(str(space).split())}."
            )
        names = [part.name for part in self.parts]
        # A SavedModel does not tell the case of its inputs' names.
        unique = {name.lower() for name in names}
        if len(unique) < len(names) or any(n.startswith("_") for n in names):
            raise UserError(
                "The keys of an observation must make names that begin with a letter "
                "or digit and differ, whatever the case, in letters, digits and "
                "underscores. "
                f"Received: {', '.join(names)}."
            )
        self.plain = isinstance(space, spaces.Box)
        size = sum(part.size for part in self.parts)
        self.space = (
            space
            if isinstance(space, spaces.Box)
            else spaces.Box(-np.inf, np.inf, (size,), np.float32)
        )

    def alike(self, other: "Observations") -> bool:
        """Whether a policy of these takes the others, too: bounds do not matter."""

        def arrays(observations: Observations) -> list[Any]:
            # In the order in which they are encoded.
            return [
                (p.name, p.shape, p.served_dtype, p.kinds) for p in observations.parts
            ]

        return arrays(self) == arrays(other)

    def encode(self, observation: Any) -> Array:
        """What networks are given of `B` observations of a vector environment.

        Raises:
          ValueError: A part has another shape than announced, or a kind that does not
            exist.
        """
        if self.plain:
            return np.asarray(observation)
        rows = []
        for part in self.parts:
            array = observation
            for key in part.keys:
                array = array[key]
            array = np.asarray(array)
            if array.shape[1:] != part.shape:
                raise ValueError(
                    f"{part.name} has the shape {list(array.shape[1:])}, and "
                    f"{list(part.shape)} in the observation space"
                )
            rows.append(_encoded(part, array))
        return np.concatenate(rows, axis=1)

    def inputs(self, encoded: Array) -> dict[str, Array]:
        """By name, the arrays of which `encode` made `encoded` `[N, ...]`."""
        if self.plain:
            return {OBSERVATION: encoded}
        ends = np.cumsum([part.size for part in self.parts])[:-1]
        return {
            part.name: _decoded(part, rows)
            for part, rows in zip(
                self.parts, np.split(encoded, ends, axis=1), strict=True
            )
        }


def _parts(space: gymnasium.Space[Any], keys: tuple[Any, ...]) -> Iterator[Part]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = (
            space.spaces.items()
            if isinstance(space, spaces.Dict)
            else enumerate(space.spaces)
        )
        for key, child in children:
            yield from _parts(child, (*keys, key))
        return
    name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join(map(str, keys))) or OBSERVATION
    # What TensorFlow would rename, and what it takes for something else.
    if name[0].isdigit() or name == "self":
        name = f"{OBSERVATION}_{name}"
    supported = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    picture = keys and isinstance(space, spaces.Box) and len(space.shape) > 2
    if not isinstance(space, supported) or picture:
        raise UserError(
            f"The observation space is not supported. Received: {name}: "
            f"{' '.join(str(space).split())}. Accepted: {OBSERVATION_SPACES} of those"
            f"{', without pictures' if picture else ''}."
        )
    yield Part(name, keys, space)


def _encoded(part: Part, array: Array) -> Array:
    """`[B, size]` float32."""
    rows = array.reshape(len(array), -1)
    if not part.kinds:
        return rows.astype(np.float32)
    columns = []
    for column, (kinds, first) in zip(rows.T, part.kinds, strict=True):
        index = column.astype(np.int64) - first
        if ((index < 0) | (index >= kinds)).any():
            raise ValueError(
                f"{part.name} is {column[(index < 0) | (index >= kinds)][0]}, outside "
                f"of {first} to {first + kinds - 1}"
            )
        columns.append(np.eye(kinds, dtype=np.float32)[index])
    return np.concatenate(columns, axis=1)


def _decoded(part: Part, rows: Array) -> Array:
    """`[N, *shape]`, from `[N, size]`."""
    if part.kinds:
        ends = np.cumsum([kinds for kinds, _ in part.kinds])[:-1]
        columns = np.split(rows, ends, axis=1)
        rows = np.stack(
            [
                column.argmax(axis=1) + first
                for column, (_, first) in zip(columns, part.kinds, strict=True)
            ],
            axis=1,
        )
    return rows.reshape(-1, *part.shape).astype(part.dtype)
