"""Writes the tables of docs/performance.md from the files in docs/data.

    python tools/make_performance.py

These are what benchmarks wrote with --json; see the page for the commands.
"""

import json
import sys
from pathlib import Path
from typing import Any

from make_curves import DATA, DOCS, with_table

sys.path.insert(0, str(DOCS.parent / "benchmarks"))

import against_kfac_jax
import curvature
import performance_goals
import phases
import pong_budget
import startup
import steady
import throughput
import update_cost

PAGE = DOCS / "performance.md"


def tables() -> dict[str, str]:
    """Name of the marks in the page → what stands between them, if it was measured."""
    found = {
        path.stem: throughput.tables(_read(path))
        for path in sorted((DATA / "throughput").glob("*.json"))
    }
    for path in sorted((DATA / "phases").glob("*.json")):
        found[f"phases_{path.stem}"] = phases.table(_read(path))
    pair = (_read(DATA / "phases" / f"{name}.json") for name in ("pong", "pong_a2c"))
    found["pong_budget"] = pong_budget.table(*pair)
    for path in sorted((DATA / "growth").glob("*.json")):
        found[f"growth_{path.stem}"] = curvature.growth_table(_read(path))
    for path in sorted((DATA / "steady").glob("*.json")):
        found[f"steady_{path.stem}"] = steady.table(_read(path))
    found["parts"] = curvature.parts_table(_read(DATA / "curvature_parts.json"))
    found["startup"] = startup.table(_read(DATA / "startup.json"))
    costs = sorted((DATA / "update_cost").glob("*.json"))
    found["update_cost"] = "\n\n".join(update_cost.table(_read(p)) for p in costs)
    other = _read(DATA / "against_kfac_jax.json")
    found["against_kfac_jax"] = against_kfac_jax.table(other)
    found["goals"] = performance_goals.table(lambda name: _read(DATA / name))
    return found


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """See the module's docstring."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables().items():
        page = with_table(page, name, table)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
