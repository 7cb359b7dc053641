"""Settings of a K-FAC optimizer, wherever there is one."""

import dataclasses

from acktr_tf.config.setting import Settings, setting
from acktr_tf.config.sources import ON_PONG, PAPER, RELEASED

BOUNDS = ("direction", "update")
SPATIAL_CORRELATIONS = ("none", "full")


@dataclasses.dataclass(frozen=True)
class KFACSettings(Settings):
    """Natural gradient steps of one optimizer, but for the learning rate."""

    kl_radius: float | None = setting(
        0.001,
        "Trust region: largest predicted KL of a step, ½ΔᵀFΔ, one half of its squared "
        "Fisher norm; none for no trust region.",
        unit="nats",
        none="none",
        low=0.0,
        exclusive_low=True,
        source=ON_PONG,
    )
    bound: str = setting(
        "direction",
        "Vector that the radius bounds: the natural gradient before momentum "
        "(direction), or the update that is applied to the weights (update).",
        choices=BOUNDS,
        source=f"{PAPER}: direction",
    )
    momentum: float = setting(
        0.9,
        "Decay of the running mean of steps that is applied to the weights.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source=f"{RELEASED}: 0.9",
    )
    damping: float = setting(
        0.0005,
        "Tikhonov damping of the Fisher matrix, split between the two factors of a "
        "layer.",
        low=0.0,
        exclusive_low=True,
        source=ON_PONG,
    )
    factor_decay: float = setting(
        0.97,
        "Decay of the running means of the Kronecker factors.",
        low=0.0,
        high=1.0,
        exclusive_high=True,
        source=ON_PONG,
    )
    factor_update_period: int = setting(
        1,
        "Updates between two updates of the factors; in the first period they are "
        "updated at every update.",
        unit="updates",
        low=1,
        source=f"{RELEASED}: 1",
    )
    inverse_update_period: int = setting(
        10,
        "Updates between two inversions of the factors.",
        unit="updates",
        low=1,
        source=ON_PONG,
    )
    curvature_fraction: float = setting(
        0.125,
        "Share of each batch, drawn at random, that the factors are estimated from.",
        low=0.0,
        high=1.0,
        exclusive_low=True,
        source=ON_PONG,
    )
    spatial_correlation: str = setting(
        "none",
        "Correlation that is assumed between the gradients at the positions of a "
        "convolution: none, as in KFC, or full, an upper bound.",
        choices=SPATIAL_CORRELATIONS,
        source=f"{PAPER}: KFC",
    )
    patch_stride: int = setting(
        1,
        "Distance between the patches of a convolution that the factor of its inputs "
        "is estimated from, along each axis; the offset rotates with each update.",
        unit="positions",
        low=1,
        source=f"{RELEASED}: 1",
    )
    max_factor_dim: int | None = setting(
        8192,
        "Largest dimension of a Kronecker factor that is kept as a matrix; of a wider "
        "one only the diagonal is kept, which bounds memory and time. none keeps all "
        "as matrices.",
        none="none",
        low=1,
        source="own choice: 0.5 GiB a factor and its inverse",
    )
