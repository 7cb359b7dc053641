"""The settings of a K-FAC optimizer, validated in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from acktr_tf.kfac.inverses import INVERSES
from acktr_tf.kfac.statistics.factors import SPATIAL_CORRELATIONS

BOUNDS = ("direction", "update")
STEP_RULES = ("momentum", "quadratic")
FISHERS = ("sampled", "empirical")
FALLBACKS = (None, "diagonal")


@dataclass(frozen=True, kw_only=True)
class KFACSettings:
    """Arguments of `KFAC` that are not of every Keras optimizer; documented there.

    Raises:
      ValueError: An argument is out of range, or two do not go together.
    """

    kl_radius: float | None = 0.001
    bound: str = "direction"
    momentum: float = 0.9
    step_rule: str = "momentum"
    damping: float = 0.001
    damping_period: int | None = None
    factor_decay: float = 0.99
    factor_update_period: int = 10
    inverse_update_period: int = 50
    inverse: str = "cholesky"
    stagger_inverses: bool = True
    inverse_thread: bool = False
    spatial_correlation: str = "none"
    curvature_fraction: float | None = None
    patch_stride: int = 1
    max_patch_bytes: int = 256 * 2**20
    max_factor_dim: int | None = 8192
    fallback: str | None = None
    fisher: str = "sampled"
    seed: int = 0

    def __post_init__(self) -> None:
        self._require(
            self.kl_radius is None or self.kl_radius > 0,
            "kl_radius",
            "positive or None",
        )
        self._require_one_of(BOUNDS, "bound")
        self._require(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        self._require_one_of(STEP_RULES, "step_rule")
        self._require(self.damping > 0, "damping", "positive")
        if self.damping_period is not None:
            self._require_count("damping_period")
        self._require(0 <= self.factor_decay < 1, "factor_decay", "in [0, 1)")
        self._require_count("factor_update_period")
        self._require_count("inverse_update_period")
        self._require_one_of(tuple(INVERSES), "inverse")
        self._require_one_of(SPATIAL_CORRELATIONS, "spatial_correlation")
        self._require(
            self.curvature_fraction is None or 0 < self.curvature_fraction <= 1,
            "curvature_fraction",
            "in (0, 1] or None",
        )
        self._require_count("patch_stride")
        self._require(
            self.patch_stride == 1 or self.inverse != "ekfac",
            "patch_stride",
            '1 with inverse="ekfac", which needs whole gradients of each example',
        )
        self._require_count("max_patch_bytes")
        if self.max_factor_dim is not None:
            self._require_count("max_factor_dim")
        self._require_one_of(FALLBACKS, "fallback")
        self._require_one_of(FISHERS, "fisher")
        self._require(
            self.fallback is None or self.fisher == "sampled",
            "fisher",
            'sampled with fallback="diagonal", which needs scores of mean zero',
        )

    def _require(self, accepted: bool, name: str, what: str) -> None:
        require(accepted, name, what, getattr(self, name))

    def _require_count(self, name: str) -> None:
        received: Any = getattr(self, name)
        accepted = received >= 1 and isinstance(received, int | np.integer)
        self._require(accepted, name, "an integer, at least 1")

    def _require_one_of(self, accepted: Sequence[object], name: str) -> None:
        what = f"one of {', '.join(map(str, accepted))}"
        self._require(getattr(self, name) in accepted, name, what)


def require(accepted: bool, name: str, what: str, received: object) -> None:
    """Raises an error that names an argument, unless its value is accepted.

    Args:
      accepted: Whether the value is accepted.
      name: Name of the argument.
      what: Accepted values, in words.
      received: The value.

    Raises:
      ValueError: The value is not accepted.
    """
    if not accepted:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={received!r}")
