"""Composed action spaces as one array of choices, beside Gymnasium's own batching."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from acktr_tf.spaces.actions import in_structure, joint_choices

GRID = MultiDiscrete(np.array([[2, 3], [1, 4]]), start=np.array([[0, -5], [7, 100]]))
COMPOSED = [
    pytest.param(spaces.Tuple([Discrete(3), Discrete(2)]), id="tuple"),
    pytest.param(spaces.Tuple([Discrete(4, start=-2)]), id="tuple-one"),
    pytest.param(
        spaces.Tuple([MultiDiscrete([3, 2], dtype=np.int32), Discrete(5), GRID]),
        id="tuple-multidiscrete",
    ),
    pytest.param(
        spaces.Dict([("z", Discrete(3)), ("a", MultiBinary([2, 2]))]), id="dict"
    ),
    pytest.param(
        spaces.Tuple(
            [
                spaces.Dict({"gear": Discrete(6, start=1), "brake": MultiBinary(1)}),
                spaces.Tuple([GRID, spaces.Tuple([Discrete(2)])]),
            ]
        ),
        id="nested",
    ),
]


def drawn(space: gymnasium.Space[Any], n: int) -> tuple[list[Any], Any]:
    """Actions of one environment each, and as a vector environment takes them."""
    space.seed(5)
    samples = [space.sample() for _ in range(n)]
    return samples, concatenate(space, samples, create_empty_array(space, n))


def numbers(action: Any) -> list[int]:
    """The numbers of one action, in its order."""
    if isinstance(action, dict):
        return [number for part in action.values() for number in numbers(part)]
    if isinstance(action, tuple):
        return [number for part in action for number in numbers(part)]
    return np.ravel(action).tolist()


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = tuple(one.values()), tuple(other.values())
    if isinstance(one, tuple):
        for mine, yours in zip(one, other, strict=True):
            assert_same(mine, yours)
        return
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("space", COMPOSED)
def test_an_array_of_choices_becomes_what_gymnasium_batches(
    space: gymnasium.Space[Any],
) -> None:
    samples, batched = drawn(space, 30)
    rows = np.array([numbers(sample) for sample in samples])
    choices = joint_choices(space)
    assert choices is not None
    assert choices.shape == rows.shape[1:]
    assert all(choices.contains(row) for row in rows)
    arranged = in_structure(space, rows)
    assert_same(arranged, batched)
    # As a vector environment hands them to its environments.
    actions = iterate(gymnasium.vector.utils.batch_space(space, 30), arranged)
    assert all(space.contains(action) for action in actions)


def test_choices_by_hand() -> None:
    space = spaces.Tuple(
        [
            Discrete(3, start=4),
            spaces.Dict([("b", MultiBinary(2)), ("a", MultiDiscrete([5, 6]))]),
        ]
    )
    assert joint_choices(space) == MultiDiscrete([3, 2, 2, 5, 6], start=[4, 0, 0, 0, 0])
    first, rest = in_structure(space, np.array([[4, 0, 1, 2, 3], [6, 1, 1, 4, 5]]))
    assert first.tolist() == [4, 6]
    assert list(rest) == ["b", "a"]
    assert rest["b"].tolist() == [[0, 1], [1, 1]]
    assert rest["a"].tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3),
        MultiDiscrete([2, 3]),
        Box(-1, 1, (2,)),
        spaces.Tuple([]),
        spaces.Dict({"a": spaces.Tuple([])}),
        spaces.Tuple([Discrete(2), Box(-1, 1, (2,))]),
        spaces.Dict({"a": spaces.Tuple([Discrete(2), spaces.Text(3)])}),
    ],
    ids=str,
)
def test_other_spaces_are_not_composed_of_choices(space: gymnasium.Space[Any]) -> None:
    assert joint_choices(space) is None


def test_actions_without_parts_are_left_alone() -> None:
    actions = np.array([[1, 2], [0, 1]])
    assert in_structure(MultiDiscrete([2, 3]), actions) is actions
