"""Schedules of the factors and their inverses: at which steps each is updated."""

from collections.abc import Sequence

import tensorflow as tf

Assignments = list[list[int]]
"""Indices of the blocks that are inverted in one step, one list per replica."""


def factors_due(step: tf.Tensor, period: int) -> tf.Tensor:
    """Returns whether the factors are updated at a step, scalar bool.

    They are updated at every `period`-th step, and at every step of the first period: a
    mean of few batches gains most by another one.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Steps between two updates of the factors.
    """
    return (step < period) | tf.equal(step % period, 0)


def inverses_due(
    step: tf.Tensor, period: int, factor_period: int = 1, offset: int = 0
) -> tf.Tensor:
    """Returns whether factors are inverted at a step, scalar bool.

    They are inverted once per period and, in the first period, whenever the factors are
    updated: the factors change most while they are means of a few batches.

    Args:
      step: Number of the update, from 0, scalar integer.
      period: Steps between two inversions.
      factor_period: Steps between two updates of the factors.
      offset: Step of the period at which they are inverted, from 0.
    """
    early = (step < period) & factors_due(step, factor_period)
    return early | tf.equal(step % period, offset)


def inversion_schedule(
    costs: Sequence[float], period: int, replicas: int = 1, stagger: bool = False
) -> dict[int, Assignments]:
    """Assigns each block a step of the inversion period and a replica.

    The step does not depend on the number of replicas, which share what is inverted at
    one step.

    Args:
      costs: Cost of inverting each block.
      period: Steps between two inversions of a block.
      replicas: Number of replicas.
      stagger: Whether each block has a step of its own, see `stagger_offsets`. If not,
        all are inverted at the first step of the period.

    Returns:
      Step of the period, from 0 → blocks that are inverted there by each replica.
    """
    blocks = sorted(range(len(costs)), key=lambda block: -costs[block])
    offsets = [0] * len(blocks)
    if stagger:
        offsets = stagger_offsets(period, [costs[block] for block in blocks])
    schedule: dict[int, Assignments] = {
        offset: [[] for _ in range(replicas)] for offset in dict.fromkeys(offsets)
    }
    work = [0.0] * replicas
    for offset, block in zip(offsets, blocks, strict=True):
        replica = work.index(min(work))
        schedule[offset][replica].append(block)
        work[replica] += costs[block]
    return schedule


def stagger_offsets(period: int, costs: Sequence[float]) -> list[int]:
    """Spreads pieces of work over the steps of a period.

    If there are as many steps as pieces, each piece has a step of its own, in the
    middle of its share of the period. Otherwise each piece goes to the step with the
    least work so far.

    Args:
      period: Number of steps.
      costs: Cost of each piece, in descending order.

    Returns:
      Step of each piece, from 0.
    """
    count = len(costs)
    if count <= period:
        return [(2 * number + 1) * period // (2 * count) for number in range(count)]
    work = [0.0] * period
    offsets = []
    for cost in costs:
        offsets.append(work.index(min(work)))
        work[offsets[-1]] += cost
    return offsets
