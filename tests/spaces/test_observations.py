"""Observations of every kind as one array, against what Gymnasium makes of them."""

import tracemalloc
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from acktr_tf.errors import UserError
from acktr_tf.spaces.masks import ActionMask
from acktr_tf.spaces.observations import Observations
from acktr_tf.spaces.tensors import (
    allowed_options,
    encode_tensors,
    tensor_specs,
    without_mask,
)

Array = npt.NDArray[Any]

NESTED = spaces.Dict(
    {
        "target": Box(-10, 10, (2, 3), np.float32),
        "agent": spaces.Dict(
            {
                "speed": Box(-np.inf, np.inf, (), np.float64),
                "key": Discrete(3, start=-1),
                "limbs": spaces.Tuple(
                    [MultiBinary([2, 2]), Box(0, 255, (4,), np.uint8), Discrete(2)]
                ),
            }
        ),
        "cards": MultiDiscrete(np.array([[2, 3], [1, 4]]), start=[[0, -5], [7, 100]]),
    }
)
"""Its keys are in alphabetical order, as Gymnasium sorts them."""
MASKED = spaces.Dict(
    [("speed", Box(-1, 1, (2,))), ("mask", ActionMask(3)), ("key", Discrete(4))]
)
NESTED_SPECS = {
    "agent_key": ([None], tf.int64),
    "agent_limbs_0": ([None, 2, 2], tf.int8),
    "agent_limbs_1": ([None, 4], tf.uint8),
    "agent_limbs_2": ([None], tf.int64),
    "agent_speed": ([None], tf.float32),
    "cards": ([None, 2, 2], tf.int64),
    "target": ([None, 2, 3], tf.float32),
}
COMPOSED = [
    pytest.param(Discrete(5), id="discrete"),
    pytest.param(Discrete(4, start=-2), id="discrete-start"),
    pytest.param(Discrete(1, start=3), id="discrete-one"),
    pytest.param(MultiDiscrete([3, 1, 4]), id="multidiscrete"),
    pytest.param(MultiDiscrete([3, 2], dtype=np.int8, start=[4, -1]), id="int8-start"),
    pytest.param(NESTED["cards"], id="multidiscrete-grid"),
    pytest.param(MultiBinary(4), id="multibinary"),
    pytest.param(MultiBinary([2, 3]), id="multibinary-grid"),
    pytest.param(spaces.Dict({"only": Box(-1, 1, (2,))}), id="dict-one"),
    pytest.param(spaces.Dict({2: Discrete(2), 1: Box(-1, 1, ())}), id="dict-numbers"),
    pytest.param(
        spaces.Dict([("z", Box(0, 1, (2,), np.bool_)), ("a", Discrete(2))]),
        id="dict-unsorted",
    ),
    pytest.param(
        spaces.Tuple([Box(-5, 5, (3,), np.int32), MultiBinary(2)]), id="tuple"
    ),
    pytest.param(
        spaces.Dict({"left arm": Discrete(2), "x/y": Box(-1, 1, (2,))}), id="dict-signs"
    ),
    pytest.param(NESTED, id="nested"),
    pytest.param(
        spaces.Dict(
            {
                "eye": Box(0, 255, (30, 31, 3), np.uint8),
                "hand": Box(0, 1, (2,)),
                "sky": Box(0, 1, (28, 40)),
            }
        ),
        id="pictures",
    ),
    pytest.param(MASKED, id="masked"),
]
PLAIN = [
    pytest.param(Box(-np.inf, np.inf, (3,)), id="vector"),
    pytest.param(Box(-1, 1, (2, 3), np.float64), id="matrix"),
    pytest.param(Box(0, 255, (4, 8, 8), np.uint8), id="picture"),
    pytest.param(Box(-7, 7, (2,), np.int16), id="int16"),
    pytest.param(Box(-1, 1, ()), id="scalar"),
]


