"""Logs to write in tests, and how the files and TensorBoard read them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing import (
    event_accumulator,
    plugin_event_accumulator,
)
from tensorboard.util import tensor_util

from acktr_tf.config.config import configure
from acktr_tf.runs.logs import RunLog
from acktr_tf.runs.scalars import TRAINING_SCALARS
from acktr_tf.states import State
from acktr_tf.types import Scalar

CONFIG = configure(env="CartPole-v1", num_envs=2, seed=3)
SCALARS = {
    **TRAINING_SCALARS,
    "share_inverses": Scalar("", "Share of inverting.", "time/share_inverses"),
    "value_loss": Scalar("return²", "Loss of the value.", "loss/value"),
    "entropy": Scalar("nats", "Entropy of the policy.", "loss/entropy"),
    "predicted_kl": Scalar("nats", "Predicted KL of the step.", "kl/predicted"),
    "exact_kl": Scalar("nats", "Exact KL of the step.", "kl/exact"),
}
VALUES = {name: index + 0.5 for index, name in enumerate(SCALARS)}


def open_log(
    run_dir: Path, state: State | None = None, scalars: dict[str, Scalar] = SCALARS
) -> RunLog:
    return RunLog(run_dir, CONFIG, scalars, state)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def reload(accumulator: type[Any], run_dir: Path) -> Any:
    return accumulator(
        str(run_dir / "tensorboard"),
        size_guidance={"scalars": 0, "tensors": 0},
        purge_orphaned_data=True,
    ).Reload()


def points(run_dir: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard itself, and what the readers of event files see."""
    tag = SCALARS[name].tag
    shown = reload(plugin_event_accumulator.EventAccumulator, run_dir)
    read = reload(event_accumulator.EventAccumulator, run_dir)
    assert {*read.Tags()["scalars"]} <= {*shown.Tags()["tensors"]}
    points = [(event.step, event.value) for event in read.Scalars(tag)]
    np.testing.assert_equal(
        [
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto)))
            for e in shown.Tensors(tag)
        ],
        points,
    )
    return points


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
