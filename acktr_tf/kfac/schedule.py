"""At which steps the factors are updated, and inverted."""

from collections.abc import Sequence

import tensorflow as tf


def factors_due(step: tf.Tensor, period: int) -> tf.Tensor:
    """Whether a step is one of those that update the factors, scalar bool.

    Those are every `period`-th, and all of the first period: a mean of few batches
    gains most by another one.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Updates between two times.
    """
    return (step < period) | tf.equal(step % period, 0)


def inverses_due(
    step: tf.Tensor, period: int, factor_period: int = 1, place: int = 0
) -> tf.Tensor:
    """Whether a step is one of those that invert the factors, scalar bool.

    Those are one in each period, and in the first period all that update the factors:
    these change most while they are means of a few batches.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Updates between two times.
      factor_period: Updates between two updates of the factors.
      place: Which step of the period it is, from 0.
    """
    early = (step < period) & factors_due(step, factor_period)
    return early | tf.equal(step % period, place)


def places(period: int, costs: Sequence[float]) -> list[int]:
    """Steps of a period at which pieces of work have their turn.

    Each has a step of its own, in the middle of its share of the period, if there are
    as many steps; else the next goes to the step with the least work.

    Args:
      period: Steps.
      costs: Of each piece, the costliest first.
    """
    count = len(costs)
    if count <= period:
        return [(2 * number + 1) * period // (2 * count) for number in range(count)]
    work = [0.0] * period
    found = []
    for cost in costs:
        found.append(work.index(min(work)))
        work[found[-1]] += cost
    return found
