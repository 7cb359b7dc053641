"""Which network suits which observations."""

import math

from acktr_tf.errors import UserError
from acktr_tf.spaces.observations import Observations, Part
from acktr_tf.spaces.pictures import (
    GRID,
    GRID_SIDE,
    NUMBERS,
    PICTURE,
    has_colours,
    height_axis,
    least_side,
    sides,
)

MAX_DENSE_INPUTS = 5_000
"""Inputs of the dense layer after pictures: its K-FAC factor has their square."""

MIN_SIDES = {"nature_cnn": 36, "separate_cnns": 8, "grid_cnn": GRID_SIDE}
SMALL_COLOUR_SIDE = 48
"""Largest side of colour pictures for which `auto` takes two networks."""

_TAKEN = {
    **{
        name: "one picture, in bytes or in numbers from 0 to 1 or 255, of at least "
        f"{MIN_SIDES[name]} pixels a side"
        for name in ("nature_cnn", "separate_cnns")
    },
    "grid_cnn": "one grid, [height, width] with or without an axis of channels, of at "
    f"least {GRID_SIDE} cells a side",
    "multi_input": "a Dict or Tuple with at least one picture or grid",
    "mlp": f"vectors, grids, and pictures of at most {MAX_DENSE_INPUTS} numbers",
}


def choose_network(network: str, observations: Observations) -> str:
    """Returns the network that is made: `network`, or what suits if that is `auto`.

    The rule is that of `docs/environments.md`.

    Args:
      network: Value of the setting.
      observations: Observations that the network is given.

    Raises:
      UserError: The network does not suit them.
    """
    suits = _suited(observations)
    if network == "auto":
        return suits
    if not _fits(network, observations):
        received = "; ".join(
            str(part) if observations.is_one_array else f"{part.name}: {part}"
            for part in observations.network_parts
        )
        raise UserError(
            f"network={network} takes {_TAKEN[network]}. Received: {received}. "
            f"network=auto takes {suits} for that."
        )
    return network


def scales(network: str, part: Part) -> bool:
    """Returns whether `network` takes a part for a picture, which it scales itself.

    All else is numbers, which may be normalized.
    """
    if network == "multi_input":
        return part.kind == PICTURE
    return network in ("nature_cnn", "separate_cnns")


def _suited(observations: Observations) -> str:
    kinds = {part.kind for part in observations.network_parts}
    if kinds == {NUMBERS}:
        return "mlp"
    if not observations.is_one_array:
        return "multi_input"
    if kinds == {GRID}:
        return "grid_cnn"
    (part,) = observations.network_parts
    small = max(sides(part.shape)) <= SMALL_COLOUR_SIDE
    in_colour = height_axis(part.shape) == len(part.shape) - 3
    too_small = least_side(part.shape) < MIN_SIDES["nature_cnn"]
    return "separate_cnns" if too_small or (small and in_colour) else "nature_cnn"


def _fits(network: str, observations: Observations) -> bool:
    parts = observations.network_parts
    if network == "mlp":
        return all(
            part.kind != PICTURE or math.prod(part.shape) <= MAX_DENSE_INPUTS
            for part in parts
        )
    if network == "multi_input":
        return not observations.is_one_array and {NUMBERS} != {p.kind for p in parts}
    if not observations.is_one_array:
        return False
    (part,) = parts
    coloured = network == "grid_cnn" or has_colours(observations.network_space)
    return coloured and least_side(part.shape) >= MIN_SIDES[network]
