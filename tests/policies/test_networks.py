"""Shapes, initial weights, and what happens to pixels before the first layer."""

import math
from typing import Any

import gymnasium
import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from acktr_tf.config.policy import CONV_INITIALIZERS, PolicySettings
from acktr_tf.errors import UserError
from acktr_tf.policies.networks import HeadSpec, ZeroMeanOrthogonal, make_network
from acktr_tf.spaces.observations import Observations

FRAMES = Box(0, 255, (4, 84, 84), np.uint8)
SMALL_FRAMES = Box(0, 255, (2, 40, 52), np.uint8)
PICTURES = Box(0, 255, (2, 42, 42, 3), np.uint8)
VECTOR = Box(-np.inf, np.inf, (5,), np.float32)


def network(
    space: gymnasium.Space[Any],
    num_parameters: int = 3,
    seed: int = 0,
    **settings: object,
) -> keras.Model:
    return make_network(
        PolicySettings(**settings), Observations(space), HeadSpec(num_parameters), seed
    )


def as_matrix(layer: keras.layers.Layer) -> npt.NDArray[np.float64]:
    kernel = layer.kernel.numpy().astype(np.float64)
    return kernel.reshape(-1, kernel.shape[-1])


# Shapes -----------------------------------------------------------------------------
@pytest.mark.parametrize("conv3_filters", [32, 64])
def test_nature_cnn_has_the_weights_of_the_paper(conv3_filters: int) -> None:
    """VALID convolutions leave 20×20, 9×9 and 7×7 positions of an 84×84 frame."""
    model = network(FRAMES, 6, conv3_filters=conv3_filters)
    expected = {
        "conv1": (8 * 8 * 4 + 1) * 32,
        "conv2": (4 * 4 * 32 + 1) * 64,
        "conv3": (3 * 3 * 64 + 1) * conv3_filters,
        "fc": (7 * 7 * conv3_filters + 1) * 512,
        "policy": (512 + 1) * 6,
        "value": 512 + 1,
    }
    counts = {layer.name: layer.count_params() for layer in model.layers}
    assert {name: count for name, count in counts.items() if count} == expected
    assert model.count_params() == sum(expected.values())
    assert len(model.trainable_variables) == len(model.variables) == 12


def test_mlp_has_two_networks_of_two_layers() -> None:
    model = network(VECTOR, 3, hidden_size=16)
    tower = (5 + 1) * 16 + (16 + 1) * 16
    assert model.count_params() == 2 * tower + (16 + 1) * 3 + (16 + 1) * 1
    observation = tf.Variable(np.random.default_rng(0).normal(size=(1, 5)), tf.float32)
    # Nothing is shared: the value moves no weight of the policy's network.
    with tf.GradientTape() as tape:
        _, value = model(tf.cast(observation, tf.float32))
    gradients = tape.gradient(value, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert (gradient is None) == ("policy" in variable.path), variable.path


@pytest.mark.parametrize(
    ("space", "dtype"),
    [(FRAMES, "uint8"), (SMALL_FRAMES, "uint8"), (VECTOR, "float32")],
)
def test_outputs_are_parameters_and_one_value(
    space: gymnasium.spaces.Box, dtype: str
) -> None:
    model = network(space, 7)
    assert model.input.dtype == dtype
    for n in [1, 3]:
        parameters, value = model(np.stack([space.sample()] * n))
        assert parameters.shape == (n, 7)
        assert value.shape == (n, 1)
        assert parameters.dtype == value.dtype == tf.float32


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_mlp_flattens_observations(shape: tuple[int, ...]) -> None:
    model = network(Box(-1.0, 1.0, shape, np.float64), 2)
    parameters, value = model(tf.zeros([4, *shape]))
    assert parameters.shape == (4, 2)
    assert value.shape == (4, 1)


# Initial weights --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("space", "gains"),
    [
        (
            FRAMES,
            {
                "conv1": math.sqrt(2),
                "conv2": math.sqrt(2),
                "conv3": math.sqrt(2),
                "fc": math.sqrt(2),
                "policy": 1.0,
                "value": 1.0,
            },
        ),
        (
            VECTOR,
            {
                "policy_fc1": math.sqrt(2),
                "policy_fc2": math.sqrt(2),
                "policy": 0.01,
                "value_fc1": math.sqrt(2),
                "value_fc2": math.sqrt(2),
                "value": 1.0,
            },
        ),
    ],
)
@pytest.mark.parametrize("initializer", CONV_INITIALIZERS)
def test_kernels_are_orthogonal_and_biases_zero(
    space: gymnasium.spaces.Box, gains: dict[str, float], initializer: str
) -> None:
    model = network(space, conv_initializer=initializer)
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    assert layers.keys() == gains.keys()
    for name, layer in layers.items():
        matrix = as_matrix(layer)
        if matrix.shape[0] < matrix.shape[1]:
            matrix = matrix.T
        np.testing.assert_allclose(
            matrix.T @ matrix,
            gains[name] ** 2 * np.eye(matrix.shape[1]),
            atol=1e-5 * gains[name] ** 2,
        )
        assert not layer.bias.numpy().any()


