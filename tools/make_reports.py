"""Puts reports of `python -m acktr_tf.benchmark` into pages of the documentation.

    python tools/make_reports.py                     # from docs/data to docs/
    python tools/make_reports.py --add NAME DIRECTORY  # first copy DIRECTORY's report

docs/data/NAME holds report.md and report.csv as the benchmark wrote them, and
docs/images/NAME.png its picture. A page has their tables between two marks.
"""

import argparse
import shutil
from pathlib import Path
from typing import NamedTuple

from make_curves import DATA, DOCS, with_table

from acktr_tf.suites.report import CURVES_FILE, PAGE_FILE, RUNS_FILE


class Excerpt(NamedTuple):
    """What a page has of a report.

    Attributes:
      page: Where it goes.
      headings: Of the sections of report.md whose tables it has.
    """

    page: str
    headings: tuple[str, ...]


EVERY_SEED = "Every seed"
EXCERPTS = {
    "classic": Excerpt("classic.md", (EVERY_SEED, "All tasks together")),
    "side_by_side": Excerpt(
        "mujoco.md", ("All tasks together", "Wall time", EVERY_SEED)
    ),
    "mujoco_paper": Excerpt("mujoco.md", (EVERY_SEED,)),
    "critic_norm": Excerpt("mujoco.md", (EVERY_SEED,)),
    "batch_size": Excerpt("mujoco.md", (EVERY_SEED,)),
    "pixels": Excerpt("mujoco.md", (EVERY_SEED,)),
    "kl_limit": Excerpt("mujoco.md", (EVERY_SEED,)),
}


def table_of(report: str, heading: str) -> str:
    """The tables of a section, without its text.

    Raises:
      ValueError: The report has no such section.
    """
    _, found, rest = report.partition(f"\n## {heading}\n")
    if not found:
        raise ValueError(f"The report has no section {heading!r}.")
    section = rest.split("\n## ")[0]
    tables = [part for part in section.split("\n\n") if part.lstrip().startswith("|")]
    return "\n\n".join(table.strip() for table in tables)


def excerpt(name: str) -> str:
    """What the page of a report has between its marks."""
    report = (DATA / name / PAGE_FILE).read_text(encoding="utf-8")
    return "\n\n".join(table_of(report, h) for h in EXCERPTS[name].headings)


def add(name: str, directory: Path) -> None:
    """Copies a benchmark's report into docs/."""
    (DATA / name).mkdir(parents=True, exist_ok=True)
    for file in (PAGE_FILE, RUNS_FILE):
        shutil.copy(directory / file, DATA / name)
    shutil.copy(directory / CURVES_FILE, DOCS / "images" / f"{name}.png")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", nargs=2, metavar=("NAME", "DIRECTORY"))
    arguments = parser.parse_args()
    if arguments.add:
        name, directory = arguments.add
        if name not in EXCERPTS:
            parser.error(f"NAME must be one of {', '.join(EXCERPTS)}. Received: {name}")
        add(name, Path(directory))
    for name, (page, _) in EXCERPTS.items():
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        path.write_text(with_table(text, name, excerpt(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
