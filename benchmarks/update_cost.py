"""What an update of KFAC costs over one of SGD, and what each setting adds.

    python benchmarks/update_cost.py [--network=nature_cnn_32,mlp] [--rounds=5] \
        [--only=NAME;...] [--json=FILE]

The networks are the Nature CNN (Mnih et al. 2015) with six classes on batches of 640,
with 64 filters in the third convolution as there or with 32 as in Wu et al. 2017, and
two layers of 64 tanh units with six outputs on batches of 2500. Each setting has a
model of its own, with equal weights, whose `fit` function is called on one batch that
lies in memory. In each round every setting makes as many updates as its longest period
has, so that work that is done every so many updates is counted in full; a round of its
own before these compiles and fills the periods at the start. Printed are, over the
updates of all rounds, milliseconds an update (mean of each round, median, least and
most of these), the median's ratio to SGD's, and the slowest update over the median one.

SGD has momentum, and is compiled by XLA or not, whichever is faster.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from arguments import names, output_file
from machine import machine

from acktr_tf import kfac

SGD, SGD_XLA, DEFAULTS = "SGD", "SGD, XLA", "KFAC, defaults"

SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "factor_update_period=1": {"factor_update_period": 1},
    "factor_update_period=50": {"factor_update_period": 50},
    "curvature_fraction=1": {"curvature_fraction": 1.0},
    "both 1": {"factor_update_period": 1, "curvature_fraction": 1.0},
    "patch_stride=2": {"patch_stride": 2},
    "inverse_update_period=10": {"inverse_update_period": 10},
    "inverse_update_period=200": {"inverse_update_period": 200},
    "stagger_inverses=False": {"stagger_inverses": False},
    "inverse_thread=True": {"inverse_thread": True},
    "inverse=eigen": {"inverse": "eigen"},
    "inverse=ekfac": {"inverse": "ekfac"},
    "kl_radius=None": {"kl_radius": None},
    "bound=update": {"bound": "update"},
    "step_rule=quadratic": {"step_rule": "quadratic", "learning_rate": 1.0},
    "damping_period=5": {"damping_period": 5},
}


class Problem(NamedTuple):
    """A network and a batch.

    Attributes:
      layers: Makes the layers.
      inputs: `[N, ...]`.
      targets: `[N, ...]`.
      loss: Of the targets.
    """

    layers: Callable[[], list[keras.layers.Layer]]
    inputs: np.ndarray
    targets: np.ndarray
    loss: keras.losses.Loss


def nature_cnn(filters: int) -> Problem:
    """84x84 pictures of four frames, and six classes.

    Args:
      filters: Of the third convolution.
    """
    rng = np.random.default_rng(0)

    def layers() -> list[keras.layers.Layer]:
        return [
            keras.layers.Conv2D(32, 8, 4, activation="relu"),
            keras.layers.Conv2D(64, 4, 2, activation="relu"),
            keras.layers.Conv2D(filters, 3, 1, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(6),
        ]

    return Problem(
        layers,
        rng.random((640, 84, 84, 4), np.float32),
        rng.integers(0, 6, 640),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def mlp() -> Problem:
    """As many observations and actions as HalfCheetah has."""
    rng = np.random.default_rng(0)

    def layers() -> list[keras.layers.Layer]:
        return [
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(6),
        ]

    return Problem(
        layers,
        rng.standard_normal((2500, 17), np.float32),
        rng.standard_normal((2500, 6), np.float32),
        keras.losses.MeanSquaredError(),
    )


NETWORKS: dict[str, Callable[[], Problem]] = {
    "nature_cnn_32": lambda: nature_cnn(32),
    "nature_cnn_64": lambda: nature_cnn(64),
    "mlp": mlp,
}


class Contestant:
    """A model, its optimizer and its batch."""

    def __init__(self, problem: Problem, name: str) -> None:
        keras.utils.set_random_seed(0)
        shape = problem.inputs.shape[1:]
        self.model = kfac.Sequential([keras.Input(shape), *problem.layers()])
        self.period = 1
        xla = False
        optimizer: keras.optimizers.Optimizer
        if name in SETTINGS:
            optimizer = kfac.KFAC(**SETTINGS[name])
            self.period = max(
                optimizer.inverse_update_period,
                optimizer.factor_update_period,
                optimizer.damping_period or 1,
            )
        else:
            optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
            xla = name == SGD_XLA
        self.model.compile(optimizer, problem.loss, jit_compile=xla)
        self.model.make_train_function()
        data = tf.data.Dataset.from_tensors((problem.inputs, problem.targets))
        self._batches = iter(data.cache().repeat())

    def updates(self, count: int) -> list[float]:
        """Seconds of so many updates."""
        seconds = []
        for _ in range(count):
            before = time.perf_counter()
            logs = self.model.train_function(self._batches)
            logs["loss"].numpy()
            seconds.append(time.perf_counter() - before)
        return seconds


def measure(problem: Problem, settings: list[str], rounds: int) -> dict[str, Any]:
    """Milliseconds an update of each setting."""
    contestants = {name: Contestant(problem, name) for name in settings}
    for name, contestant in contestants.items():
        contestant.updates(contestant.period + 2)
        print(f"{name}: compiled", file=sys.stderr, flush=True)
    found: dict[str, list[list[float]]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            count = -(-20 // contestant.period) * contestant.period
            found[name].append(contestant.updates(count))
    results = {}
    for name, series in found.items():
        means = [1e3 * float(np.mean(seconds)) for seconds in series]
        every = np.concatenate(series)
        results[name] = {
            "median": float(np.median(means)),
            "least": min(means),
            "most": max(means),
            "rounds": means,
            "slowest_over_median": float(every.max() / np.median(every)),
        }
    return results


def table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = document["machine"]
    lines = [f"{machine['processor']}, {machine['cores']} cores:"]
    for network, results in document["results"].items():
        base = min(results[name]["median"] for name in (SGD, SGD_XLA))
        lines += [
            "",
            f"| {network} | ms an update, median | least | most | over SGD | "
            "slowest over median |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {r['median']:.1f} | {r['least']:.1f} | {r['most']:.1f} | "
            f"{r['median'] / base:.2f} | {r['slowest_over_median']:.2f} |"
            for name, r in results.items()
        ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=names(NETWORKS), default="nature_cnn_32,mlp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=names(SETTINGS, ";"), default=list(SETTINGS))
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    contestants = [SGD, SGD_XLA, *arguments.only]
    document = {
        "machine": machine(),
        "results": {
            network: measure(NETWORKS[network](), contestants, arguments.rounds)
            for network in arguments.network
        },
    }
    print(table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