def test_filters_do_not_see_what_is_the_same_everywhere() -> None:
    """So that no unit is always on, or never, because of a background."""
    model = network(FRAMES)
    rng = np.random.default_rng(0)
    frames = np.full((64, 4, 84, 84), 87, np.uint8)
    for picture in frames:  # A ball that moves.
        x, y = rng.integers(0, 70, 2)
        for frame, (dx, dy) in zip(picture, rng.integers(0, 10, (4, 2)), strict=True):
            frame[y + dy : y + dy + 4, x + dx : x + dx + 2] = 236
    flat = np.full((1, 4, 84, 84), 87, np.uint8)
    for name in ("conv1", "conv2", "conv3"):
        layer = model.get_layer(name)
        np.testing.assert_allclose(as_matrix(layer).sum(axis=0), 0.0, atol=1e-5)
        outputs = keras.Model(model.inputs[0], layer.output)
        assert np.abs(outputs(flat)).max() < 1e-5
        share_on = (np.asarray(outputs(frames)) > 1e-4).mean(axis=(0, 1, 2))
        assert share_on.min() > 0.0, name
        assert share_on.max() < 0.9, name


def test_orthogonal_filters_need_not_sum_to_zero() -> None:
    model = network(FRAMES, conv_initializer="orthogonal")
    for name in ("conv1", "conv2", "conv3"):
        sums = as_matrix(model.get_layer(name)).sum(axis=0)
        assert np.abs(sums).max() > 0.5, name


def test_zero_mean_filters_need_more_inputs_than_outputs() -> None:
    with pytest.raises(ValueError, match=r"more inputs than outputs.*\(2, 2, 1, 4\)"):
        ZeroMeanOrthogonal(1.0, seed=0)((2, 2, 1, 4))


def test_a_network_can_be_cloned() -> None:
    model = network(SMALL_FRAMES, seed=3)
    for mine, other in zip(
        model.weights, keras.models.clone_model(model).weights, strict=True
    ):
        assert np.array_equal(mine, other), mine.path


@pytest.mark.parametrize("space", [SMALL_FRAMES, VECTOR])
def test_the_seed_decides_the_weights(space: gymnasium.spaces.Box) -> None:
    keras.utils.set_random_seed(1)
    first = network(space, seed=5)
    keras.utils.set_random_seed(2)
    again = network(space, seed=5)
    for mine, other in zip(first.weights, again.weights, strict=True):
        assert np.array_equal(mine, other), mine.path


@pytest.mark.parametrize("space", [SMALL_FRAMES, VECTOR])
@pytest.mark.parametrize("other_seed", [0, 6, 2**31 - 1])
def test_other_seeds_give_other_weights(
    space: gymnasium.spaces.Box, other_seed: int
) -> None:
    first, other = network(space, seed=5), network(space, seed=other_seed)
    for mine, theirs in zip(first.layers, other.layers, strict=True):
        if mine.weights:
            assert not np.allclose(mine.kernel, theirs.kernel, rtol=0.1), mine.name


def test_layers_of_one_shape_differ() -> None:
    model = network(VECTOR)
    for one, other in [("policy_fc1", "value_fc1"), ("policy_fc2", "value_fc2")]:
        assert not np.allclose(
            model.get_layer(one).kernel, model.get_layer(other).kernel, rtol=0.1
        )


