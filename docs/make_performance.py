"""Writes the tables of docs/performance.md from the files in docs/data/throughput.

    python docs/make_performance.py

These are what `benchmarks/throughput.py --json` wrote; see the page for the commands.
"""

import json
import sys

from make_curves import DATA, DOCS, with_table

sys.path.insert(0, str(DOCS.parent / "benchmarks"))

import throughput

PAGE = DOCS / "performance.md"


def main() -> None:
    """See the module's docstring."""
    page = PAGE.read_text(encoding="utf-8")
    for path in sorted((DATA / "throughput").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        page = with_table(page, path.stem, throughput.tables(document))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
