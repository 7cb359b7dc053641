"""Descriptions of Gymnasium spaces that JSON can hold."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from acktr_tf.spaces.masks import ActionMask


def describe_space(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """Describes a space, so that `space_from_description` can make an equal one.

    Args:
      space: A Box, Discrete, MultiDiscrete, MultiBinary or ActionMask, or a Dict or
        Tuple of those.

    Raises:
      ValueError: Another kind of space.
    """
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": space.dtype.name,
            "low": _described_bound(space.low),
            "high": _described_bound(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "dtype": space.dtype.name,
            "n": int(space.n),
            "start": int(space.start),
        }
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "dtype": space.dtype.name,
            "n": space.nvec.tolist(),
            "start": np.asarray(space.start).tolist(),
        }
    if isinstance(space, ActionMask):
        return {"type": "ActionMask", "n": space.n}
    if isinstance(space, spaces.MultiBinary):
        # MultiBinary(5) and MultiBinary([5]) are not equal.
        n = space.n if isinstance(space.n, int) else list(space.n)
        return {"type": "MultiBinary", "n": n}
    if isinstance(space, spaces.Dict):
        parts = [[key, describe_space(part)] for key, part in space.spaces.items()]
        return {"type": "Dict", "spaces": parts}
    if isinstance(space, spaces.Tuple):
        return {
            "type": "Tuple",
            "spaces": [describe_space(part) for part in space.spaces],
        }
    raise ValueError(
        f"A space of type {type(space).__name__} cannot be described. Received: {space}"
    )


def space_from_description(description: dict[str, Any]) -> gymnasium.Space[Any]:
    """Makes the space that `describe_space` described.

    Raises:
      KeyError: Something is missing, or the type is not known.
    """
    kind = description["type"]
    if kind == "Box":
        shape = tuple(description["shape"])
        dtype = np.dtype(description["dtype"])
        low, high = (
            np.broadcast_to(np.array(description[name], dtype), shape)
            for name in ("low", "high")
        )
        return spaces.Box(low, high, shape, dtype.type)
    if kind in ("Discrete", "MultiDiscrete"):
        n, start = description["n"], description["start"]
        # Before Gymnasium 1.3 a Discrete had no other type, nor a parameter for it.
        name = description.get("dtype", "int64")
        options = {} if name == "int64" else {"dtype": np.dtype(name).type}
        if kind == "Discrete":
            return spaces.Discrete(n, start=start, **options)
        return spaces.MultiDiscrete(n, start=start, **options)
    if kind == "ActionMask":
        return ActionMask(description["n"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(description["n"])
    if kind == "Dict":
        # Pairs, and not a dictionary: a key need not be text, and their order counts.
        parts: list[tuple[Any, gymnasium.Space[Any]]] = [
            (tuple(key) if isinstance(key, list) else key, space_from_description(part))
            for key, part in description["spaces"]
        ]
        return spaces.Dict(parts)
    if kind == "Tuple":
        return spaces.Tuple([space_from_description(d) for d in description["spaces"]])
    raise KeyError(kind)


def _described_bound(bound: npt.NDArray[Any]) -> Any:
    """Returns a bound as one number if all are the same, and infinities as words.

    JSON has no infinity; `numpy.array(..., dtype)` reads the words.
    """
    words = [v if np.isfinite(v) else str(v) for v in np.ravel(bound).tolist()]
    if len(set(words)) == 1:
        return words[0]
    return np.reshape(np.array(words, object), bound.shape).tolist()
