"""Spaces through JSON and back."""

import json
from typing import Any

import gymnasium
import hypothesis
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from acktr_tf.spaces.masks import ActionMask
from acktr_tf.spaces.serialization import describe_space, space_from_description

INF = np.inf
FLOAT32 = np.finfo(np.float32)
BOXES = [
    Box(-1, 1, (3,)),
    Box(-INF, INF, (2,)),
    Box(-INF, 0, (2, 1), np.float64),
    Box(0.1, INF, ()),
    Box(0.1, 0.3, (2,)),
    Box(0.1, 0.3, (2,), np.float64),
    Box(float(FLOAT32.min), float(FLOAT32.max), (4,)),
    Box(-float(FLOAT32.smallest_subnormal), float(FLOAT32.tiny), (1,)),
    Box(-65504.0, 65504.0, (2,), np.float16),
    Box(
        np.array([[-INF, 0.1], [float(FLOAT32.min), -3]], np.float32),
        np.array([[0.7, INF], [float(FLOAT32.max), -3]], np.float32),
    ),
    Box(np.array([-INF, 1e-320]), np.array([1e300, INF]), dtype=np.float64),
    Box(0, 255, (4, 84, 84), np.uint8),
    Box(0, 1, (2,), np.bool_),
    Box(np.array([-5, 0]), np.array([5, 2**53 + 1]), dtype=np.int64),
    Box(-INF, INF, (2,), np.int64),
    Box(0, 2**64 - 1, (1,), np.uint64),
    Box(0, 1, (0,)),
]
FINITE = [
    Discrete(5),
    Discrete(4, start=-2),
    MultiDiscrete([3, 1, 4]),
    MultiDiscrete([3, 2], start=[4, -1]),
    MultiDiscrete([3, 2], dtype=np.int32),
    MultiDiscrete(np.array([[2, 3], [1, 4]]), start=np.array([[0, -5], [7, 100]])),
    MultiBinary(4),
    MultiBinary([4]),
    MultiBinary([2, 3]),
    ActionMask(4),
]
NESTED = spaces.Dict(
    {
        "agent": spaces.Dict({"speed": Box(-INF, 3, ()), "key": Discrete(3, start=-1)}),
        "limbs": spaces.Tuple([MultiBinary(2), spaces.Tuple([Discrete(2)])]),
    }
)
COMPOSED = [
    NESTED,
    spaces.Dict({}),
    spaces.Tuple([]),
    spaces.Dict([("z", Discrete(2)), ("a", NESTED), ("m", MultiBinary(3))]),
    spaces.Dict({2: Discrete(2), 1: spaces.Dict({10: Discrete(3), 9: Discrete(4)})}),
    spaces.Dict([("1", Discrete(2)), (1, Discrete(3))]),
    spaces.Dict([((0, "left"), Discrete(2)), (None, Discrete(3)), (0.5, Discrete(4))]),
]