# Pixels -----------------------------------------------------------------------------
def test_nature_cnn_equals_its_layers_written_out() -> None:
    model = network(SMALL_FRAMES, 3)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "bias" in variable.path:
            variable.assign(0.1 * random.normal(size=variable.shape))
    pixels = random.integers(0, 256, (2, 2, 40, 52), np.uint8)

    hidden = np.moveaxis(pixels, 1, 3).astype(np.float32) / 255.0
    for name, stride in [("conv1", 4), ("conv2", 2), ("conv3", 1)]:
        layer = model.get_layer(name)
        hidden = tf.nn.conv2d(hidden, layer.kernel.value, stride, "VALID")
        hidden = tf.maximum(hidden + layer.bias.value, 0.0)
    hidden = tf.reshape(hidden, [2, -1])
    fc = model.get_layer("fc")
    hidden = np.maximum(hidden @ fc.kernel + fc.bias, 0.0)
    for output, name in zip(model(pixels), ["policy", "value"], strict=True):
        head = model.get_layer(name)
        expected = hidden @ head.kernel + head.bias
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_separate_cnns_have_the_weights_of_the_paper() -> None:
    """SAME convolutions of stride 2 leave 21×21 and 11×11 positions of 42×42."""
    model = network(PICTURES, 5)
    tower = {
        "conv1": (3 * 3 * 6 + 1) * 32,
        "conv2": (3 * 3 * 32 + 1) * 32,
        "fc": (11 * 11 * 32 + 1) * 256,
    }
    expected = {
        **{f"policy_{name}": count for name, count in tower.items()},
        **{f"value_{name}": count for name, count in tower.items()},
        "policy": (256 + 1) * 5,
        "value": 256 + 1,
    }
    counts = {layer.name: layer.count_params() for layer in model.layers}
    assert {name: count for name, count in counts.items() if count} == expected


@pytest.mark.parametrize("shape", [(2, 9, 10, 3), (9, 10, 3)])
def test_separate_cnns_equal_their_layers_written_out(shape: tuple[int, ...]) -> None:
    space = Box(0, 255, shape, np.uint8)
    settings = {"policy_activation": "relu", "value_activation": "elu"}
    model = network(space, 3, network="separate_cnns", **settings)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "bias" in variable.path:
            variable.assign(0.1 * random.normal(size=variable.shape))
    pixels = random.integers(0, 256, (5, *shape), np.uint8)

    # Colours of a frame stay together, the oldest frame first.
    frames = pixels[:, None] if len(shape) == 3 else pixels
    stacked = np.concatenate(list(frames.swapaxes(0, 1)), axis=-1)
    activations = {"policy": tf.nn.relu, "value": tf.nn.elu}
    for output, name in zip(model(pixels), ["policy", "value"], strict=True):
        hidden = stacked.astype(np.float32) / 255.0
        for i in (1, 2):
            kernel, bias = model.get_layer(f"{name}_conv{i}").get_weights()
            hidden = tf.nn.conv2d(hidden, kernel, 2, "SAME") + bias
            hidden = activations[name](hidden)
        hidden = tf.reshape(hidden, [5, -1])
        kernel, bias = model.get_layer(f"{name}_fc").get_weights()
        hidden = activations[name](hidden @ kernel + bias)
        kernel, bias = model.get_layer(name).get_weights()
        np.testing.assert_allclose(output, hidden @ kernel + bias, atol=1e-5)


