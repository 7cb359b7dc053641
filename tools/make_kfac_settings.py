"""Writes the tables of docs/kfac_settings.md from the files in docs/data/kfac_settings.

    python tools/make_kfac_settings.py

These are what `benchmarks/supervised/sweep.py` wrote; see the page for the command.
"""

import json
import sys
from pathlib import Path

from make_curves import DOCS, with_table

sys.path.insert(0, str(DOCS.parent / "benchmarks"))

from supervised.settings import table


def tables(docs: Path) -> dict[str, str]:
    """Problem → its table, of those that have a file."""
    return {
        path.stem: table(json.loads(path.read_text("utf-8")))
        for path in sorted((docs / "data" / "kfac_settings").glob("*.json"))
    }


def write(docs: Path) -> None:
    """Writes the tables into the page."""
    page = docs / "kfac_settings.md"
    text = page.read_text(encoding="utf-8")
    for name, found in tables(docs).items():
        text = with_table(text, name, found)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(DOCS)
