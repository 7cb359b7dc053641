"""Settings of first-order optimizers, and of step sizes."""

import dataclasses

from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import RELEASED

SCHEDULES = ("linear", "constant")


def linear_schedules(settings: Settings) -> list[str]:
    """Returns the paths of the schedules in a group that end with the run."""
    return [
        entry.path
        for entry in settings.entries()
        if entry.setting.choices == SCHEDULES and entry.default == "linear"
    ]


@dataclasses.dataclass(frozen=True)
class LearningRateSettings(Settings):
    """Step size of one optimizer."""

    learning_rate: float = setting(
        0.0007,
        "Step size at the start; the largest one where a trust region bounds it.",
        low=0.0,
        exclusive_low=True,
        source="Stable-Baselines3 A2C: 0.0007",
    )
    learning_rate_schedule: str = setting(
        "linear",
        "linear (to zero at the end of the run) or constant.",
        choices=SCHEDULES,
        source=f"{RELEASED}: linear",
    )


@dataclasses.dataclass(frozen=True)
class RMSpropSettings(Settings):
    """RMSprop with clipped gradients, but for the learning rate."""

    max_gradient_norm: float = setting(
        0.5,
        "Global norm that gradients are clipped to.",
        low=0.0,
        exclusive_low=True,
        source="openai/baselines a2c: 0.5",
    )
    rmsprop_decay: float = setting(
        0.99,
        "Decay of RMSprop's running mean of squared gradients.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source="openai/baselines a2c: 0.99",
    )
    rmsprop_epsilon: float = setting(
        1e-5,
        "Added to RMSprop's mean of squared gradients before the root is taken.",
        low=0.0,
        exclusive_low=True,
        source="openai/baselines a2c: 1e-5",
    )