def drawn(space: gymnasium.Space[Any], n: int = 40) -> tuple[list[Any], Any]:
    """Observations of one environment each, and those of a vector environment."""
    space.seed(3)
    samples = [space.sample() for _ in range(n)]
    stacked = concatenate(space, samples, create_empty_array(space, n))
    assert stacked in batch_space(space, n)
    return samples, stacked


def leaves(observation: Any) -> list[Array]:
    """The arrays of an observation, in its order."""
    if isinstance(observation, dict):
        return [leaf for value in observation.values() for leaf in leaves(value)]
    if isinstance(observation, tuple):
        return [leaf for value in observation for leaf in leaves(value)]
    return [observation]


# Encoding ---------------------------------------------------------------------------
@pytest.mark.parametrize("space", COMPOSED)
def test_a_composed_observation_is_what_gymnasium_flattens_it_to(
    space: gymnasium.Space[Any],
) -> None:
    samples, stacked = drawn(space)
    flat = np.stack([spaces.flatten(space, sample) for sample in samples])
    assert len(np.unique(flat, axis=0)) > 1 or isinstance(space, Discrete)
    observations = Observations(space)
    encoded = observations.encode(stacked)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, flat.astype(np.float32))
    assert observations.space is space
    size = spaces.flatdim(space)
    assert observations.encoded_space == Box(-np.inf, np.inf, (size,), np.float32)
    assert sum(part.size for part in observations.parts) == size
    assert [part for part, _, _ in observations.slices] == observations.parts
    for (_, start, stop), leaf in zip(
        observations.slices, leaves(stacked), strict=True
    ):
        if not isinstance(space, Discrete | MultiDiscrete) and leaf.dtype.kind in "uf":
            np.testing.assert_array_equal(
                encoded[:, start:stop], leaf.reshape(len(leaf), -1).astype(np.float32)
            )


@pytest.mark.parametrize("space", PLAIN)
def test_a_plain_box_is_left_as_it_is(space: Box) -> None:
    samples, stacked = drawn(space)
    observations = Observations(space)
    encoded = observations.encode(stacked)
    assert encoded.dtype == space.dtype
    np.testing.assert_array_equal(encoded, np.stack(samples))
    assert observations.encoded_space is observations.space is space
    assert list(observations.inputs(encoded)) == ["observation"]
    assert observations.inputs(encoded)["observation"] is encoded
    tensor = tf.constant(stacked)
    assert encode_tensors(observations, {"observation": tensor}) is tensor


@pytest.mark.parametrize("space", COMPOSED)
def test_tensors_are_encoded_as_arrays_are(space: gymnasium.Space[Any]) -> None:
    _, stacked = drawn(space)
    observations = Observations(space)
    specs = tensor_specs(observations)
    # As an exported policy is given them: by name, in any number.
    encode = tf.function(
        lambda **inputs: encode_tensors(observations, inputs), autograph=False
    ).get_concrete_function(**specs)
    assert encode.output_shapes.as_list() == [None, *observations.encoded_space.shape]
    for rows in [slice(None), slice(1)]:
        inputs = {
            name: tf.constant(leaf[rows], specs[name].dtype)
            for name, leaf in zip(specs, leaves(stacked), strict=True)
        }
        encoded = encode(**inputs)
        assert encoded.dtype == tf.float32
        np.testing.assert_array_equal(encoded, observations.encode(stacked)[rows])


@pytest.mark.parametrize("space", COMPOSED)
def test_inputs_are_what_was_encoded(space: gymnasium.Space[Any]) -> None:
    _, stacked = drawn(space)
    observations = Observations(space)
    inputs = observations.inputs(observations.encode(stacked))
    assert list(inputs) == list(tensor_specs(observations))
    for (name, array), leaf in zip(inputs.items(), leaves(stacked), strict=True):
        assert array.dtype == leaf.dtype
        if leaf.dtype.kind == "f":  # Networks take every float as float32.
            leaf = leaf.astype(np.float32)
        np.testing.assert_array_equal(array, leaf, err_msg=name)
        spec = tensor_specs(observations)[name]
        assert spec.is_compatible_with(tf.convert_to_tensor(array, spec.dtype))


