"""Settings of ACKTR."""

import dataclasses

from acktr_tf.config.first_order import (
    SCHEDULES,
    LearningRateSettings,
    RMSpropSettings,
    linear_schedules,
)
from acktr_tf.config.kfac import KFACSettings
from acktr_tf.config.losses import ActorCriticLossSettings
from acktr_tf.config.setting import Settings, group, setting
from acktr_tf.config.sources import ON_PONG, PAPER, RELEASED

CRITICS = ("joint", "separate")
CRITIC_NORMS = ("gauss_newton", "adaptive_gauss_newton", "euclidean")
ADAPTED = ("radius", "learning_rate")


@dataclasses.dataclass(frozen=True)
class CriticSettings(Settings):
    """Optimizer of a value network of its own."""

    norm: str = setting(
        "gauss_newton",
        "Metric of the separate critic's steps: Gauss-Newton with a variance of 1, "
        "with that of the Bellman error (adaptive_gauss_newton), or none (euclidean, "
        "which is RMSprop).",
        choices=CRITIC_NORMS,
        source=f"{PAPER}: gauss_newton",
    )
    updates: int = setting(
        5,
        "Steps of the separate critic on each batch.",
        unit="updates",
        low=1,
    )
    learning_rate: LearningRateSettings = group(LearningRateSettings(0.5))
    kfac: KFACSettings = group(
        KFACSettings(kl_radius=0.01, momentum=0.0, damping=0.01, factor_decay=0.95),
        sources={"factor_decay": f"{RELEASED}, MuJoCo: 0.95"},
    )
    rmsprop: RMSpropSettings = group(RMSpropSettings())


@dataclasses.dataclass(frozen=True)
class ACKTRSettings(Settings):
    """Settings of the algorithm ACKTR."""

    heading = "ACKTR"

    learning_rate: LearningRateSettings = group(
        LearningRateSettings(0.5), sources={"learning_rate": ON_PONG}
    )
    loss: ActorCriticLossSettings = group(
        ActorCriticLossSettings(value_cost=0.25), sources={"value_cost": ON_PONG}
    )
    kfac: KFACSettings = group(KFACSettings())
    target_kl: float | None = setting(
        0.0004,
        "Target for the exact KL of a step (its initial value, with a schedule). The "
        "radius is adapted from kl_radius to reach it; none keeps the radius.",
        unit="nats",
        none="none",
        low=0.0,
        exclusive_low=True,
        source=ON_PONG,
    )
    target_kl_schedule: str = setting(
        "linear",
        "linear (to zero at the end of the run) or constant.",
        choices=SCHEDULES,
        source=ON_PONG,
    )
    target_kl_adapts: str = setting(
        "radius",
        "What is adapted to reach target_kl: the radius, or the learning rate.",
        choices=ADAPTED,
        source=f"{RELEASED}, MuJoCo: learning_rate",
    )
    max_kl: float | None = setting(
        None,
        "Largest exact KL of a step: a step beyond it is shortened by backtracking; "
        "none for no limit.",
        unit="nats",
        none="none",
        low=0.0,
        exclusive_low=True,
        source="Schulman et al. 2015: a line search on the exact KL",
    )
    critic: str = setting(
        "joint",
        "Whether the value is learnt in one step with the policy, by the Fisher matrix "
        "of both (joint), or by an optimizer of its own (separate), which needs a "
        "network without a trunk that policy and value share.",
        choices=CRITICS,
        source=f"{PAPER}: joint on Atari, separate on MuJoCo",
    )
    critic_optimizer: CriticSettings = group(
        CriticSettings(),
        prefix="critic.",
        heading="Critic with an optimizer of its own (--critic=separate)",
    )

    def without_effect(self) -> str:
        """Returns the prefix of the critic's settings where there is no critic."""
        return "critic." if self.critic == "joint" else ""

    def depends_on_total_steps(self) -> list[str]:
        """Returns the schedules that are linear and have an effect."""
        unused = ["target_kl_schedule"] if self.target_kl is None else []
        unused += [self.without_effect()] if self.without_effect() else []
        return [
            path
            for path in linear_schedules(self)
            if not path.startswith(tuple(unused))
        ]
