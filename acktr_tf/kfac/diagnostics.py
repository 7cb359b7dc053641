"""Diagnostics of K-FAC's last step, and the scalars in which they are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from acktr_tf.kfac.blocks.block import AddVariable, block_names
from acktr_tf.kfac.curvature import inner_product
from acktr_tf.kfac.step_rules import Step

if TYPE_CHECKING:
    from acktr_tf.kfac.optimizer import KFAC


@dataclass(frozen=True)
class Scalars:
    """Scalar variables of an optimizer: counters, control factors, the last step.

    Attributes:
      trust_region_scale: Factor by which the radius shortened the last step.
      failed_factorizations: Factorizations that failed, int32.
      rejected_statistics: Statistics that were not finite, int32.
      skipped_steps: Steps that were not finite, int32.
      radius_factor: Factor on `kl_radius`; see `control.adapt_radius`.
      damping_factor: Factor on `damping`; see `control.adapt_damping`.
      predicted_change: Change of the loss by the last step, as predicted.
      gradient_norm: Euclidean norm of the last gradient.
      step_norm: Euclidean norm of the last step.
      cosine: Cosine between both.
    """

    trust_region_scale: keras.Variable
    failed_factorizations: keras.Variable
    rejected_statistics: keras.Variable
    skipped_steps: keras.Variable
    radius_factor: keras.Variable
    damping_factor: keras.Variable
    predicted_change: keras.Variable
    gradient_norm: keras.Variable
    step_norm: keras.Variable
    cosine: keras.Variable


def make_scalars(add_variable: AddVariable) -> Scalars:
    """Makes the scalar variables of an optimizer.

    Args:
      add_variable: See `AddVariable`.
    """

    def add(name: str, dtype: str = "float32", initializer: str = "zeros") -> object:
        return add_variable(
            shape=(),
            initializer=initializer,
            dtype=dtype,
            aggregation="only_first_replica",
            name=name,
        )

    return Scalars(
        trust_region_scale=add("trust_region_scale"),
        failed_factorizations=add("failed_factorizations", "int32"),
        rejected_statistics=add("rejected_statistics", "int32"),
        skipped_steps=add("skipped_steps", "int32"),
        radius_factor=add("radius_factor", initializer="ones"),
        damping_factor=add("damping_factor", initializer="ones"),
        predicted_change=add("predicted_change"),
        gradient_norm=add("gradient_norm"),
        step_norm=add("step_norm"),
        cosine=add("cosine"),
    )


def note_step(
    optimizer: "KFAC",
    step: Step,
    gradients: Sequence[tf.Tensor],
    squared_length: tf.Tensor,
    finite: tf.Tensor,
) -> None:
    """Keeps what `diagnostics` and `control` need to know of a step.

    Args:
      optimizer: The optimizer.
      step: The step that its rule chose.
      gradients: g, one matrix per block.
      squared_length: ⟨v, v⟩, scalar.
      finite: Scalar bool: whether the step is finite, and taken. If False, a step of
        zero is noted, and counted as skipped.
    """
    scalars = optimizer.scalars
    slope = inner_product(gradients, step.matrices)
    gradient_norm = tf.sqrt(inner_product(gradients, gradients))
    step_norm = tf.sqrt(squared_length)
    cosine = tf.math.divide_no_nan(slope, gradient_norm * step_norm)
    noted = [
        (scalars.trust_region_scale, step.scale),
        (scalars.gradient_norm, gradient_norm),
        (scalars.step_norm, step_norm),
        (scalars.cosine, cosine),
    ]
    if optimizer.settings.damping_period is not None:
        change = step.predicted_change
        if change is None:
            norm = optimizer.curvature.squared_norm(step.matrices)
            norm += optimizer.current_damping * squared_length
            change = 0.5 * norm - slope
        noted.append((scalars.predicted_change, change))
    for variable, value in noted:
        variable.assign(tf.where(finite, value, 0.0))
    skipped = scalars.skipped_steps
    skipped.assign(skipped.value + tf.cast(~finite, tf.int32))


def diagnostics(optimizer: "KFAC") -> dict[str, tf.Tensor]:
    """Returns diagnostics of the last step, as scalars; see `KFAC.diagnostics`.

    Args:
      optimizer: The optimizer.
    """
    scalars, blocks = optimizer.scalars, optimizer.blocks
    oldest = tf.reduce_min([block.inverse_step for block in blocks])
    last = tf.cast(optimizer.step_number - 1, tf.float32)
    found = {
        "predicted_kl": optimizer.predicted_kl(),
        "trust_region_scale": optimizer.trust_region_scale,
        "damping": optimizer.current_damping,
        "gradient_norm": scalars.gradient_norm.value,
        "step_norm": scalars.step_norm.value,
        "cosine": scalars.cosine.value,
        "inverse_age": last - oldest,
        "failed_factorizations": optimizer.failed_factorizations,
        "rejected_statistics": optimizer.rejected_statistics,
        "skipped_steps": optimizer.skipped_steps,
    }
    for name, block in zip(block_names(blocks), blocks, strict=True):
        for key, value in block.diagnostics(optimizer.current_damping).items():
            found[f"{key}/{name}"] = value
    return found
