"""Wrong formulas turn tests red; see mutations.py."""

import pytest

from kfac.mutations import (
    MUTATIONS,
    REPOSITORY,
    copy_of_the_repository,
    run_tests,
    run_wrong,
)


@pytest.mark.slow
def test_the_copy_passes_as_it_is(tmp_path):
    root = copy_of_the_repository(tmp_path)
    result = run_tests(root, *sorted({mutation.tests for mutation in MUTATIONS}))
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_wrong_formula_turns_a_test_red(mutation, tmp_path):
    result = run_wrong(mutation, tmp_path)
    # 1 is a test that failed; anything else is no test that ran.
    assert result.returncode == 1, result.stdout + result.stderr


def test_every_mutation_has_its_place_in_the_source():
    for mutation in MUTATIONS:
        source = (REPOSITORY / "acktr_tf" / mutation.file).read_text("utf-8")
        assert source.count(mutation.right) == 1, mutation.name


def test_the_published_table_has_every_mutation_and_each_is_noticed():
    page = (REPOSITORY / "docs" / "kfac_mutations.md").read_text("utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    names = [row[0].removeprefix("| ") for row in rows[1:]]
    assert names == [mutation.name for mutation in MUTATIONS]
    assert all(row[2].startswith("`test_") for row in rows[1:])
