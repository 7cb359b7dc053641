"""Which arrays are pictures and grids, and which of their axes are rows and columns."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary

from acktr_tf.spaces.pictures import height_axis, kind, white


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((210, 160), 0),
        ((4, 84, 84), 1),
        ((1, 36, 52), 1),
        ((36, 52, 1), 0),
        ((3, 50, 3), 0),
        ((84, 84, 4), 0),
        ((128, 64, 4), 0),
        ((4, 128, 64), 1),
        ((7, 7, 20), 0),
        ((20, 7, 7), 1),
        ((10, 10, 10), 0),
        ((2, 42, 42, 3), 1),
        ((4, 7, 7, 20), 1),
        ((4, 3, 64, 64), 2),
        ((4, 3, 60, 80), 2),
    ],
)
def test_the_axis_of_the_rows(shape: tuple[int, ...], axis: int) -> None:
    assert height_axis(shape) == axis


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Box(0, 255, (4, 84, 84), np.uint8), "picture"),
        (Box(0, 200, (28, 28), np.uint8), "picture"),
        (Box(0, 255, (2, 64, 64, 3), np.int32), "picture"),
        (Box(0.0, 1.0, (64, 64, 3), np.float64), "picture"),
        (Box(0.0, 255.0, (64, 64, 3), np.float32), "picture"),
        (Box(0, 1, (40, 40, 2), np.bool_), "picture"),
        (Box(0, 255, (27, 64, 3), np.uint8), "grid"),
        (Box(0, 5, (40, 40, 2), np.int64), "grid"),
        (Box(-9, 9, (3, 3, 1), np.int8), "grid"),
        (Box(0.0, 1.0, (8, 8, 2), np.float32), "grid"),
        (Box(0, 255, (2, 8, 3), np.uint8), "numbers"),
        (Box(0, 255, (27, 27), np.uint8), "numbers"),
        (Box(0, 255, (2835,), np.uint8), "numbers"),
        (Box(0.0, 0.9, (64, 64, 3), np.float32), "numbers"),
        (Box(-1.0, 1.0, (64, 64, 3), np.float32), "numbers"),
        (Box(0, 255, (1, 2, 64, 64, 3), np.uint8), "numbers"),
        (Box(0, 255, (), np.uint8), "numbers"),
        (MultiBinary([64, 64]), "numbers"),
        (Discrete(5), "numbers"),
    ],
)
def test_what_an_array_is_taken_for(space: gymnasium.Space, expected: str) -> None:
    assert kind(space) == expected


@pytest.mark.parametrize(("high", "full"), [(1, 1.0), (255, 255.0), (200, 255.0)])
def test_full_intensity(high: int, full: float) -> None:
    assert white(Box(0, high, (40, 40), np.uint8)) == full
