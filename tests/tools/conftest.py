"""Marks the tests of scripts in benchmarks/ and tools/: they have their own command."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is in this directory; items are those of all directories."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("tools")
