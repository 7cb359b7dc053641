"""Results of runs that were not made, and the suite that they are of."""

import math

import numpy as np

from acktr_tf.suites.results import Run
from acktr_tf.suites.suite import Suite

SUITE = Suite(
    "two",
    "Two tasks",
    ["--total_steps=100"],
    {"Easy": ["--env=easy"], "Hard": ["--env=hard"]},
    {"ACKTR": ["--algorithm=acktr"], "A2C": ["--algorithm=a2c"]},
    {"Easy": (0.0, 100.0), "Hard": (-50.0, 50.0)},
)


def make_run(
    task="Easy",
    algorithm="ACKTR",
    seed=0,
    score: float | None = 10.0,
    status="finished",
    **others,
) -> Run:
    """A run of one episode, or of none."""
    returns = np.array([] if score is None else [score], float)
    values = {
        "crash": "boom" if status == "crashed" else "",
        "seconds": 7.0,
        "steps": 100,
        "episode_steps": np.full(len(returns), 90.0),
        "episode_returns": returns,
        "evaluation_mean": math.nan,
        **others,
    }
    return Run(task, algorithm, seed, status, **values)


def all_runs():
    runs = [
        make_run(task, algorithm, seed, score, evaluation_mean=score + 1)
        for task, base in [("Easy", 80.0), ("Hard", 0.0)]
        for algorithm, more in [("ACKTR", 10.0), ("A2C", 0.0)]
        for seed, score in enumerate([base + more - 5, base + more + 5])
    ]
    crashed = make_run("Hard", "A2C", 2, 1000.0, status="crashed", crash="env | died")
    return [*runs, crashed]
