"""Settings of the actor-critic loss."""

import dataclasses

from acktr_tf.config.first_order import SCHEDULES
from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import RELEASED


@dataclasses.dataclass(frozen=True)
class ActorCriticLossSettings(Settings):
    """Weights of the terms of the actor-critic loss."""

    entropy_cost: float = setting(
        0.01,
        "Weight of the policy's entropy in the loss.",
        low=0.0,
        source=f"{RELEASED}: 0.01",
    )
    entropy_cost_schedule: str = setting(
        "constant",
        "linear (to zero at the end of the run) or constant.",
        choices=SCHEDULES,
        source=f"{RELEASED}: constant",
    )
    value_cost: float = setting(
        0.5,
        "Weight of the value loss, one half of the squared error, in the loss.",
        low=0.0,
        source="openai/baselines a2c: 0.5",
    )
