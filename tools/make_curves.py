"""Draws learning curves, and writes the tables under them, from episodes.csv files.

    python tools/make_curves.py                       # from docs/data to docs/
    python tools/make_curves.py --add=pong RUN_DIR... # first copy runs into docs/data

A page of the documentation holds the table of its suite between two marks, which this
script keeps up to date.
"""

import argparse
import json
import math
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from acktr_tf.runs import markdown
from acktr_tf.runs.csv_files import read_columns
from acktr_tf.runs.directory import without_run_dir

DOCS = Path(__file__).resolve().parents[1] / "docs"
DATA = DOCS / "data"
SCORES = "scores.json"
WINDOW = 100
COLORS = {"acktr": "C0", "a2c": "C1"}


class Suite(NamedTuple):
    """What to draw.

    Attributes:
      title: Of the picture.
      page: Where the table goes.
      bar: The 100-game mean to reach, drawn as a line.
    """

    title: str
    page: str
    bar: float


SUITES = {
    "pong": Suite("PongNoFrameskip-v4", "atari.md", 18.0),
    "pong_turns": Suite("Pong, layers take turns at being inverted", "atari.md", 18.0),
    "pong_period_8": Suite("Pong, factors every 8 updates", "atari.md", 18.0),
    "pong_period_2": Suite("Pong, factors every 2 updates", "atari.md", 18.0),
    "cartpole": Suite("CartPole-v1", "cartpole.md", 475.0),
}


class Run(NamedTuple):
    """The episodes of one run, in the order in which they ended.

    Attributes:
      algorithm: Of the run's settings.
      seed: Of the run's settings.
      step: `[E]`, agent steps of the run when each episode ended.
      episode_return: `[E]`, raw.
      score: Mean of `evaluate --json` in the run directory's scores.json, nan without.
    """

    algorithm: str
    seed: int
    step: np.ndarray
    episode_return: np.ndarray
    score: float = math.nan

    @property
    def mean_step(self) -> np.ndarray:
        """`[E - 99]`, step at the end of each window of 100 episodes."""
        return self.step[WINDOW - 1 :]

    @property
    def mean_return(self) -> np.ndarray:
        """`[E - 99]`, mean of the last 100 episodes, otherwise unsmoothed."""
        window = np.full(WINDOW, 1.0 / WINDOW)
        return np.convolve(self.episode_return, window, mode="valid")


def read_run(directory: Path) -> Run:
    """The run whose config.json and episodes.csv are in `directory`."""
    settings = json.loads((directory / "config.json").read_text())["settings"]
    columns = read_columns(directory / "episodes.csv", ("step", "episode_return"))
    step, episode_return = columns.T
    scores = directory / SCORES
    score = json.loads(scores.read_text())["mean"] if scores.is_file() else math.nan
    return Run(settings["algorithm"], settings["seed"], step, episode_return, score)


def read_suite(name: str) -> list[Run]:
    """All runs of a suite in docs/data, by algorithm (ACKTR first) and seed."""
    runs = [read_run(path.parent) for path in (DATA / name).glob("*/config.json")]
    return sorted(runs, key=lambda run: (run.algorithm != "acktr", run.seed))


def add(name: str, run_dirs: Iterable[Path]) -> None:
    """Copies what the curves need of each run into docs/data."""
    for run_dir in run_dirs:
        run = read_run(run_dir)
        target = DATA / name / f"{run.algorithm}-{run.seed}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(run_dir / "episodes.csv", target)
        if (run_dir / SCORES).is_file():
            scores = json.loads((run_dir / SCORES).read_text())
            scores["policy"] = ""  # Its path.
            (target / SCORES).write_text(json.dumps(scores) + "\n")
        document = json.loads((run_dir / "config.json").read_text())
        document["settings"]["run_dir"] = None
        document["command"] = without_run_dir(document["command"])
        text = json.dumps(document, indent=2) + "\n"
        (target / "config.json").write_text(text)


def draw(suite: Suite, runs: list[Run], path: Path) -> None:
    """Every run's mean of the last 100 games, one line a seed, and a dot a game."""
    figure, axes = plt.subplots(figsize=(7, 4), dpi=110)
    labelled = set()
    for run in runs:
        label = None if run.algorithm in labelled else run.algorithm.upper()
        labelled.add(run.algorithm)
        color = COLORS[run.algorithm]
        axes.plot(run.step, run.episode_return, ".", color=color, ms=1, alpha=0.25)
        axes.plot(run.mean_step, run.mean_return, color=color, label=label, lw=1.2)
    axes.axhline(suite.bar, color="grey", lw=0.8, ls="--")
    axes.set_title(f"{suite.title}, one line a seed, one dot a game")
    axes.set_xlabel("agent steps")
    axes.set_ylabel(f"raw return, mean of the last {WINDOW} games")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def table(suite: Suite, runs: list[Run]) -> str:
    """Returns the suite's table in Markdown, one row per run."""
    header = ["algorithm", "seed", "games", f"steps until {suite.bar:g}"]
    header += ["best mean", "last mean", "steps", "evaluation"]
    rows = []
    for run in runs:
        mean = run.mean_return
        reached = np.flatnonzero(mean >= suite.bar)
        when = f"{run.mean_step[reached[0]]:,.0f}" if len(reached) else "not reached"
        rows.append(
            [
                *(run.algorithm.upper(), str(run.seed), str(len(run.step)), when),
                *(f"{mean.max():.2f}", f"{mean[-1]:.2f}", f"{run.step[-1]:,.0f}"),
                "" if math.isnan(run.score) else f"{run.score:.2f}",
            ]
        )
    return markdown.table(header, rows)


def with_table(page: str, name: str, text: str) -> str:
    """`page` with what is between its marks replaced by `text`.

    Raises:
      ValueError: The page has no such marks.
    """
    pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
    page, count = re.subn(
        pattern, lambda m: m[1] + text + "\n" + m[2], page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"The page must have the marks of `{name}` once.")
    return page


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", choices=SUITES, help="suite to copy RUN_DIRs into")
    parser.add_argument("run_dir", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.add:
        add(arguments.add, arguments.run_dir)
    for name, suite in SUITES.items():
        runs = read_suite(name)
        draw(suite, runs, DOCS / "images" / f"{name}.png")
        page = DOCS / suite.page
        text = page.read_text()
        page.write_text(with_table(text, name, table(suite, runs)))


if __name__ == "__main__":
    main()
