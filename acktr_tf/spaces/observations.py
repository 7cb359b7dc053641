"""Encoding of observations as the one array that networks are given.

Observations of a single `Box` are that array. The parts of any other space (a `Dict`, a
`Discrete`) are laid end to end as one vector of floats, in the order of the space:
numbers and pictures as they are, and categories as one-hot vectors.

An action mask is one of these parts. Networks are given the others.
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
from acktr_tf.spaces.masks import ActionMask
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
    def is_mask(self) -> bool:
        """Returns whether it is the action mask."""
        return isinstance(self.space, ActionMask)

    @property
    def size(self) -> int:
        """Length of its encoding."""
        return sum(n for n, _ in self.categories) or math.prod(self.shape)

    @property
    def kind(self) -> str:
        """Kind that networks take it for: picture, grid or numbers; see `pictures`."""
        return pictures.kind(self.space)

    def __str__(self) -> str:
        """Returns its type and shape in words, for messages."""
        if self.categories:
            return f"{self.size} categories"
        return f"{self.dtype} of shape {list(self.shape)}"


class Slice(NamedTuple):
    """Place of one part in a vector of parts, `[start, stop)`."""

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
      mask: Place of the action mask in the encoded vector; None if there is none.
      is_single_box: Whether an observation is one array, which is its own encoding.
      encoded_space: Space of the array that `encode` makes of an observation.
      network_parts: The parts that networks are given: all but the mask.
      network_slices: Place of each in the vector that networks are given.
      network_space: Space of what networks are given: the encoding without the mask.
      is_one_array: Whether networks are given one array in its own shape: an
        observation that is a `Box`, or a `Box` beside a mask.

    Raises:
      UserError: The space is not supported; the message says which are.
    """

    encoded_space: spaces.Box
    network_space: spaces.Box

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        self.parts = list(_parts(space, ()))
        self.network_parts = [part for part in self.parts if not part.is_mask]
        if not self.network_parts:
            raise UserError(
                "The observation space must have at least one part"
                f"{' besides the action mask' if self.parts else ''}. Received: "
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
        self.slices = _laid_end_to_end(self.parts)
        self.network_slices = _laid_end_to_end(self.network_parts)
        self.mask = next(
            (slice(at.start, at.stop) for at in self.slices if at.part.is_mask), None
        )
        first = self.network_parts[0].space
        self.is_one_array = self.is_single_box or (
            self.mask is not None
            and len(self.network_parts) == 1
            and isinstance(first, spaces.Box)
        )
        self.network_space = (
            first
            if self.is_one_array and isinstance(first, spaces.Box)
            else _vector(self.network_parts, np.float32)
        )
        if isinstance(space, spaces.Box):
            self.encoded_space = space
        else:
            # Bytes stay bytes, since pictures are large.
            is_bytes = self.network_space.dtype == np.uint8
            dtype = np.uint8 if is_bytes else np.float32
            self.encoded_space = _vector(self.parts, dtype)

    def compatible_with(self, other: "Observations") -> bool:
        """Returns whether a policy of these observations takes the other ones, too.

        Bounds do not matter.
        """

        def arrays(observations: Observations) -> list[Any]:
            # In the order in which they are encoded.
            return [
                (p.name, p.shape, p.served_dtype, p.categories, p.is_mask)
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
        rows, dtype = [], self.encoded_space.dtype
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
            rows.append(_encoded(part, array, dtype))
        return np.concatenate(rows, axis=1)

    def without_mask(self, encoded: Array) -> Array:
        """Returns what networks are given of encoded observations `[..., n]`."""
        if self.mask is None:
            return encoded
        rest = np.delete(encoded, self.mask, axis=-1)
        return rest.reshape(*encoded.shape[:-1], *self.network_space.shape)

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
    part = Part(name, keys, space)
    if not isinstance(space, supported):
        raise UserError(
            f"The observation space is not supported. Received: {name}: "
            f"{' '.join(str(space).split())}. Accepted: {OBSERVATION_SPACES} of "
            "those; --wrappers=module:Class can make one of it."
        )
    yield part


def _laid_end_to_end(parts: list[Part]) -> list[Slice]:
    stops = np.cumsum([part.size for part in parts]).tolist()
    return [
        Slice(part, stop - part.size, stop)
        for part, stop in zip(parts, stops, strict=True)
    ]


def _vector(parts: list[Part], dtype: Any) -> spaces.Box:
    """Returns the space of some parts laid end to end."""
    size = sum(part.size for part in parts)
    if dtype == np.uint8:
        return spaces.Box(0, 255, (size,), np.uint8)
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _encoded(part: Part, array: Array, dtype: Any) -> Array:
    """Encodes the numbers of one part: `[B, size]` of type `dtype`."""
    rows = array.reshape(len(array), -1)
    if not part.categories:
        return rows.astype(dtype)
    columns = []
    for column, (n, start) in zip(rows.T, part.categories, strict=True):
        index = column.astype(np.int64) - start
        if ((index < 0) | (index >= n)).any():
            raise ValueError(
                f"{part.name} is {column[(index < 0) | (index >= n)][0]}, outside of "
                f"{start} to {start + n - 1}"
            )
        # Not rows of an identity matrix, which takes gigabytes where n is large.
        one_hot = np.zeros((len(index), n), dtype)
        one_hot[np.arange(len(index)), index] = 1
        columns.append(one_hot)
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