def through_json(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    text = json.dumps(describe_space(space), allow_nan=False)
    return space_from_description(json.loads(text))


def assert_identical(one: gymnasium.Space[Any], other: gymnasium.Space[Any]) -> None:
    """More than `==`, for which bounds need only be close, and keys in any order."""
    assert type(one) is type(other)
    assert one == other
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    if isinstance(one, Box):
        assert one.low.tobytes() == other.low.tobytes()
        assert one.high.tobytes() == other.high.tobytes()
    if isinstance(one, spaces.Dict):
        assert [(type(key), key) for key in one.spaces] == [
            (type(key), key) for key in other.spaces
        ]
        for key in one.spaces:
            assert_identical(one[key], other[key])
    if isinstance(one, spaces.Tuple):
        for mine, its in zip(one.spaces, other.spaces, strict=True):
            assert_identical(mine, its)


@pytest.mark.parametrize("space", [*BOXES, *FINITE, *COMPOSED], ids=str)
def test_a_space_comes_back_as_it_was(space: gymnasium.Space[Any]) -> None:
    back = through_json(space)
    assert_identical(space, back)
    assert_identical(back, through_json(back))
    assert back.contains(space.sample())


def test_types_of_kinds_come_back() -> None:
    try:
        space = Discrete(3, dtype=np.int32)
    except TypeError:  # Gymnasium before 1.3.
        pytest.skip("every Discrete is int64 here")
    assert_identical(space, through_json(space))


@hypothesis.given(
    dtype=strategies.sampled_from([np.float16, np.float32, np.float64]),
    shape=arrays.array_shapes(min_dims=0, max_dims=2, max_side=3),
    data=strategies.data(),
)
def test_bounds_come_back_to_the_bit(
    dtype: type, shape: tuple[int, ...], data: strategies.DataObject
) -> None:
    bounds = arrays.arrays(
        dtype, shape, elements={"allow_nan": False, "allow_infinity": True}
    )
    one, other = np.sort(np.stack([data.draw(bounds), data.draw(bounds)]), axis=0)
    low, high = np.where(one == INF, 0, one), np.where(other == -INF, 0, other)
    hypothesis.assume((low <= high).all())
    # 0.0 and -0.0 are the same bound.
    low, high = (np.array(b + 0.0, dtype) for b in (low, high))
    space = Box(low, high, shape, dtype)
    assert_identical(space, through_json(space))


def test_spaces_that_differ_have_descriptions_that_differ() -> None:
    all_spaces = [*BOXES, *FINITE, *COMPOSED]
    texts = {json.dumps(describe_space(space)) for space in all_spaces}
    assert len(texts) == len(all_spaces)


def test_a_description_without_a_type_of_kinds_is_of_int64() -> None:
    for space in [Discrete(4, start=-2), MultiDiscrete([3, 2], start=[4, -1])]:
        description = describe_space(space)
        assert description.pop("dtype") == "int64"
        assert_identical(space, space_from_description(description))


def test_a_kind_of_its_own_comes_back_as_what_it_is_a_kind_of() -> None:
    class Cube(Box):
        """Of three numbers."""

        def __init__(self) -> None:
            super().__init__(-1, 1, (3,))

    back = through_json(spaces.Dict({"cube": Cube()}))
    assert_identical(back["cube"], Box(-1, 1, (3,)))
    assert back == spaces.Dict({"cube": Cube()})


@pytest.mark.parametrize("bound", ["low", "high"])
def test_infinite_bounds_are_in_words(bound: str) -> None:
    described = describe_space(Box(-INF, INF, (3,)))
    assert described[bound] == {"low": "-inf", "high": "inf"}[bound]
    mixed = Box(np.array([-INF, 0.5], np.float32), np.array([1, INF], np.float32))
    expected = {"low": ["-inf", 0.5], "high": [1.0, "inf"]}
    assert describe_space(mixed)[bound] == expected[bound]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Graph(Discrete(2), None),
        spaces.Sequence(Discrete(2)),
        spaces.Dict({"a": Discrete(2), "b": spaces.Text(5)}),
        spaces.Tuple([spaces.Text(5)]),
    ],
    ids=str,
)
def test_other_spaces_cannot_be_described(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"^A space of type \w+ cannot be described"):
        describe_space(space)


def test_unknown_types_cannot_be_read() -> None:
    inner = {"type": "Text", "max_length": 5}
    for description in [inner, {"type": "Tuple", "spaces": [inner]}]:
        with pytest.raises(KeyError, match="Text"):
            space_from_description(description)


@pytest.mark.parametrize("space", [BOXES[0], *FINITE[:3], MultiBinary(4), NESTED])
def test_what_is_missing_is_named(space: gymnasium.Space[Any]) -> None:
    optional = set() if isinstance(space, Box) else {"dtype"}
    for name in describe_space(space).keys() - optional:
        description = describe_space(space)
        del description[name]
        with pytest.raises(KeyError, match=name):
            space_from_description(description)
