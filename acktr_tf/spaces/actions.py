"""Action spaces that are composed of choices, as one array of choices and back."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from acktr_tf.types import Array


def joint_choices(space: gymnasium.Space[Any]) -> spaces.MultiDiscrete | None:
    """Returns the choices of a `Tuple` or `Dict` end to end, as one space `[k]`.

    A `Discrete` is one choice, a `MultiDiscrete` one per element, and a `MultiBinary`
    one of two options per switch. Tuples and Dicts may be nested.

    Args:
      space: Any space.

    Returns:
      The choices in the order of the space; None if it is no Tuple or Dict, has no
      parts, or has a part of another kind.
    """
    if not isinstance(space, spaces.Tuple | spaces.Dict):
        return None
    sizes: list[int] = []
    starts: list[int] = []
    for leaf in _leaves(space):
        if isinstance(leaf, spaces.Discrete):
            sizes.append(int(leaf.n))
            starts.append(int(leaf.start))
        elif isinstance(leaf, spaces.MultiDiscrete):
            sizes += np.ravel(leaf.nvec).tolist()
            starts += np.ravel(leaf.start).tolist()
        elif isinstance(leaf, spaces.MultiBinary):
            count = int(np.prod(leaf.shape))
            sizes += [2] * count
            starts += [0] * count
        else:
            return None
    if not sizes:
        return None
    return spaces.MultiDiscrete(sizes, start=starts)


def in_structure(space: gymnasium.Space[Any], actions: Array) -> Any:
    """Arranges actions as a vector environment takes them.

    Args:
      space: Action space of one environment.
      actions: `[B, k]` of its `joint_choices`, or `[B, ...]` of a space without parts.

    Returns:
      Tuples and dictionaries of arrays `[B, ...]`, each of the type of its part; the
      same array where the space has no parts.
    """
    if not isinstance(space, spaces.Tuple | spaces.Dict):
        return actions
    ends = np.cumsum([int(np.prod(leaf.shape or ())) for leaf in _leaves(space)])
    columns = iter(np.split(actions, ends[:-1], axis=1))

    def arranged(part: gymnasium.Space[Any]) -> Any:
        if isinstance(part, spaces.Dict):
            return {key: arranged(child) for key, child in part.spaces.items()}
        if isinstance(part, spaces.Tuple):
            return tuple(arranged(child) for child in part.spaces)
        return next(columns).reshape(-1, *(part.shape or ())).astype(part.dtype)

    return arranged(space)


def _leaves(space: gymnasium.Space[Any]) -> Iterator[gymnasium.Space[Any]]:
    """Yields the parts of a space that have no parts themselves, in its order."""
    if isinstance(space, spaces.Dict):
        for child in space.spaces.values():
            yield from _leaves(child)
    elif isinstance(space, spaces.Tuple):
        for child in space.spaces:
            yield from _leaves(child)
    else:
        yield space
