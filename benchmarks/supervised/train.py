"""One training run in a process of its own, and the record that it leaves.

    python benchmarks/supervised/train.py RUN DATA RECORD

RUN is a run as JSON, DATA the directory of the data, RECORD the file to write. It is
run.py that calls this.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf
from machine import machine

from acktr_tf.suites.jobs import write_file
from supervised import optimizers
from supervised.data import Data, load
from supervised.problems import PROBLEMS, Examples, Problem

MEASUREMENTS = 40
SUBSET = 2_000  # Training examples whose loss is measured.
CHUNK = 1_000  # Examples that are measured at a time.


class Run(NamedTuple):
    """What to train.

    Attributes:
      problem: Its name.
      optimizer: Its name.
      settings: Of the optimizer, all of them.
      seed: Of the weights, the order of batches, and what K-FAC samples.
      updates: How many, over which the learning rate falls to zero.
    """

    problem: str
    optimizer: str
    settings: dict[str, Any]
    seed: int
    updates: int


def measured_at(updates: int) -> list[int]:
    """The updates after which losses are measured.

    40 at equal distances, and before the first of these 0, 1, 2, 5, 10, 20, ...
    """
    even = {round(updates * n / MEASUREMENTS) for n in range(1, MEASUREMENTS + 1)}
    first = updates / MEASUREMENTS
    early = {n * 10**e for n in (1, 2, 5) for e in range(8)}
    return sorted({0} | {n for n in early if n < first} | (even - {0}))


def batches(examples: int, batch: int, updates: int, seed: int) -> np.ndarray:
    """`[updates, batch]`, which examples are in each: one permutation after the other.

    What is left over of a permutation when it has no whole batch any more is not used.
    """
    rng = np.random.default_rng(seed)
    in_epoch = examples // batch
    epochs = -(-updates // in_epoch)
    order = [rng.permutation(examples)[: in_epoch * batch] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, batch)[:updates].astype(np.int32)


def subset(examples: Examples) -> Examples:
    """A fixed part of the training data, the same in all runs."""
    chosen = np.random.default_rng(0).permutation(len(examples.inputs))[:SUBSET]
    return Examples(examples.inputs[chosen], examples.targets[chosen])


class _Loss:
    """The mean loss of a model, in evaluation mode."""

    def __init__(self, model: keras.Model, loss: keras.losses.Loss) -> None:
        self._of = tf.function(
            lambda x, y: loss(y, model(x, training=False)), reduce_retracing=True
        )

    def __call__(self, examples: Examples) -> float:
        total = 0.0
        for begin in range(0, len(examples.inputs), CHUNK):
            x = tf.constant(examples.inputs[begin : begin + CHUNK])
            y = tf.constant(examples.targets[begin : begin + CHUNK])
            total += len(x) * float(self._of(x, y))
        return total / len(examples.inputs)


def _source(examples: Examples, order: np.ndarray) -> Any:
    """Batch after batch."""
    x, y = tf.constant(examples.inputs), tf.constant(examples.targets)
    data = tf.data.Dataset.from_tensor_slices(order)
    return iter(data.map(lambda chosen: (tf.gather(x, chosen), tf.gather(y, chosen))))


def train(run: Run, problem: Problem, data: Data) -> dict[str, Any]:
    """Trains, and measures the loss from time to time.

    Seconds are those of updates alone: neither those of measuring nor the first
    update, in which TensorFlow traces and compiles. A run whose loss is not finite any
    more ends there.

    Returns:
      The run; `"at"`, `"seconds"`, `"training"`, `"held_out"`: updates done, their
      time, and the two losses after them, None where they are not finite;
      `"machine"`.
    """
    training, held_out = problem.examples(data)
    part = subset(training)
    keras.utils.set_random_seed(run.seed)
    model = problem.model(training)
    optimizer = optimizers.make(run.optimizer, run.settings, run.updates, run.seed)
    xla = problem.xla and run.optimizer != optimizers.KFAC
    model.compile(optimizer, problem.loss, jit_compile=xla)
    model.make_train_function()
    order = batches(len(training.inputs), problem.batch, run.updates, run.seed)
    source = _source(training, order)
    loss = _Loss(model, problem.loss)
    points: list[tuple[int, float, float | None, float | None]] = []
    done, seconds = 0, 0.0
    for stop in measured_at(run.updates):
        while done < stop:
            before = time.perf_counter()
            logs = model.train_function(source)
            logs["loss"].numpy()
            done += 1
            if done > 1:
                seconds += time.perf_counter() - before
        losses = [_rounded(loss(examples)) for examples in (part, held_out)]
        points.append((done, round(seconds, 3), losses[0], losses[1]))
        if None in losses:
            break
    at, times, on_training, on_held_out = zip(*points, strict=True)
    return {
        **run._asdict(),
        "batch": problem.batch,
        "xla": xla,
        "machine": machine(),
        "at": at,
        "seconds": times,
        "training": on_training,
        "held_out": on_held_out,
    }


def _rounded(loss: float) -> float | None:
    return float(f"{loss:.6g}") if math.isfinite(loss) else None


def main() -> None:
    """See the module's docstring."""
    run = Run(**json.loads(sys.argv[1]))
    problem = PROBLEMS[run.problem]
    record = train(run, problem, load(problem.data, Path(sys.argv[2])))
    write_file(Path(sys.argv[3]), (json.dumps(record) + "\n").encode())


if __name__ == "__main__":
    main()
