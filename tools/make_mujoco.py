"""Writes the tables of docs/mujoco.md from the files in docs/data/mujoco.

    python tools/make_mujoco.py                     # from docs/data/mujoco to docs/
    python tools/make_mujoco.py --add DIRECTORY     # first copy a benchmark's report
    python tools/make_mujoco.py --tried RUN_DIR...  # first add runs to tried.csv

report.csv and report.png are those of `python -m acktr_tf.benchmark --suite=mujoco8`,
published.csv holds what others published, and tried.csv a line for each run of the
search for settings: in what it differs from mujoco.flags, and its score. kl_by_age.json
is of benchmarks/kl_by_age.py.
"""

import argparse
import csv
import json
import math
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from make_curves import DOCS, WINDOW, with_table

sys.path.insert(0, str(DOCS.parent / "benchmarks"))

import kl_by_age

from acktr_tf.cli.flags import config_from
from acktr_tf.config import entries
from acktr_tf.runs import markdown
from acktr_tf.suites.statistics import mean_over_seeds

DATA = DOCS / "data" / "mujoco"
PAGE = DOCS / "mujoco.md"
FLAGS = DOCS.parent / "launch" / "mujoco.flags"
RESULT, TRIED, PUBLISHED = (
    DATA / name for name in ("report.csv", "tried.csv", "published.csv")
)
KL_BY_AGE = DATA / "kl_by_age.json"
TRIED_TASKS = ("HalfCheetah-v5", "Walker2d-v5", "Hopper-v5")
COLUMNS = ("settings", "task", "seed", "last_100_mean")
# Settings that do not change what is learnt, or that name the run.
NOT_TRIED = {"env", "seed", "run_dir", "progress_bar", "evaluation_period"}


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float:
    """nan where there is none."""
    return float(text) if text else math.nan


def shown(value: float) -> str:
    """Four digits or so, and a dash for nan."""
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def result_table(result: list[dict[str, str]], published: list[dict[str, str]]) -> str:
    """Returns ACKTR's scores beside what was published, one row per task."""
    header = ["task", "ACKTR, last 100 episodes", "each seed", "evaluation"]
    header += ["ACKTR, paper", "best published", "at the paper's", "at the best"]
    rows = []
    reached = np.zeros((2, 2), int)
    for row in published:
        runs = [
            run
            for run in result
            if run["task"].startswith(f"{row['task']}-") and run["algorithm"] == "ACKTR"
        ]
        training = np.array([number(run["last_100_mean"]) for run in runs])
        evaluation = np.mean([number(run["evaluation_mean"]) for run in runs])
        estimate = mean_over_seeds(training)
        paper = number(row["paper_acktr"])
        best = np.nanmax([number(v) for k, v in row.items() if k != "task"])
        means = (estimate.value, evaluation)
        cells = []
        for column, bar in enumerate((paper, best)):
            met = [mean >= bar for mean in means]
            reached[column] += met
            words = {(True, True): "yes", (False, True): "evaluation"}
            cells.append(words.get(tuple(met), "training" if met[0] else "no"))
        interval = f"[{shown(estimate.low)}, {shown(estimate.high)}]"
        rows.append(
            [
                row["task"],
                f"{shown(estimate.value)} {interval}",
                ", ".join(shown(t) for t in training),
                *(shown(evaluation), shown(paper), shown(best)),
                *cells,
            ]
        )
    tasks = len(published)
    return (
        f"{markdown.table(header, rows)}\n\n"
        f"At or above the paper's ACKTR: {reached[0][0]} of {tasks} tasks in training, "
        f"{reached[0][1]} of {tasks} in the evaluation. "
        f"At or above the best published: {reached[1][0]} and {reached[1][1]}."
    )


def tried_table(tried: list[dict[str, str]]) -> str:
    """Returns the search for settings, one row per set, with every seed."""
    scores: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in tried:
        entry = (int(line["seed"]), float(line["last_100_mean"]))
        scores[line["settings"]][line["task"]].append(entry)
    rows = []
    for settings, tasks in sorted(scores.items()):
        cells = [
            ", ".join(f"{score:.0f} ({seed})" for seed, score in sorted(tasks[task]))
            for task in TRIED_TASKS
        ]
        rows.append([settings or "as in the file", *cells])
    return markdown.table(["settings", *TRIED_TASKS], rows)


def difference(settings: dict[str, object]) -> str:
    """Returns the settings in which a run differs from mujoco.flags, as flags."""
    parts = []
    defaults = entries("acktr")
    for name, value in config_from([f"--flagfile={FLAGS}"]).to_dict().items():
        # What a setting that came later does by default is what was done before.
        found = settings.get(name, defaults[name].default)
        if name not in NOT_TRIED and found != value:
            parts.append(f"`{name}={found}`")
    return " ".join(parts)


def add_tried(run_dirs: Iterable[Path]) -> None:
    """Adds a line for each run to tried.csv, or replaces it."""
    lines = {
        (line["settings"], line["task"], line["seed"]): line["last_100_mean"]
        for line in (read(TRIED) if TRIED.is_file() else [])
    }
    for run_dir in run_dirs:
        settings = json.loads((run_dir / "config.json").read_text())["settings"]
        returns = [
            float(row["episode_return"]) for row in read(run_dir / "episodes.csv")
        ]
        key = (difference(settings), settings["env"], str(settings["seed"]))
        lines[key] = f"{np.mean(returns[-WINDOW:]):.6g}"
    with TRIED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*key, score] for key, score in sorted(lines.items()))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", type=Path, metavar="DIRECTORY")
    parser.add_argument("--tried", nargs="+", type=Path, metavar="RUN_DIR", default=())
    arguments = parser.parse_args()
    if arguments.add:
        shutil.copy(arguments.add / "report.csv", RESULT)
        shutil.copy(arguments.add / "report.png", DOCS / "images" / "mujoco.png")
    add_tried(arguments.tried)
    page = PAGE.read_text(encoding="utf-8")
    page = with_table(page, "result", result_table(read(RESULT), read(PUBLISHED)))
    page = with_table(page, "tried", tried_table(read(TRIED)))
    documents = json.loads(KL_BY_AGE.read_text(encoding="utf-8"))
    page = with_table(page, "kl_by_age", kl_by_age.table(documents))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
