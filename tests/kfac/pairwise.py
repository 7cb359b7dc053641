"""Some cases of a product of parameters, with every pair of values among them."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def pairs_of(case: Sequence[int]) -> set[tuple[tuple[int, int], ...]]:
    """The pairs of (parameter, value) that a case has."""
    return set(itertools.combinations(enumerate(case), 2))


def covering(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Cases that have every pair of values of any two parameters, by greedy choice.

    Args:
      sizes: How many values each of two parameters or more has.
    """
    product = list(itertools.product(*map(range, sizes)))
    missing = set().union(*map(pairs_of, product))
    chosen = []
    while missing:
        best = max(product, key=lambda case: len(missing & pairs_of(case)))
        missing -= pairs_of(best)
        chosen.append(best)
    return chosen


def pairwise(*parameters: Any) -> list[Any]:
    """Cases for `pytest.mark.parametrize` of several parameters at once.

    All of the product, but those that no new pair of values is in are slow: together
    they take minutes, and the code has no branch that depends on three parameters.

    Args:
      *parameters: The values of each, in a list, or in a dictionary by their ids.
    """
    named = [
        list(values.items())
        if isinstance(values, dict)
        else [(str(value), value) for value in values]
        for values in parameters
    ]
    chosen = covering([len(values) for values in named])
    cases = []
    for case in itertools.product(*(range(len(values)) for values in named)):
        parts = [values[index] for values, index in zip(named, case, strict=True)]
        cases.append(
            pytest.param(
                *(value for _, value in parts),
                id="-".join(name for name, _ in parts),
                marks=() if case in chosen else pytest.mark.slow,
            )
        )
    return cases
