"""Settings of A2C."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from acktr_tf.config.first_order import (
    LearningRateSettings,
    RMSpropSettings,
    linear_schedules,
)
from acktr_tf.config.losses import ActorCriticLossSettings
from acktr_tf.config.setting import Settings, group


@dataclasses.dataclass(frozen=True)
class A2CSettings(Settings):
    """Settings of the algorithm A2C."""

    heading = "A2C"
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"num_envs": 16, "unroll_length": 5, "gae_lambda": 1.0}
    )
    defaults_source = "openai/baselines a2c: 5 steps of 16 environments, without GAE"

    learning_rate: LearningRateSettings = group(LearningRateSettings())
    loss: ActorCriticLossSettings = group(ActorCriticLossSettings())
    rmsprop: RMSpropSettings = group(RMSpropSettings())

    def depends_on_total_steps(self) -> list[str]:
        """Returns the schedules that are linear."""
        return linear_schedules(self)
