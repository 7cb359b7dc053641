"""Shapes, initial weights, and what happens to pixels before the first layer."""

import math

import gymnasium
import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from gymnasium.spaces import Box

from acktr_tf.config.policy import CONV_INITIALIZERS, PolicySettings
from acktr_tf.errors import UserError
from acktr_tf.policies.networks import HeadSpec, ZeroMeanOrthogonal, make_network

FRAMES = Box(0, 255, (4, 84, 84), np.uint8)
SMALL_FRAMES = Box(0, 255, (2, 40, 52), np.uint8)
PICTURES = Box(0, 255, (2, 42, 42, 3), np.uint8)
VECTOR = Box(-np.inf, np.inf, (5,), np.float32)


def network(
    space: gymnasium.spaces.Box,
    num_parameters: int = 3,
    seed: int = 0,
    **settings: object,
) -> keras.Model:
    return make_network(
        PolicySettings(**settings), space, HeadSpec(num_parameters), seed
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
    model = network(space, 3, policy_activation="relu", value_activation="elu")
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


# What does not fit ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("nature_cnn", VECTOR),
        ("nature_cnn", Box(0, 255, (4, 35, 84), np.uint8)),
        ("nature_cnn", Box(0.0, 1.0, (4, 84, 84), np.float32)),
        ("auto", Box(0, 255, (210, 160), np.uint8)),
        ("nature_cnn", PICTURES),
        ("separate_cnns", FRAMES),
        ("separate_cnns", Box(0, 255, (7, 42, 3), np.uint8)),
        ("separate_cnns", Box(0.0, 1.0, (42, 42, 3), np.float32)),
        ("mlp", FRAMES),
        ("auto", Box(0, 255, (128,), np.uint8)),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    kind: str, space: gymnasium.spaces.Box
) -> None:
    with pytest.raises(UserError) as error:
        network(space, network=kind)
    message = str(error.value)
    assert "network=" in message
    assert f"Received: {space.dtype} of shape {list(space.shape)}" in message
    assert "\n" not in message


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
        (FRAMES, "nature_cnn"),
        (VECTOR, "mlp"),
        (PICTURES, "separate_cnns"),
        (Box(0, 255, (96, 96, 3), np.uint8), "separate_cnns"),
        (Box(0, 255, (2, 42, 42, 1), np.uint8), "separate_cnns"),
    ],
)
def test_auto_takes_what_fits(space: gymnasium.spaces.Box, name: str) -> None:
    chosen, named = network(space), network(space, network=name)
    assert chosen.name == named.name
    assert chosen.count_params() == named.count_params()