def test_an_observation_by_hand() -> None:
    space = spaces.Dict(
        {
            "b": Discrete(3, start=1),
            "a": spaces.Tuple([MultiBinary(2), Box(-9, 9, (1,))]),
        }
    )
    observation = {
        "a": (np.array([[0, 1], [1, 1]], np.int8), np.array([[2.5], [-4]], np.float32)),
        "b": np.array([3, 1]),
    }
    encoded = Observations(space).encode(observation)
    assert encoded.tolist() == [[0, 1, 2.5, 0, 0, 1], [1, 1, -4, 1, 0, 0]]


# Parts ------------------------------------------------------------------------------
def test_a_category_of_many_takes_no_more_than_its_row() -> None:
    kinds = 5000
    observations = Observations(Discrete(kinds, start=2))
    tracemalloc.start()
    encoded = observations.encode(np.array([2, 4999, 5001]))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(encoded.argmax(axis=1), [0, 4997, 4999])
    assert encoded.sum() == 3
    # The rows, and a copy on the way; a square of all kinds would be 100 MB.
    assert most < 4 * encoded.nbytes


def test_names_and_types_of_the_parts() -> None:
    specs = tensor_specs(Observations(NESTED))
    assert list(specs) == list(NESTED_SPECS)
    for name, (shape, dtype) in NESTED_SPECS.items():
        assert specs[name] == tf.TensorSpec(shape, dtype, name=name)


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (spaces.Tuple([Discrete(2), Discrete(2)]), ["observation_0", "observation_1"]),
        (
            spaces.Dict({10: Discrete(2), 9: Discrete(2)}),
            ["observation_9", "observation_10"],
        ),
        (
            spaces.Dict({"left arm": Discrete(2), "x/y": Discrete(2)}),
            ["left_arm", "x_y"],
        ),
        (spaces.Dict([("z", Discrete(2)), ("A", Discrete(2))]), ["z", "A"]),
    ],
)
def test_names_are_such_as_tensorflow_takes(
    space: gymnasium.Space[Any], names: list[str]
) -> None:
    assert list(tensor_specs(Observations(space))) == names


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (Discrete(3), [None], tf.int64),
        (MultiDiscrete([2, 2], dtype=np.uint8), [None, 2], tf.uint8),
        (MultiBinary([3, 1]), [None, 3, 1], tf.int8),
        (Box(-1, 1, (2,), np.float16), [None, 2], tf.float32),
        (Box(-1, 1, (2,), np.float64), [None, 2], tf.float32),
        (Box(0, 255, (4, 8, 8), np.uint8), [None, 4, 8, 8], tf.uint8),
        (Box(0, 1, (), np.bool_), [None], tf.bool),
    ],
)
def test_the_only_part_is_the_observation(
    space: gymnasium.Space[Any], shape: list[int | None], dtype: tf.DType
) -> None:
    expected = tf.TensorSpec(shape, dtype, name="observation")
    assert tensor_specs(Observations(space)) == {"observation": expected}


# Action masks -----------------------------------------------------------------------
def test_networks_are_given_the_parts_around_a_mask() -> None:
    observations = Observations(MASKED)
    assert observations.mask == slice(2, 5)
    assert observations.network_space == Box(-np.inf, np.inf, (6,), np.float32)
    encoded = np.arange(18, dtype=np.float32).reshape(2, 9)
    seen = encoded[:, [0, 1, 5, 6, 7, 8]]
    np.testing.assert_array_equal(observations.without_mask(encoded), seen)
    np.testing.assert_array_equal(
        without_mask(observations, tf.constant(encoded)), seen
    )
    # Of a rollout, time-major.
    rollout = observations.without_mask(encoded[:, None])
    np.testing.assert_array_equal(rollout, seen[:, None])
    encoded[1, 2:5] = [0, 1, 0]
    allowed = allowed_options(observations, tf.constant(encoded))
    assert allowed.numpy().tolist() == [[True] * 3, [False, True, False]]


