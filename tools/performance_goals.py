"""The goals in docs/performance.md: what was aimed at, and what was measured."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import curvature
import numpy as np
from pong_budget import GOAL

from acktr_tf.runs import markdown

Read = Callable[[str], Any]
"""Name of a file in docs/data → what is in it."""


PROTOTYPE = 2351 / 7200
"""Steps a second of a prototype's A2C, over those of the environments alone."""


class Goal(NamedTuple):
    """One row of the table.

    Attributes:
      what: What is measured.
      bar: The most it may be, or the least if `at_least`.
      measured: What it is.
      at_least: Whether more is better.
    """

    what: str
    bar: float
    measured: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is, to the digits that are shown."""
        measured, bar = round(self.measured, 2), round(self.bar, 2)
        return measured >= bar if self.at_least else measured <= bar


def goals(read: Read) -> Iterator[Goal]:
    """All of them.

    Args:
      read: Reads a file of docs/data.
    """
    yield from _of_runs(read)
    yield from _of_updates(read)
    yield from _of_growth(read)
    yield from _of_kfac(read)
    yield from _of_starts(read)


def table(read: Read) -> str:
    """Returns the goals in Markdown."""
    rows = [
        [
            goal.what,
            f"{'≥' if goal.at_least else '≤'} {goal.bar:.2f}",
            f"{goal.measured:.2f}",
            "yes" if goal.met else "**no**",
        ]
        for goal in goals(read)
    ]
    return markdown.table(["", "goal", "measured", "met"], rows)


def _of_runs(read: Read) -> Iterator[Goal]:
    def speeds(name: str) -> dict[str, float]:
        results = read(f"throughput/{name}.json")["results"]
        return {each: result["median"] for each, result in results.items()}

    pong = speeds("pong")
    acktr = pong["atari.flags"]
    a2c = next(
        pong[each] for each in pong if each.startswith("atari") and "a2c" in each
    )
    alone = pong["environments alone"]
    yield Goal("Pong: steps a second over our A2C's", GOAL, acktr / a2c, True)
    what = "Pong: our A2C's over the environments'"
    yield Goal(what, PROTOTYPE, a2c / alone, True)
    yield Goal("Pong: over the environments'", 0.3, acktr / alone, True)
    other = pong["Stable-Baselines3 A2C"]
    yield Goal("Pong: over Stable-Baselines3's A2C's", 2.2, acktr / other, True)
    cheetah = speeds("halfcheetah")
    acktr = cheetah["mujoco.flags"]
    for name, title, bar in [
        ("environments alone", "the environments'", 0.45),
        ("Stable-Baselines3 PPO", "Stable-Baselines3's PPO's", 5.0),
        ("Stable-Baselines3 TRPO", "sb3-contrib's TRPO's", 2.5),
    ]:
        yield Goal(f"HalfCheetah: over {title}", bar, acktr / cheetah[name], True)


def _of_updates(read: Read) -> Iterator[Goal]:
    for name, title in [("pong", "Pong"), ("halfcheetah", "HalfCheetah")]:
        phases = read(f"phases/{name}.json")["phases"]
        for phase in ("total", "update"):
            slowest = phases[phase]["slowest_over_median"]
            yield Goal(f"{title}: `{phase}`, slowest over median", 1.5, slowest)


def _of_growth(read: Read) -> Iterator[Goal]:
    for name, title in [("pong", "Pong"), ("halfcheetah", "HalfCheetah")]:
        points = read(f"growth/batch_{name}.json")["points"].values()
        times = [curvature.microseconds(found["acktr"]) for found in points]
        growth = max(after / before for before, after in pairwise(times))
        what = f"{title}: time a sample over that at half the batch, at worst"
        yield Goal(what, 1.0, growth)
    widest = read("growth/width.json")["points"]["2048"]
    acktr, a2c = (curvature.microseconds(widest[name]) for name in ("acktr", "a2c"))
    yield Goal("HalfCheetah, 2,048 units wide: time over A2C's", 2.0, acktr / a2c)


def _of_kfac(read: Read) -> Iterator[Goal]:
    costs = read("update_cost/nature_cnn_32_and_mlp.json")["results"]
    costs |= read("update_cost/nature_cnn_64.json")["results"]
    for name, title in [
        ("nature_cnn_32", "Nature CNN, 32 filters"),
        ("nature_cnn_64", "Nature CNN, 64 filters"),
        ("mlp", "2x64 MLP"),
    ]:
        medians = {each: found["median"] for each, found in costs[name].items()}
        ratio = medians["KFAC, defaults"] / medians["SGD"]
        yield Goal(f"{title}: an update of KFAC over one of SGD", 1.25, ratio)
    for name, found in read("against_kfac_jax.json")["results"].items():
        ours = found["acktr_tf"]["median"]
        best = min(
            each["median"] for other, each in found.items() if other != "acktr_tf"
        )
        yield Goal(f"{name.upper()}: an update over kfac-jax's", 1.0, ours / best)


def _of_starts(read: Read) -> Iterator[Goal]:
    seconds = read("startup.json")["seconds"]
    for name, found in seconds.items():
        bar = 1.0 if name == "`--help`" else 15.0
        yield Goal(f"Start: {name}, seconds", bar, float(np.median(found)))
    for name, title in [("pong", "Pong"), ("halfcheetah", "HalfCheetah")]:
        memory = np.array(read(f"steady/{name}.json")["windows"])[:, 2]
        first, last = memory[math.ceil(len(memory) / 2) - 1], memory[-1]
        yield Goal(
            f"{title}: memory after a million steps over that after half of them",
            1.05,
            last / first,
        )
