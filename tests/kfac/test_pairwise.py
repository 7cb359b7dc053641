"""Cases chosen of a product have every pair of values, and are few."""

import itertools

import pytest

from kfac.pairwise import covering, pairwise


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 2), (3, 3, 2, 3), (2, 2, 2, 2, 2)])
def test_every_pair_of_values_is_covered_by_fewer_cases_than_the_product(sizes):
    cases = covering(sizes)
    for one, other in itertools.combinations(range(len(sizes)), 2):
        found = {(case[one], case[other]) for case in cases}
        assert found == set(itertools.product(range(sizes[one]), range(sizes[other])))
    product = list(itertools.product(*map(range, sizes)))
    assert set(cases) <= set(product)
    if len(sizes) > 2:
        assert len(cases) <= 0.7 * len(product)


def test_all_of_the_product_is_there_and_the_rest_is_slow():
    cases = pairwise([1, 2], {"a": "x", "b": "y"}, [True, False])
    values = [case.values for case in cases]
    assert values == list(itertools.product([1, 2], "xy", [True, False]))
    assert [case.id for case in cases][:2] == ["1-a-True", "1-a-False"]
    assert sum(not case.marks for case in cases) == 4
