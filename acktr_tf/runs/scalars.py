"""Scalars that the training loop reports, whatever the algorithm."""

from collections.abc import Mapping
from types import MappingProxyType

from acktr_tf.types import Scalar

TRAINING_SCALARS: Mapping[str, Scalar] = MappingProxyType(
    {
        "episode_return": Scalar(
            "score",
            "Mean raw return of the last 100 episodes; nan before the first.",
            "episode/return",
        ),
        "episode_length": Scalar(
            "agent steps",
            "Mean length of the last 100 episodes; nan before the first.",
            "episode/length",
        ),
        "episodes": Scalar("episodes", "Episodes finished so far.", "episode/count"),
        "updates": Scalar("updates", "Learner updates so far.", "run/updates"),
        "seconds": Scalar(
            "s", "Wall time of the run, all its continuations together.", "run/seconds"
        ),
        "memory": Scalar("MiB", "Resident memory of the process.", "run/memory"),
        "steps_per_second": Scalar(
            "agent steps/s",
            "Agent steps per second since the row before.",
            "time/steps_per_second",
        ),
        "share_acting": Scalar(
            "", "Share of the time spent choosing actions.", "time/share_acting"
        ),
        "share_environments": Scalar(
            "",
            "Share of the time spent stepping the environments.",
            "time/share_environments",
        ),
        "share_other": Scalar(
            "", "Share of the time spent on anything else.", "time/share_other"
        ),
        "reward_scale": Scalar(
            "score",
            "Number that rewards are divided by to learn from.",
            "episode/scale",
        ),
        "evaluation_return": Scalar(
            "score",
            "Mean raw return of the evaluation after this update, if there was one.",
            "evaluation/return",
        ),
    }
)
"""Scalars by name, the first columns of `progress.csv`."""
