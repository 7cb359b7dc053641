"""Writes the table of docs/kfac.md from docs/data/kfac_beside_cg.json.

    python tools/make_kfac_page.py

The file is what `benchmarks/kfac_beside_cg.py` wrote; see the page for the command.
"""

import json
import sys
from pathlib import Path

from make_curves import DATA, DOCS, with_table

sys.path.insert(0, str(DOCS.parent / "benchmarks"))

from kfac_beside_cg import table

NAME = "kfac_beside_cg"


def page(docs: Path) -> str:
    """Returns the text of docs/kfac.md with the table of the data."""
    document = json.loads((DATA / f"{NAME}.json").read_text("utf-8"))
    text = (docs / "kfac.md").read_text("utf-8")
    return with_table(text, NAME, table(document))


if __name__ == "__main__":
    (DOCS / "kfac.md").write_text(page(DOCS), encoding="utf-8")
