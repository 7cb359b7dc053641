"""Action masks in all the forms that Gymnasium takes, and those that are refused."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from acktr_tf.errors import UserError
from acktr_tf.spaces.masks import ActionMask, Masks

GRID = MultiDiscrete(np.array([[2, 3], [1, 4]]), start=np.array([[0, -5], [7, 100]]))
NESTED = spaces.Dict(
    {"b": spaces.Tuple([Discrete(2), MultiDiscrete([2, 3])]), "a": Discrete(4)}
)


def bits(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int8)


# As `space.sample(mask)` takes them, and end to end.
SAMPLED = [
    (Discrete(4, start=7), bits(0, 1, 1, 0), [0, 1, 1, 0]),
    (MultiDiscrete([3, 2]), (bits(0, 0, 1), bits(1, 0)), [0, 0, 1, 1, 0]),
    (
        GRID,
        ((bits(0, 1), bits(1, 0, 1)), (bits(1), bits(0, 0, 0, 1))),
        [0, 1, 1, 0, 1, 1, 0, 0, 0, 1],
    ),
    (
        spaces.Tuple([Discrete(2), MultiDiscrete([2, 2])]),
        (bits(1, 0), (bits(0, 1), bits(1, 1))),
        [1, 0, 0, 1, 1, 1],
    ),
    (
        NESTED,
        {"b": (bits(0, 1), (bits(1, 1), bits(0, 0, 1))), "a": bits(0, 0, 1, 0)},
        [0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1],
    ),
]


@pytest.mark.parametrize(("space", "mask", "flat"), SAMPLED)
def test_what_gymnasium_samples_by_is_what_the_flat_mask_allows(
    space: gymnasium.Space[Any], mask: Any, flat: list[int]
) -> None:
    masks = Masks(space)
    found = masks.flat(mask)
    assert found.dtype == np.int8
    assert found.tolist() == flat
    assert masks.size == len(flat)
    # The mask is one that Gymnasium takes.
    space.seed(0)
    assert space.contains(space.sample(mask=mask))


@pytest.mark.parametrize(("space", "mask", "flat"), SAMPLED)
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float32, np.int64])
def test_a_flat_mask_of_any_type_is_taken(
    space: gymnasium.Space[Any], mask: Any, flat: list[int], dtype: type
) -> None:
    for form in [np.array(flat, dtype), np.array(flat, dtype).tolist()]:
        found = Masks(space).flat(form)
        assert found.dtype == np.int8
        assert found.tolist() == flat


def test_lists_and_arrays_of_vectors_are_as_good_as_tuples() -> None:
    masks = Masks(MultiDiscrete([2, 3]))
    ragged = np.empty(2, object)
    ragged[:] = [bits(1, 0), bits(0, 1, 1)]
    for form in [
        [[True, False], [False, True, True]],
        [np.array([1.0, 0.0]), (0, 1, 1)],
        ragged,
    ]:
        assert masks.flat(form).tolist() == [1, 0, 0, 1, 1]
    same = Masks(MultiDiscrete([3, 3]))
    assert same.flat(np.eye(3)[:2]).tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("space", "mask", "message"),
    [
        (Discrete(3), bits(1, 0), "have 3 numbers. Received: 2 numbers"),
        (Discrete(3), [], "have 3 numbers. Received: 0 numbers"),
        (Discrete(3), 1, "have 3 numbers. Received: 1 numbers"),
        (
            MultiDiscrete([2, 3]),
            (bits(1, 0, 1), bits(1, 1)),
            r"have 5 numbers, or one vector per choice, of \[2, 3\]. "
            r"Received: \[3, 2\] numbers",
        ),
        (MultiDiscrete([2, 3]), bits(1, 0, 1, 0), "Received: 4 numbers"),
        (
            MultiDiscrete([2, 3]),
            (bits(1, 1),),
            "have 5 numbers.* Received: 2 numbers",
        ),
        (Discrete(3), bits(1, 2, 0), "of 0 and 1. Received: 2"),
        (Discrete(3), np.array([1, 0.5, 0]), "of 0 and 1. Received: 0.5"),
        (Discrete(3), np.array([1, np.nan, 0]), "of 0 and 1. Received: nan"),
        (Discrete(2), bits(1, -1), "of 0 and 1. Received: -1"),
        (
            NESTED,
            {"b": bits(1, 1, 1, 1, 1, 1, 1)},
            "the keys of the action space. Received: b",
        ),
        (
            MultiDiscrete([2, 2]),
            (bits(1, 1), {"a": bits(1, 1)}),
            "the keys of the action space. Received: a",
        ),
        (Discrete(2), {"a": bits(1, 1)}, "keys of the action space. Received: a"),
    ],
)
def test_other_masks_are_refused(
    space: gymnasium.Space[Any], mask: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^an action mask must .*{message}$") as error:
        Masks(space).flat(mask)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "flat", "allow"),
    [
        ([3], [0, 0, 0], False),
        ([3], [0, 0, 1], True),
        ([2, 3], [1, 1, 0, 0, 0], False),
        ([2, 3], [0, 0, 1, 1, 1], False),
        ([2, 3, 1], [0, 1, 1, 0, 0, 1], True),
        ([2, 3, 1], [0, 1, 1, 0, 0, 0], False),
    ],
)
def test_a_mask_must_allow_an_option_of_every_choice(
    sizes: list[int], flat: list[int], allow: bool
) -> None:
    assert Masks(MultiDiscrete(sizes)).allow_an_action(bits(*flat)) is allow


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (2,)),
        MultiBinary(3),
        spaces.Tuple([Discrete(2), Box(-1, 1, (1,))]),
        Box(
            0.5 * np.ones((8, 9), np.float32),
            np.arange(1, 73, dtype=np.float32).reshape(8, 9),
        ),
    ],
    ids=lambda space: type(space).__name__,
)
def test_spaces_that_cannot_have_a_mask_are_refused(
    space: gymnasium.Space[Any],
) -> None:
    with pytest.raises(UserError, match="cannot have a mask") as error:
        Masks(space)
    message = str(error.value)
    assert "\n" not in message
    assert f"Received: {type(space).__name__}(" in message
    assert "Accepted: Discrete, MultiDiscrete, or a Tuple or Dict" in message


def test_the_space_of_a_mask_is_no_other_space() -> None:
    mask = ActionMask(5)
    assert mask.contains(bits(0, 1, 1, 0, 1))
    assert not mask.contains(bits(0, 1))
    assert repr(mask) == "ActionMask(5)"