def test_without_a_mask_networks_are_given_everything() -> None:
    for space in [NESTED, Box(-1, 1, (2, 3))]:
        observations = Observations(space)
        assert observations.mask is None
        assert observations.network_space is observations.encoded_space or (
            observations.network_space == observations.encoded_space
        )
        encoded = np.ones((2, *observations.encoded_space.shape), np.float32)
        assert observations.without_mask(encoded) is encoded
        tensor = tf.constant(encoded)
        assert without_mask(observations, tensor) is tensor
        assert allowed_options(observations, tensor) is None


@pytest.mark.parametrize(
    ("box", "dtype"),
    [
        (Box(0, 255, (4, 8, 9), np.uint8), np.uint8),
        (Box(0, 255, (5,), np.uint8), np.uint8),
        (Box(-1, 1, (2, 3), np.float64), np.float32),
        (Box(-7, 7, (2,), np.int16), np.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", ["eye", "mask"])
def test_one_box_beside_a_mask_is_that_box(box: Box, dtype: type, first: str) -> None:
    parts = {"eye": box, "mask": ActionMask(3)}
    space = spaces.Dict(sorted(parts.items(), key=lambda item: item[0] != first))
    _, stacked = drawn(space)
    observations = Observations(space)
    assert observations.network_space is box
    encoded = observations.encode(stacked)
    assert encoded.dtype == observations.encoded_space.dtype == dtype
    assert encoded.shape[1:] == observations.encoded_space.shape
    assert observations.encoded_space.shape == (spaces.flatdim(box) + 3,)
    expected = stacked["eye"].astype(dtype)
    np.testing.assert_array_equal(observations.without_mask(encoded), expected)
    tensors = {
        name: tf.constant(stacked[name], spec.dtype)
        for name, spec in tensor_specs(observations).items()
    }
    in_graph = encode_tensors(observations, tensors)
    np.testing.assert_array_equal(in_graph, encoded)
    assert in_graph.dtype == dtype
    np.testing.assert_array_equal(without_mask(observations, in_graph), expected)
    allowed = allowed_options(observations, in_graph)
    np.testing.assert_array_equal(allowed, stacked["mask"] == 1)
    np.testing.assert_array_equal(observations.inputs(encoded)["mask"], stacked["mask"])


def test_a_mask_is_not_a_part_like_any_other() -> None:
    def observations(part: gymnasium.Space[Any]) -> Observations:
        return Observations(spaces.Dict({"eye": Box(-1, 1, (2,)), "mask": part}))

    masked = observations(ActionMask(3))
    assert masked.compatible_with(observations(ActionMask(3)))
    assert not masked.compatible_with(observations(ActionMask(4)))
    assert not masked.compatible_with(observations(MultiBinary(3)))


def test_a_mask_alone_is_nothing_to_see() -> None:
    with pytest.raises(UserError, match="at least one part besides the action mask"):
        Observations(spaces.Dict({"mask": ActionMask(3)}))


# What is refused --------------------------------------------------------------------
def with_part(observation: Any, name: str, array: Array) -> Any:
    """An observation of NESTED with another array for the part of this name."""
    first, *rest = name.split("_", 1)
    if isinstance(observation, tuple):
        return tuple(
            array if str(i) == first else part for i, part in enumerate(observation)
        )
    part = with_part(observation[first], rest[0], array) if rest else array
    return {**observation, first: part}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("agent_key", np.zeros((40, 1), np.int64)),
        ("agent_speed", np.zeros((40, 1))),
        ("agent_limbs_0", np.zeros((40, 4), np.int8)),
        ("agent_limbs_1", np.zeros((40, 5), np.uint8)),
        ("cards", np.zeros((40, 2), np.int64)),
        ("target", np.zeros((40, 3, 2), np.float32)),
    ],
)
def test_parts_of_another_shape_are_refused(name: str, array: Array) -> None:
    observations = Observations(NESTED)
    _, stacked = drawn(NESTED)
    announced = NESTED_SPECS[name][0][1:]
    with pytest.raises(ValueError, match=f"^{name} has the shape ") as error:
        observations.encode(with_part(stacked, name, array))
    assert f" {list(array.shape[1:])}, and {announced} in " in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "accepted"),
    [
        ("agent_key", -2, "-1 to 1"),
        ("agent_key", 2, "-1 to 1"),
        ("agent_limbs_2", 2, "0 to 1"),
        ("cards", 99, "100 to 103"),
        ("cards", 104, "100 to 103"),
    ],
)
def test_kinds_that_do_not_exist_are_refused(
    name: str, kind: int, accepted: str
) -> None:
    observations = Observations(NESTED)
    _, stacked = drawn(NESTED)
    encoded = observations.encode(stacked)
    part = observations.inputs(encoded)[name]
    same = observations.encode(with_part(stacked, name, part))
    np.testing.assert_array_equal(same, encoded)
    part[(7, 1, 1) if name == "cards" else 7] = kind
    with pytest.raises(ValueError, match=f"^{name} is {kind}, outside of {accepted}$"):
        observations.encode(with_part(stacked, name, part))


