"""Which network is taken for which observations, and what is refused."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from acktr_tf.errors import UserError
from acktr_tf.policies.choice import choose_network, scales
from acktr_tf.spaces.observations import Observations

FRAMES = Box(0, 255, (4, 84, 84), np.uint8)
PICTURES = Box(0, 255, (2, 42, 42, 3), np.uint8)
VECTOR = Box(-np.inf, np.inf, (5,), np.float32)


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (FRAMES, "nature_cnn"),
        (VECTOR, "mlp"),
        (PICTURES, "separate_cnns"),
        (Box(0, 255, (2, 42, 42, 1), np.uint8), "separate_cnns"),
        (Box(0, 255, (48, 48, 3), np.uint8), "separate_cnns"),
        (Box(0, 255, (49, 49, 3), np.uint8), "nature_cnn"),
        (Box(0, 255, (96, 96, 3), np.uint8), "nature_cnn"),
        (Box(0, 255, (64, 64, 4), np.uint8), "nature_cnn"),
        (Box(0, 255, (84, 84), np.uint8), "nature_cnn"),
        (Box(0.0, 1.0, (84, 84, 4), np.float32), "nature_cnn"),
        (Box(0, 255, (28, 30), np.uint8), "separate_cnns"),
        (Box(0, 1, (4, 32, 32), np.bool_), "separate_cnns"),
        (Box(0, 255, (27, 27, 3), np.uint8), "grid_cnn"),
        (Box(0, 255, (7, 7, 20), np.uint8), "grid_cnn"),
        (Box(0, 1, (10, 10, 4), np.bool_), "grid_cnn"),
        (Box(0.0, 1.0, (2, 6, 7), np.float32), "grid_cnn"),
        (Box(0, 255, (128,), np.uint8), "mlp"),
        (Box(0, 255, (4, 128), np.uint8), "mlp"),
        (Box(-np.inf, np.inf, (7, 11, 11), np.float32), "mlp"),
        (Box(0, 255, (40, 2, 3), np.uint8), "mlp"),
        (MultiBinary([9, 9, 3]), "mlp"),
        (Dict(a=MultiDiscrete([3, 4]), b=Box(0, 255, (9,), np.uint8)), "mlp"),
        (Dict(only=PICTURES), "multi_input"),
        (Tuple([VECTOR, Box(0, 255, (7, 7, 3), np.uint8)]), "multi_input"),
    ],
)
def test_auto_takes_what_suits(space: gymnasium.Space[Any], name: str) -> None:
    observations = Observations(space)
    assert choose_network("auto", observations) == name
    assert choose_network(name, observations) == name


@pytest.mark.parametrize(
    ("network", "space"),
    [
        ("nature_cnn", PICTURES),
        ("separate_cnns", FRAMES),
        ("separate_cnns", Box(0.0, 1.0, (8, 9), np.float32)),
        ("grid_cnn", Box(-np.inf, np.inf, (7, 11, 11), np.float32)),
        ("grid_cnn", Box(0, 255, (8, 8), np.uint8)),
        ("grid_cnn", Box(0, 255, (30, 30, 3), np.uint8)),
        ("mlp", Box(0, 255, (7, 7, 3), np.uint8)),
        ("mlp", Box(0, 255, (40, 40, 3), np.uint8)),
        ("mlp", Dict(a=Discrete(2), b=Box(0, 255, (40, 40), np.uint8))),
    ],
)
def test_a_network_may_be_named_where_auto_takes_another(
    network: str, space: gymnasium.Space[Any]
) -> None:
    assert choose_network("auto", Observations(space)) != network
    assert choose_network(network, Observations(space)) == network


@pytest.mark.parametrize(
    ("network", "scaled"),
    [("multi_input", [True, False, False]), ("mlp", [False, False, False])],
)
def test_only_pictures_are_scaled(network: str, scaled: list[bool]) -> None:
    parts = [
        Box(0, 255, (28, 28), np.uint8),
        Box(0, 255, (7, 7, 3), np.uint8),
        Discrete(3),
    ]
    observations = Observations(Tuple(parts))
    assert [scales(network, part) for part in observations.parts] == scaled


# What does not fit ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "space", "received", "suited"),
    [
        ("nature_cnn", VECTOR, "float32 of shape [5]", "mlp"),
        (
            "nature_cnn",
            Box(0, 255, (4, 35, 84), np.uint8),
            "uint8 of shape [4, 35, 84]",
            "separate_cnns",
        ),
        (
            "nature_cnn",
            Box(-1.0, 1.0, (4, 84, 84), np.float32),
            "float32 of shape [4, 84, 84]",
            "mlp",
        ),
        (
            "separate_cnns",
            Box(0, 255, (7, 42, 3), np.uint8),
            "uint8 of shape [7, 42, 3]",
            "grid_cnn",
        ),
        ("mlp", FRAMES, "uint8 of shape [4, 84, 84]", "nature_cnn"),
        (
            "mlp",
            Box(0.0, 1.0, (64, 64, 3), np.float32),
            "float32 of shape [64, 64, 3]",
            "nature_cnn",
        ),
        ("grid_cnn", VECTOR, "float32 of shape [5]", "mlp"),
        ("multi_input", PICTURES, "uint8 of shape [2, 42, 42, 3]", "separate_cnns"),
        (
            "multi_input",
            Dict(a=Discrete(3), b=VECTOR),
            "a: 3 categories; b: float32 of shape [5]",
            "mlp",
        ),
        (
            "grid_cnn",
            Dict(a=MultiDiscrete([2, 5]), b=Box(0, 255, (7, 7, 3), np.uint8)),
            "a: 7 categories; b: uint8 of shape [7, 7, 3]",
            "multi_input",
        ),
        (
            "mlp",
            Dict(a=Discrete(2), b=Box(0, 255, (64, 64, 3), np.uint8)),
            "a: 2 categories; b: uint8 of shape [64, 64, 3]",
            "multi_input",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    kind: str, space: gymnasium.Space[Any], received: str, suited: str
) -> None:
    """The message names what is received, and the network that does fit."""
    with pytest.raises(UserError) as error:
        choose_network(kind, Observations(space))
    message = str(error.value)
    assert message.startswith(f"network={kind} takes ")
    assert message.endswith(
        f"Received: {received}. network=auto takes {suited} for that."
    )
    assert "\n" not in message
    assert choose_network(suited, Observations(space)) == suited