def test_mlp_equals_its_layers_written_out() -> None:
    model = network(VECTOR, 3)
    observation = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    for output, name in zip(model(observation), ["policy", "value"], strict=True):
        hidden = observation
        for layer in [f"{name}_fc1", f"{name}_fc2"]:
            kernel, bias = model.get_layer(layer).get_weights()
            hidden = np.tanh(hidden @ kernel + bias)
        kernel, bias = model.get_layer(name).get_weights()
        np.testing.assert_allclose(output, hidden @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((40, 52, 4), 0), ((40, 52), 0), ((2, 3, 40, 52), 2), ((2, 40, 52, 3), 1)],
)
def test_nature_cnn_takes_pictures_in_every_order_of_axes(
    shape: tuple[int, ...], axis: int
) -> None:
    """The same picture with its channels in front gives the same outputs."""
    model = network(Box(0, 255, shape, np.uint8), network="nature_cnn")
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    order = [0, *(i for i in range(1, pixels.ndim) if i not in (axis + 1, axis + 2))]
    first = pixels.transpose([*order, axis + 1, axis + 2]).reshape(2, -1, 40, 52)
    same = network(Box(0, 255, first.shape[1:], np.uint8), network="nature_cnn")
    same.set_weights(model.get_weights())
    for mine, theirs in zip(model(pixels), same(first), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("high", [1.0, 255.0])
def test_pictures_of_floats_are_those_of_bytes(high: float) -> None:
    bytes_ = np.random.default_rng(0).integers(0, 256, (2, 40, 52, 4), np.uint8)
    taken = network(Box(0, 255, bytes_.shape[1:], np.uint8))
    floats = network(Box(0.0, high, bytes_.shape[1:], np.float32))
    assert taken.name == floats.name == "nature_cnn"
    assert floats.input.dtype == "float32"
    scaled = (bytes_ / 255.0 * high).astype(np.float32)
    for mine, theirs in zip(taken(bytes_), floats(scaled), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    [
        ("nature_cnn", (96, 96, 3), 1),
        ("nature_cnn", (210, 160, 3), 2),
        ("nature_cnn", (480, 640, 3), 5),
        ("separate_cnns", (48, 48, 3), 1),
        ("separate_cnns", (96, 96, 3), 2),
        ("separate_cnns", (210, 160, 3), 4),
    ],
)
def test_large_pictures_are_averaged_until_the_dense_layer_is_moderate(
    kind: str, shape: tuple[int, ...], size: int
) -> None:
    model = network(Box(0, 255, shape, np.uint8), network=kind)
    dense = [layer for layer in model.layers if layer.name.endswith("fc")]
    assert all(layer.kernel.shape[0] <= 5_000 for layer in dense)
    pools = [layer for layer in model.layers if layer.name == "average"]
    assert len(pools) == (size > 1)
    # By squares as small as do: NumPy's means over them.
    if pools:
        height, width = (side // size * size for side in shape[:2])
        pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
        found = keras.Model(model.inputs[0], pools[0].output)(pixels)
        squares = pixels[0, :height, :width] / 255.0
        squares = squares.reshape(height // size, size, width // size, size, 3)
        np.testing.assert_allclose(found[0], squares.mean(axis=(1, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((7, 7, 3), [1, 1]), ((12, 12, 5), [1, 1]), ((22, 22, 3), [1, 2])],
)
def test_grid_cnn_equals_its_layers_written_out(
    shape: tuple[int, ...], strides: list[int]
) -> None:
    settings = {"policy_activation": "relu", "value_activation": "tanh"}
    model = network(Box(0, 255, shape, np.uint8), 3, **settings)
    assert model.name == "grid_cnn"
    cells = np.random.default_rng(0).integers(0, 11, (4, *shape), np.uint8)
    activations = {"policy": tf.nn.relu, "value": tf.nn.tanh}
    for output, name in zip(model(cells), ["policy", "value"], strict=True):
        hidden = cells.astype(np.float32)
        for i, stride in enumerate(strides, start=1):
            kernel, bias = model.get_layer(f"{name}_conv{i}").get_weights()
            hidden = tf.nn.conv2d(hidden, kernel, stride, "SAME") + bias
            hidden = activations[name](hidden)
        hidden = tf.reshape(hidden, [4, -1])
        assert hidden.shape[1] <= 5_000
        kernel, bias = model.get_layer(f"{name}_fc").get_weights()
        hidden = activations[name](hidden @ kernel + bias)
        kernel, bias = model.get_layer(name).get_weights()
        np.testing.assert_allclose(output, hidden @ kernel + bias, atol=1e-4)


PARTS = {
    "camera": Box(0, 255, (40, 52, 3), np.uint8),
    "compass": Discrete(4),
    "map": Box(0, 9, (5, 6, 2), np.int64),
    "speed": Box(-np.inf, np.inf, (2,), np.float64),
}


def test_multi_input_equals_its_parts_written_out() -> None:
    space = Dict(PARTS)
    model = make_network(PolicySettings(), Observations(space), HeadSpec(3), 0)
    assert model.name == "multi_input"
    vector = gymnasium.vector.utils.batch_space(space, 3)
    vector.seed(0)
    raw = vector.sample()
    camera = raw["camera"].astype(np.float32) / 255.0
    for i, stride in [(1, 4), (2, 2), (3, 1)]:
        kernel, bias = model.get_layer(f"camera_conv{i}").get_weights()
        camera = tf.nn.relu(tf.nn.conv2d(camera, kernel, stride, "VALID") + bias)
    cells = raw["map"].astype(np.float32)
    for i in (1, 2):
        kernel, bias = model.get_layer(f"map_conv{i}").get_weights()
        cells = tf.nn.relu(tf.nn.conv2d(cells, kernel, 1, "SAME") + bias)

    def dense(hidden: object, name: str) -> tf.Tensor:
        kernel, bias = model.get_layer(name).get_weights()
        return tf.reshape(hidden, [3, -1]) @ kernel + bias

    joined = [
        tf.nn.relu(dense(camera, "camera_fc")),
        np.eye(4)[raw["compass"]],
        tf.nn.relu(dense(cells, "map_fc")),
        raw["speed"],
    ]
    joined = np.concatenate(joined, axis=1).astype(np.float32)
    hidden = tf.nn.relu(dense(joined, "fc"))
    encoded = Observations(space).encode(raw)
    for output, name in zip(model(encoded), ["policy", "value"], strict=True):
        np.testing.assert_allclose(output, dense(hidden, name), rtol=1e-3, atol=1e-5)
    clone = keras.models.clone_model(model)
    for mine, theirs in zip(model(encoded), clone(encoded), strict=True):
        np.testing.assert_array_equal(mine, theirs)


# What does not fit ------------------------------------------------------------------
def test_more_filters_than_can_sum_to_zero_are_refused() -> None:
    with pytest.raises(UserError, match=r"must be < 576.*Received: conv3_filters=576"):
        network(FRAMES, conv3_filters=576)
    # The smallest pictures: to make a wide layer's orthogonal matrix takes seconds.
    small = Box(0, 255, (1, 36, 36), np.uint8)
    network(small, conv3_filters=575)
    network(small, conv3_filters=576, conv_initializer="orthogonal")


def test_the_smallest_frames_that_fit() -> None:
    model = network(Box(0, 255, (1, 36, 36), np.uint8))
    assert model(np.zeros((1, 1, 36, 36), np.uint8))[1].shape == (1, 1)


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (Box(0, 255, (36, 40), np.uint8), "nature_cnn"),
        (Box(0, 255, (28, 30), np.uint8), "separate_cnns"),
        (Box(0, 1, (4, 28, 28), np.bool_), "separate_cnns"),
        (Box(0, 1, (10, 10, 4), np.bool_), "grid_cnn"),
        (Box(0, 255, (2, 8), np.uint8), "separate_mlps"),
        (Tuple([VECTOR, Box(0, 255, (7, 7, 3), np.uint8)]), "multi_input"),
        (Dict(only=Box(0.0, 1.0, (30, 30, 1), np.float64)), "multi_input"),
    ],
)
def test_auto_makes_what_suits(space: gymnasium.Space[Any], name: str) -> None:
    model = network(space)
    assert model.name == name
    encoded = np.stack([Observations(space).encoded_space.sample()] * 2)
    assert model(encoded)[1].shape == (2, 1)


def test_numbers_in_bytes_are_taken_as_they_are() -> None:
    model = network(Box(0, 255, (6,), np.uint8))
    assert model.input.dtype == "float32"
    values = np.array([[0, 1, 2, 40, 200, 255]], np.uint8)
    same = network(Box(-np.inf, np.inf, (6,), np.float32))
    for mine, theirs in zip(model(values), same(values.astype(float)), strict=True):
        np.testing.assert_array_equal(mine, theirs)
