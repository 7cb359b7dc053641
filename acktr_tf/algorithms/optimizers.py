"""Optimizers from their settings: the one place where each is mapped to Keras."""

from collections.abc import Sequence
from typing import Any

import keras

from acktr_tf.algorithms.schedules import scheduled
from acktr_tf.config.first_order import LearningRateSettings, RMSpropSettings
from acktr_tf.config.kfac import KFACSettings
from acktr_tf.kfac import KFAC
from acktr_tf.kfac import settings as kfac_settings
from acktr_tf.kfac.memory import MemoryEstimate, estimate_memory


def make_kfac(
    settings: KFACSettings,
    learning_rate: LearningRateSettings,
    total_steps: int,
    network: keras.Model,
    name: str = "kfac",
) -> KFAC:
    """Makes a K-FAC optimizer that is attached to a network.

    Args:
      settings: Settings of the optimizer.
      learning_rate: Its step size.
      total_steps: Steps of the optimizer in the whole run.
      network: Network whose weights it steps.
      name: Name of the optimizer.
    """
    optimizer = KFAC(
        learning_rate=scheduled(
            learning_rate.learning_rate,
            learning_rate.learning_rate_schedule,
            total_steps,
        ),
        name=name,
        **_kfac_arguments(settings),
    )
    optimizer.attach(network)
    return optimizer


def kfac_memory(settings: KFACSettings, network: keras.Model) -> MemoryEstimate:
    """Estimates the memory of what `make_kfac` makes, without allocating it.

    Args:
      settings: Settings of the optimizer.
      network: Network whose weights it steps.
    """
    arguments = _kfac_arguments(settings)
    return estimate_memory(network, kfac_settings.KFACSettings(**arguments))


def _kfac_arguments(settings: KFACSettings) -> dict[str, Any]:
    return {
        "kl_radius": settings.kl_radius,
        "bound": settings.bound,
        "momentum": settings.momentum,
        "damping": settings.damping,
        "factor_decay": settings.factor_decay,
        "factor_update_period": settings.factor_update_period,
        "inverse_update_period": settings.inverse_update_period,
        "spatial_correlation": settings.spatial_correlation,
        "patch_stride": settings.patch_stride,
        "max_factor_dim": settings.max_factor_dim,
        # Runs on Pong with staggered inverses ended lower: docs/atari.md.
        "stagger_inverses": False,
    }


def make_rmsprop(
    settings: RMSpropSettings,
    learning_rate: LearningRateSettings,
    total_steps: int,
    variables: Sequence[keras.Variable],
) -> keras.optimizers.RMSprop:
    """Makes RMSprop for the variables that it will step.

    Args:
      settings: Settings of the optimizer.
      learning_rate: Its step size.
      total_steps: Steps of the optimizer in the whole run.
      variables: Variables that it will step.
    """
    optimizer = keras.optimizers.RMSprop(
        learning_rate=scheduled(
            learning_rate.learning_rate,
            learning_rate.learning_rate_schedule,
            total_steps,
        ),
        rho=settings.rmsprop_decay,
        epsilon=settings.rmsprop_epsilon,
        global_clipnorm=settings.max_gradient_norm,
    )
    optimizer.build(variables)
    return optimizer
