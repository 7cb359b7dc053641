"""Encoding of observations as the one array that networks are given.

Observations of a single `Box` are that array. The parts of any other space (a `Dict`, a
`Discrete`) are laid end to end as one vector of floats, in the order of the space:
numbers and pictures as they are, and categories as one-hot vectors.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from acktr_tf.errors import UserError
from acktr_tf.spaces import pictures
from acktr_tf.types import Array

OBSERVATION_SPACES = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple"
OBSERVATION = "observation"


class Part(NamedTuple):
    """One of the arrays that an observation consists of.

    Attributes:
      name: The keys, joined as a name that TensorFlow takes; `observation` if the part
        is the whole.
      keys: Keys that lead to the part in the observation.
      space: Space of the part.
    """

    name: str
    keys: tuple[Any, ...]
    space: gymnasium.Space[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in one observation."""
        return tuple(self.space.shape or ())

    @property
    def dtype(self) -> Any:
        """Type as the environment gives it."""
        return np.dtype(self.space.dtype)

    @property
    def served_dtype(self) -> Any:
        """Type as an exported policy takes it: every float as float32."""
        return np.dtype(np.float32) if self.dtype.kind == "f" else self.dtype

    @property
    def categories(self) -> list[tuple[int, int]]:
        """(n, start) for each of its numbers, empty if they are not categories."""
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
        """Length of its encoding."""
        return sum(n for n, _ in self.categories) or math.prod(self.shape)

    @property
    def kind(self) -> str:
        """What networks take it for: a picture, a grid or numbers; see `pictures`."""
        return pictures.kind(self.space)

    def __str__(self) -> str:
        """Returns its type and shape in words, for messages."""
        if self.categories:
            return f"{self.size} categories"
        return f"{self.dtype} of shape {list(self.shape)}"


class Slice(NamedTuple):
    """Place of one part in the encoded vector, `[start, stop)`."""

    part: Part
    start: int
    stop: int


class Observations:
    """Observations of one space, and their encoding.

    Args:
      space: Space of one environment.

    Attributes:
      space: The environment's own space.
      parts: The arrays that an observation consists of.
      slices: Place of each part in the encoded vector.
      is_single_box: Whether an observation is one array, which networks are given as
        it is.
      encoded_space: Space of what networks are given.

    Raises:
      UserError: The space is not supported; the message says which are.
    """

    encoded_space: spaces.Box

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        self.parts = list(_parts(space, ()))
        if not self.parts:
            raise UserError(
                "The observation space must have at least one part. Received: "
                f"{' '.join(str(space).split())}."
            )
        names = [part.name for part in self.parts]
        # The names of a SavedModel's inputs do not differ by case.
        unique = {name.lower() for name in names}
        if len(unique) < len(names) or any(n.startswith("_") for n in names):
            raise UserError(
                "The keys of an observation must make names that begin with a letter "
                "or digit and differ, whatever the case, in letters, digits and "
                "underscores. "
                f"Received: {', '.join(names)}."
            )
        self.is_single_box = isinstance(space, spaces.Box)
        stops = np.cumsum([part.size for part in self.parts]).tolist()
        self.slices = [
            Slice(part, stop - part.size, stop)
            for part, stop in zip(self.parts, stops, strict=True)
        ]
        self.encoded_space = (
            space
            if isinstance(space, spaces.Box)
            else spaces.Box(-np.inf, np.inf, (stops[-1],), np.float32)
        )

    def compatible_with(self, other: "Observations") -> bool:
        """Returns whether a policy of these observations takes the other ones, too.

        Bounds do not matter.
        """

        def arrays(observations: Observations) -> list[Any]:
            # In the order in which they are encoded.
            return [
                (p.name, p.shape, p.served_dtype, p.categories)
                for p in observations.parts
            ]

        return arrays(self) == arrays(other)

    def encode(self, observation: Any) -> Array:
        """Encodes `B` observations of a vector environment for networks.

        Raises:
          ValueError: A part has another shape than announced, or a category that does
            not exist.
        """
        if self.is_single_box:
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
        """Returns by name the arrays of which `encode` made `encoded` `[N, ...]`."""
        if self.is_single_box:
            return {OBSERVATION: encoded}
        return {
            part.name: _decoded(part, encoded[:, start:stop])
            for part, start, stop in self.slices
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
    # Names that TensorFlow would rename, or take for something else.
    if name[0].isdigit() or name == "self":
        name = f"{OBSERVATION}_{name}"
    supported = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, supported):
        raise UserError(
            f"The observation space is not supported. Received: {name}: "
            f"{' '.join(str(space).split())}. Accepted: {OBSERVATION_SPACES} of "
            "those; --wrappers=module:Class can make one of it."
        )
    yield Part(name, keys, space)


def _encoded(part: Part, array: Array) -> Array:
    """Encodes the numbers of one part: `[B, size]` float32."""
    rows = array.reshape(len(array), -1)
    if not part.categories:
        return rows.astype(np.float32)
    columns = []
    for column, (n, start) in zip(rows.T, part.categories, strict=True):
        index = column.astype(np.int64) - start
        if ((index < 0) | (index >= n)).any():
            raise ValueError(
                f"{part.name} is {column[(index < 0) | (index >= n)][0]}, outside of "
                f"{start} to {start + n - 1}"
            )
        columns.append(np.eye(n, dtype=np.float32)[index])
    return np.concatenate(columns, axis=1)


def _decoded(part: Part, rows: Array) -> Array:
    """Returns one part `[N, *shape]` from its encoding `[N, size]`."""
    if part.categories:
        ends = np.cumsum([n for n, _ in part.categories])[:-1]
        columns = np.split(rows, ends, axis=1)
        rows = np.stack(
            [
                column.argmax(axis=1) + start
                for column, (_, start) in zip(columns, part.categories, strict=True)
            ],
            axis=1,
        )
    return rows.reshape(-1, *part.shape).astype(part.dtype)
