"""What some settings of K-FAC each do, all else kept.

    python benchmarks/supervised/sweep.py [--problems=digits] [--seeds=0,1,2] \
        [--directory=runs/sweep] [--data=runs/supervised/data] [--docs=docs]

Around one point, each of the settings takes the values of a line, one at a time.
Runs are those of train.py, in this process one after the other; each leaves a record
in DIRECTORY/PROBLEM, and one that is there is never made again. What there is goes to
--docs: data/kfac_settings, images, and the tables of kfac_settings.md.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
from arguments import names

from acktr_tf.suites.jobs import write_file
from supervised import optimizers
from supervised.data import load
from supervised.problems import PROBLEMS
from supervised.settings import LINES, POINT, draw, label
from supervised.train import Run, train

HERE = Path(__file__).resolve().parent
UPDATES = {"digits": 500}


def runs(problem: str, seeds: list[int]) -> dict[str, Run]:
    """Name of each run → the run; the point itself is on all lines."""
    fixed = {**optimizers.SETTINGS[optimizers.KFAC], **optimizers.CLASSIFIER}
    found = {}
    for setting, values in LINES.items():
        for value in values:
            settings = {**fixed, **POINT, setting: value}
            point = ",".join(f"{name}={label(settings[name])}" for name in LINES)
            for seed in seeds:
                found[f"{point},{seed}"] = Run(
                    problem, optimizers.KFAC, settings, seed, UPDATES[problem]
                )
    return found


def make(run: Run, path: Path, data: Path) -> dict[str, Any]:
    """The record of a run, which is made if it is not there."""
    if not path.is_file():
        problem = PROBLEMS[run.problem]
        record = train(run, problem, load(problem.data, data))
        keras.backend.clear_session()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(record) + "\n").encode())
        print(f"{path.stem}: {record['training'][-1]}", flush=True)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def document(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page is made of: setting → value → the curves of each seed."""
    kept = ("seed", "at", "training", "held_out")
    lines: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for setting, values in LINES.items():
        wanted = [{**POINT, setting: value} for value in values]
        lines[setting] = {
            label(point[setting]): [
                {key: record[key] for key in kept}
                for record in records
                if all(record["settings"][name] == point[name] for name in point)
            ]
            for point in wanted
        }
    return {"point": POINT, "updates": records[0]["updates"], "lines": lines}


def main() -> None:
    """See the module's docstring."""
    import make_kfac_settings

    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--problems", type=names(UPDATES), default=list(UPDATES))
    flags.add_argument("--seeds", default="0,1,2")
    flags.add_argument("--directory", type=Path, default=Path("runs/sweep"))
    flags.add_argument("--data", type=Path, default=Path("runs/supervised/data"))
    flags.add_argument("--docs", type=Path, default=HERE.parents[1] / "docs")
    arguments = flags.parse_args()
    docs: Path = arguments.docs
    for problem in arguments.problems:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        records = [
            make(run, arguments.directory / problem / f"{name}.json", arguments.data)
            for name, run in runs(problem, seeds).items()
        ]
        found = document(records)
        path = docs / "data" / "kfac_settings" / f"{problem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(found) + "\n").encode())
        draw(found, PROBLEMS[problem].what, docs / "images" / f"settings_{problem}.png")
    make_kfac_settings.write(docs)


if __name__ == "__main__":
    main()
