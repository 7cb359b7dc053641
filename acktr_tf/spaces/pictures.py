"""Which arrays are pictures, which are grids of cells, and how their axes are ordered.

A space says how long its axes are and between which bounds its numbers lie, not what
they mean. The rules here are those of `docs/environments.md`.
"""

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces

PICTURE_SIDE = 28
"""Least side of a picture: MNIST's. The largest grids of MiniGrid have 25 cells."""
GRID_SIDE = 3
"""Least side of a grid of cells, that of a convolution."""

PICTURE, GRID, NUMBERS = "picture", "grid", "numbers"


def kind(space: spaces.Space[Any]) -> str:
    """Returns what an array is taken for: `PICTURE`, `GRID` or `NUMBERS`.

    A picture has `has_colours` and sides of at least `PICTURE_SIDE`. A grid has at
    least three axes, sides of at least `GRID_SIDE`, and integers, booleans or floats
    from 0 to 1. All else is numbers.

    Args:
      space: Space of one array.
    """
    if not isinstance(space, spaces.Box) or least_side(space.shape) < GRID_SIDE:
        return NUMBERS
    if has_colours(space) and least_side(space.shape) >= PICTURE_SIDE:
        return PICTURE
    counts = space.dtype.kind in "bui" or has_colours(space)
    return GRID if counts and len(space.shape) > 2 else NUMBERS


def has_colours(space: spaces.Box) -> bool:
    """Returns whether numbers can be intensities: bytes, or from 0 to 1 or 255."""
    if space.dtype == "uint8":
        return True
    return bool((space.low == 0).all()) and (
        bool((space.high == 1).all()) or bool((space.high == 255).all())
    )


def white(space: spaces.Box) -> float:
    """Returns the number that stands for full intensity: 1 or 255."""
    return 1.0 if (space.high <= 1).all() else 255.0


def least_side(shape: Sequence[int]) -> int:
    """Returns the shorter of height and width, 0 where there are no two sides."""
    if len(shape) not in (2, 3, 4):
        return 0
    return min(sides(shape))


def sides(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the height and width of an array of two to four axes."""
    axis = height_axis(shape)
    return shape[axis], shape[axis + 1]


def height_axis(shape: Sequence[int]) -> int:
    """Returns the axis of the rows; that of the columns is the next one.

    Two axes are rows and columns. Of three, the first or the last counts channels: the
    last if it is 1 or 3 long (colours); else the one that two equal axes leave; else
    the shorter of the two; in doubt the last. A fourth axis is the first and counts
    frames.

    Args:
      shape: Lengths of two to four axes.
    """
    if len(shape) == 2:
        return 0
    frames = len(shape) - 3
    first, middle, last = shape[frames:]
    if last in (1, 3):
        return frames
    if (first == middle) != (middle == last):
        return frames + (middle == last)
    return frames + (first < last)
