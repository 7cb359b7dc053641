"""Writes the tables of docs/supervised.md from the files in docs/data/supervised.

    python tools/make_supervised.py

These are what `benchmarks/supervised/run.py` wrote; see the page for the commands.
"""

import json
import sys
from pathlib import Path

from make_curves import DOCS, with_table

sys.path.insert(0, str(DOCS.parent / "benchmarks"))

from supervised import results


def page_of(docs: Path) -> Path:
    """The page, in a folder of documentation."""
    return docs / "supervised.md"


def tables(docs: Path) -> dict[str, str]:
    """Problem → its tables, of those that have a file."""
    return {
        path.stem: results.tables(path.stem, json.loads(path.read_text("utf-8")))
        for path in sorted((docs / "data" / "supervised").glob("*.json"))
    }


def write(docs: Path) -> None:
    """Writes the tables into the page."""
    page = page_of(docs).read_text(encoding="utf-8")
    for name, table in tables(docs).items():
        page = with_table(page, name, table)
    page_of(docs).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write(DOCS)