@pytest.mark.parametrize(
    ("space", "received"),
    [
        (spaces.Text(5), "observation: Text("),
        (spaces.Graph(Box(-1, 1, (3,)), None), "observation: Graph("),
        (spaces.Sequence(Discrete(2)), "observation: Sequence("),
        (spaces.Dict({"a": Discrete(2), "b": spaces.Text(5)}), "b: Text("),
        (
            spaces.Tuple([Discrete(2), spaces.Dict({"x": spaces.Text(5)})]),
            "observation_1_x: Text(",
        ),
    ],
)
def test_other_spaces_are_refused_in_one_line(
    space: gymnasium.Space[Any], received: str
) -> None:
    with pytest.raises(UserError) as error:
        Observations(space)
    message = str(error.value)
    assert "\n" not in message
    assert f"Received: {received}" in message
    assert message.endswith(
        "Accepted: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of "
        "those; --wrappers=module:Class can make one of it."
    )


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (
            spaces.Dict({"a.b": Discrete(2), "a": spaces.Dict({"b": Discrete(2)})}),
            "a_b, a_b",
        ),
        (
            spaces.Dict([(1, Discrete(2)), ("1", Discrete(2))]),
            "observation_1, observation_1",
        ),
        (spaces.Dict({"Left": Discrete(2), "left": Discrete(2)}), "Left, left"),
        (spaces.Dict({"x y": Discrete(2), "x/y": Discrete(2)}), "x_y, x_y"),
        (spaces.Dict({"_hidden": Discrete(2)}), "_hidden"),
    ],
)
def test_keys_that_make_no_names_are_refused(
    space: gymnasium.Space[Any], names: str
) -> None:
    """An exported policy takes its inputs by name, and would take one for both."""
    with pytest.raises(UserError, match=f"Received: {names}\\.$") as error:
        Observations(space)
    assert "\n" not in str(error.value)


def test_a_space_without_parts_is_refused() -> None:
    with pytest.raises(UserError, match=r"at least one part. Received: Dict\(\)"):
        Observations(spaces.Dict({}))


def test_parts_with_other_kinds_are_not_alike() -> None:
    """Though they are as many numbers under the same names."""

    def observations(first: int, second: int, high: float = 1.0) -> Observations:
        box = Box(0.0, high, (2,))
        return Observations(
            spaces.Dict({"a": Discrete(first), "b": Discrete(second), "c": box})
        )

    assert observations(2, 3).compatible_with(observations(2, 3, high=7.0))
    assert not observations(2, 3).compatible_with(observations(3, 2))
    assert not observations(2, 3).compatible_with(Observations(Box(0.0, 1.0, (7,))))
