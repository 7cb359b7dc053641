"""Settings of the returns that an algorithm learns from."""

import dataclasses

from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import ON_PONG, PAPER, RELEASED


@dataclasses.dataclass(frozen=True)
class ReturnsSettings(Settings):
    """Advantages and value targets of a rollout."""

    heading = "Returns"

    discount: float = setting(
        0.99,
        "Discount of future rewards.",
        low=0.0,
        high=1.0,
        source=f"{PAPER}: 0.99",
    )
    gae_lambda: float = setting(
        0.95,
        "Decay of the generalized advantage estimate; 1 gives k-step returns.",
        low=0.0,
        high=1.0,
        source=ON_PONG,
    )
    value_lambda: float | None = setting(
        None,
        "As gae_lambda, for the returns that the value learns: 1 takes those that are "
        "bootstrapped at the end of a batch only; auto takes gae_lambda.",
        low=0.0,
        high=1.0,
        none="auto",
        source=f"{RELEASED}, MuJoCo: 1",
    )
    normalize_rewards: bool = setting(
        False,
        "Learn from rewards divided by the running standard deviation of the "
        "discounted return. Scores stay raw.",
        source="Engstrom et al. 2020; off for Atari",
    )
