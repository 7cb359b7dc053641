"""The optimizers, and the settings among which each is tuned.

A setting that is tuned is on a grid of half decades: 0.1, 0.3, 1, 3, ... All others are
given here in full, so that a default that changes does not change these.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from acktr_tf import kfac
from supervised.problems import OUTPUTS, Problem

SGD, ADAM, MUON, KFAC = "SGD", "Adam", "Muon", "K-FAC"

Point = dict[str, int]
"""A trial: tuned setting → its place on the grid, in half decades from 1."""

DECAY_POWER = 1.0  # Learning rates fall to zero, linearly.


def value(place: int) -> float:
    """Of a place on the grid: 0 is 1, −1 is 0.3, −2 is 0.1, 1 is 3."""
    decades, half = divmod(place, 2)
    return float(f"{3 if half else 1}e{decades}")


# Settings ---------------------------------------------------------------------------
# Muon: as its docstring advises, the last layer is AdamW's, as all that is no matrix is
# in any case. Weights do not decay, since no other optimizer's do.
SETTINGS: dict[str, dict[str, Any]] = {
    SGD: {"momentum": 0.9, "nesterov": False},
    ADAM: {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    MUON: {
        "weight_decay": None,
        "adam_weight_decay": None,
        "exclude_layers": [OUTPUTS],
        "adam_beta_1": 0.9,
        "adam_beta_2": 0.999,
        "momentum": 0.95,
        "nesterov": True,
        "rms_rate": 0.2,
    },
    KFAC: {
        "bound": "direction",
        "momentum": 0.9,
        "damping_period": None,
        "factor_decay": 0.95,
        "inverse_update_period": 20,
        "inverse": "cholesky",
        "inverse_thread": False,
        "spatial_correlation": "none",
        "patch_stride": 1,
        "fisher": "sampled",
    },
}

# What is not tuned of K-FAC, but not the same everywhere. Deep autoencoders want steps
# by the quadratic model to leave the plateau where every picture is the mean picture,
# and have layers so large that it pays to take their factors of fewer examples.
AUTOENCODER: dict[str, Any] = {
    "step_rule": "quadratic",
    "learning_rate": 1.0,
    "kl_radius": None,
    "factor_update_period": 4,
    "curvature_fraction": 0.25,
}
CLASSIFIER: dict[str, Any] = {
    "step_rule": "momentum",
    "learning_rate": 0.3,
    "factor_update_period": 1,
    "curvature_fraction": 1.0,
}

_CLASSES = {
    SGD: keras.optimizers.SGD,
    ADAM: keras.optimizers.Adam,
    KFAC: kfac.KFAC,
}
OPTIMIZERS = tuple(SETTINGS)


def make(
    name: str, settings: Mapping[str, Any], updates: int, seed: int
) -> keras.optimizers.Optimizer:
    """An optimizer whose learning rate falls linearly to zero over all its updates.

    Args:
      name: Of the optimizer.
      settings: All of them.
      updates: How many.
      seed: Of what K-FAC samples.
    """
    rest = dict(settings)
    schedule = keras.optimizers.schedules.PolynomialDecay(
        rest.pop("learning_rate"), updates, end_learning_rate=0.0, power=DECAY_POWER
    )
    if name == KFAC:
        rest["seed"] = seed
    # Muon is only asked for where it is used: older releases of Keras have none.
    maker = keras.optimizers.Muon if name == MUON else _CLASSES[name]
    return maker(schedule, **rest)


# Tuning -----------------------------------------------------------------------------
def line(name: str, centre: int) -> list[Point]:
    """Five values of a setting, a half decade apart."""
    return [{name: centre + step} for step in (-2, -1, 0, 1, 2)]


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


def corner(
    tried: Sequence[Point], losses: Sequence[float | None], centre: Point
) -> Point | None:
    """The best value of each setting of a cross, together; None if that was tried.

    Args:
      tried: All points so far. Those that differ from the centre in one setting say
        what is best of that.
      losses: At which each ended.
      centre: Of the cross.
    """
    found = dict(centre)
    for name in centre:
        rest = {other: place for other, place in centre.items() if other != name}
        arm = [n for n, each in enumerate(tried) if rest.items() <= each.items()]
        found[name] = tried[arm[best_of([losses[n] for n in arm])]][name]
    return None if found in tried else found


def best_of(losses: Sequence[float | None]) -> int:
    """Which trial ended with the least loss; None is that of one that diverged."""
    known = [math.inf if loss is None else loss for loss in losses]
    return known.index(min(known))


class Search(NamedTuple):
    """The trials of an optimizer on a problem.

    Attributes:
      points: The first of them.
      fixed: Settings that all of them have.
    """

    points: list[Point]
    fixed: dict[str, Any]

    def settings(self, point: Point) -> dict[str, Any]:
        """All settings of a trial."""
        return {**self.fixed, **{name: value(place) for name, place in point.items()}}

    @property
    def tuned(self) -> list[str]:
        """Names of the settings that differ from trial to trial."""
        return list(self.points[0])


_AUTOENCODERS = {
    SGD: line("learning_rate", 1),
    ADAM: line("learning_rate", -6),
    MUON: line("learning_rate", -4),
    KFAC: line("damping", -10),
}
_CLASSIFIERS = {
    SGD: line("learning_rate", -3),
    ADAM: line("learning_rate", -5),
    MUON: line("learning_rate", -4),
    KFAC: cross({"kl_radius": -5, "damping": -5}, {"kl_radius": 2, "damping": 2}),
}


def search(problem: Problem, name: str) -> Search:
    """The trials of an optimizer on a problem."""
    fixed = dict(SETTINGS[name])
    if name == KFAC:
        fixed.update(AUTOENCODER if problem.reconstructs else CLASSIFIER)
    points = (_AUTOENCODERS if problem.reconstructs else _CLASSIFIERS)[name]
    return Search(points, fixed)
