"""The optimizers, and the settings among which each is tuned.

A setting that is tuned is on a grid of half decades: 0.1, 0.3, 1, 3, ... All other
settings are given here in full, so that a default that changes does not change these.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from acktr_tf import kfac
from supervised.problems import OUTPUTS

ADAM, KFAC = "Adam", "K-FAC"

Point = dict[str, int]
"""A trial: tuned setting → its place on the grid, in half decades from 1."""

DECAY_POWER = 1.0  # Learning rates fall to zero, linearly.


def value(place: int) -> float:
    """Of a place on the grid: 0 is 1, −1 is 0.3, −2 is 0.1, 1 is 3."""
    decades, half = divmod(place, 2)
    return float(f"{3 if half else 1}e{decades}")


def values(point: Mapping[str, int]) -> dict[str, float]:
    """The settings of a trial."""
    return {name: value(place) for name, place in point.items()}


# Optimizers -------------------------------------------------------------------------
def _sgd(learning_rate: Any, seed: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


def _adam(learning_rate: Any, seed: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(
        learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=None
    )


def _muon(learning_rate: Any, seed: int) -> keras.optimizers.Optimizer:
    # As its docstring advises, the last layer is AdamW's, as all that is no matrix is
    # in any case. Weights do not decay, since no other optimizer's do.
    return keras.optimizers.Muon(
        learning_rate,
        weight_decay=None,
        adam_weight_decay=None,
        exclude_layers=[OUTPUTS],
        momentum=0.95,
        nesterov=True,
        rms_rate=0.2,
    )


def _kfac(learning_rate: Any, seed: int, **tuned: float) -> kfac.KFAC:
    return kfac.KFAC(
        learning_rate,
        kl_radius=tuned["kl_radius"],
        trust_region="gradient",
        momentum=0.9,
        step_rule="momentum",
        damping=tuned["damping"],
        damping_period=None,
        factor_decay=0.95,
        factor_update_period=1,
        inverse_update_period=20,
        inverse="cholesky",
        inverse_thread=False,
        conv_positions="uncorrelated",
        curvature_fraction=1.0,
        patch_period=1,
        fisher="sampled",
        seed=seed,
    )


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "SGD": _sgd,
    ADAM: _adam,
    "Muon": _muon,
    KFAC: _kfac,
}


def make(
    name: str, settings: Mapping[str, float], updates: int, seed: int
) -> keras.optimizers.Optimizer:
    """An optimizer whose learning rate falls linearly to zero over all its updates."""
    rest = dict(settings)
    schedule = keras.optimizers.schedules.PolynomialDecay(
        rest.pop("learning_rate"), updates, end_learning_rate=0.0, power=DECAY_POWER
    )
    return OPTIMIZERS[name](schedule, seed, **rest)


# Tuning -----------------------------------------------------------------------------
def line(centre: int) -> list[Point]:
    """Five learning rates, a half decade apart."""
    return [{"learning_rate": centre + step} for step in (-2, -1, 0, 1, 2)]


def cross(centre: Point, axes: Mapping[str, int]) -> list[Point]:
    """A point, and its two neighbours along each of two axes.

    Args:
      centre: The point.
      axes: Setting → half decades from one neighbour to the next.
    """
    found = [centre]
    for name, step in axes.items():
        found += [{**centre, name: centre[name] + way * step} for way in (-1, 1)]
    return found


def beyond(tried: Sequence[Point], best: Point) -> Point | None:
    """The next point where the best is at the edge of those tried; None if it is not.

    An edge is the least or the largest value tried of a setting that has several.

    Args:
      tried: All points so far.
      best: One of them.
    """
    for name, place in best.items():
        places = sorted({point[name] for point in tried})
        if len(places) == 1 or places[0] < place < places[-1]:
            continue
        # As far as it is from its neighbour.
        step = places[1] - places[0] if place == places[0] else places[-1] - places[-2]
        return {**best, name: place + (step if place == places[-1] else -step)}
    return None


def best_of(losses: Sequence[float | None]) -> int:
    """Which trial ended with the least loss; None is that of one that diverged."""
    return min(
        range(len(losses)),
        key=lambda trial: math.inf if losses[trial] is None else losses[trial],
    )


_AUTOENCODERS = {
    "SGD": line(1),
    ADAM: line(-6),
    "Muon": line(-6),
    KFAC: cross(
        {"learning_rate": -1, "kl_radius": -4, "damping": -7},
        {"learning_rate": 1, "damping": 2},
    ),
}
_CLASSIFIERS = {
    "SGD": line(-3),
    ADAM: line(-5),
    "Muon": line(-5),
    KFAC: cross(
        {"learning_rate": -1, "kl_radius": -4, "damping": -6},
        {"kl_radius": 2, "damping": 2},
    ),
}
GRIDS: dict[str, dict[str, list[Point]]] = {
    "curves": _AUTOENCODERS,
    "frames": _AUTOENCODERS,
    "games": _CLASSIFIERS,
    "digits": _CLASSIFIERS,
    "resnet": _CLASSIFIERS,
}
