"""When factors are updated and inverted."""

import pytest
import tensorflow as tf

from acktr_tf.kfac.schedule import (
    factors_due,
    inverses_due,
    inversion_schedule,
    stagger_offsets,
)


def steps(due, *arguments: int) -> list[int]:
    return [step for step in range(13) if due(tf.constant(step), *arguments)]


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        (1, list(range(13))),
        (3, [0, 1, 2, 3, 6, 9, 12]),
        (100, list(range(13))),
    ],
)
def test_factors_are_updated_throughout_the_first_period_and_then_once(
    period, expected
):
    assert steps(factors_due, period) == expected


@pytest.mark.parametrize(
    ("period", "factor_period", "expected"),
    [
        (1, 1, list(range(13))),
        (5, 1, [0, 1, 2, 3, 4, 5, 10]),
        # In the first period with the factors: at 0, 1, 2, 4, 6.
        (7, 2, [0, 1, 2, 4, 6, 7]),
        (6, 3, [0, 1, 2, 3, 6, 12]),
        # Inverted more often than there is anything new.
        (2, 4, [0, 1, 2, 4, 6, 8, 10, 12]),
    ],
)
def test_inverses_are_made_with_the_factors_in_the_first_period_and_then_once(
    period, factor_period, expected
):
    assert steps(inverses_due, period, factor_period) == expected


def test_inverses_have_an_offset_in_the_period():
    assert steps(inverses_due, 5, 1, 2) == [0, 1, 2, 3, 4, 7, 12]


@pytest.mark.parametrize(
    ("period", "costs", "expected"),
    [
        (4, [1], [2]),
        (4, [2, 1], [1, 3]),
        (20, [6, 5, 4, 3, 2, 1], [1, 5, 8, 11, 15, 18]),
        # More than steps: each goes where there is least to do.
        (2, [9, 8, 2, 1], [0, 1, 1, 0]),
        (3, [5, 5, 5, 5, 1, 1], [0, 1, 2, 0, 1, 2]),
        (1, [3, 2, 1], [0, 0, 0]),
    ],
)
def test_offsets_are_spread_over_the_period(period, costs, expected):
    assert stagger_offsets(period, costs) == expected


def test_the_costliest_block_is_inverted_first_and_the_work_is_shared():
    # Blocks 1, 0, 2 by their cost, at offsets 1, 3, 5 of six steps.
    staggered = inversion_schedule([5, 9, 1], 6, replicas=2, stagger=True)
    assert staggered == {1: [[1], []], 3: [[], [0]], 5: [[], [2]]}
    # All at once: the second replica has the two that cost less.
    assert inversion_schedule([5, 9, 1], 6, replicas=2) == {0: [[1], [0, 2]]}
