"""K-FAC against tuned SGD with momentum, Adam and Muon, on data without a download.

    python benchmarks/supervised/run.py [--problems=curves,frames,games,resnet,digits] \
        [--optimizers=SGD,Adam,Muon,K-FAC] [--stage=tune,run,report] [--updates=N] \
        [--kfac_share=S] [--trial_share=0.5] [--seeds=0,1,2] [--jobs=1] \
        [--directory=runs/supervised] [--data=runs/supervised/data] [--docs=docs]

`tune` makes five short trials of each optimizer on each problem, with a seed of their
own, and up to three more: where two settings are tuned, the best values of both
together; and while the best is at the edge of those tried, one beyond it. `run` trains
with the settings of the best, three seeds. `report` writes what there is into --docs:
data/supervised, images, and the tables of supervised.md. Each trial and each run is a
process of its own that leaves a record in DIRECTORY/PROBLEM/OPTIMIZER; one that is
there is never made again, so that the same command continues what was stopped.

--updates replaces the number of each problem. K-FAC gets --kfac_share of it: if that is
not given, as many as the problem's bar allows it. A trial gets --trial_share of a run.
All learning rates fall linearly to zero over the run. Times are only worth something
with --jobs=1, on a machine that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import names, positive

from acktr_tf.suites.jobs import child_environment, write_file
from supervised import optimizers, results
from supervised.data import load
from supervised.problems import PROBLEMS
from supervised.train import Run, subset

HERE = Path(__file__).resolve().parent
STAGES = ("tune", "run", "report")
TRIAL_SEED = 100
MORE_TRIALS = 3


class Tuning(NamedTuple):
    """Trials of an optimizer on a problem.

    Attributes:
      trials: Records, in the order in which they are made.
      chosen: The settings of the best; None if a trial is still to be made.
    """

    trials: list[dict[str, Any]]
    chosen: dict[str, Any] | None


class Plan:
    """Which runs there are to make, and where their records are."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._directory: Path = arguments.directory
        self._environment = child_environment(arguments.jobs)

    def path(self, problem: str, optimizer: str, name: str) -> Path:
        """Of a record."""
        return self._directory / problem / optimizer / f"{name}.json"

    def updates(self, problem: str, optimizer: str) -> int:
        """Of a run."""
        updates = self._arguments.updates or PROBLEMS[problem].updates
        if optimizer != optimizers.KFAC:
            return updates
        share = self._arguments.kfac_share or PROBLEMS[problem].updates_bar
        return max(1, round(share * updates))

    # Trials ---------------------------------------------------------------------
    def trial(self, problem: str, optimizer: str, point: optimizers.Point) -> Run:
        """A trial of some settings."""
        updates = self._arguments.trial_share * self.updates(problem, optimizer)
        settings = optimizers.search(PROBLEMS[problem], optimizer).settings(point)
        return Run(problem, optimizer, settings, TRIAL_SEED, max(1, round(updates)))

    def tune(self, problem: str, optimizer: str, make: bool) -> Tuning:
        """The trials, which are made if need be and wanted."""
        points = list(optimizers.search(PROBLEMS[problem], optimizer).points)
        most = len(points) + MORE_TRIALS
        records: list[dict[str, Any]] = []
        while True:
            for point in points[len(records) :]:
                name = f"trial_{len(records)}"
                record = self.record(self.trial(problem, optimizer, point), name, make)
                if record is None:
                    return Tuning(records, None)
                records.append(record)
            losses = [results.final_loss(each) for each in records]
            best = optimizers.best_of(losses)
            further = optimizers.corner(points, losses, points[0])
            further = further or optimizers.beyond(points, points[best])
            if further is None or len(points) == most:
                return Tuning(records, records[best]["settings"])
            points.append(further)

    # Runs -----------------------------------------------------------------------
    def runs(self, problem: str, optimizer: str, make: bool) -> list[dict[str, Any]]:
        """The records of all seeds that are there, or wanted.

        Raises:
          SystemExit: They are wanted and the trials are not there.
        """
        settings = self.tune(problem, optimizer, make=False).chosen
        if settings is None:
            if make:
                raise SystemExit(f"{problem} {optimizer} is not tuned: --stage=tune")
            return []
        updates = self.updates(problem, optimizer)
        records = [
            self.record(
                Run(problem, optimizer, settings, seed, updates), f"seed_{seed}", make
            )
            for seed in self._arguments.seeds
        ]
        return [record for record in records if record is not None]

    def record(self, run: Run, name: str, make: bool) -> dict[str, Any] | None:
        """The record of a run, which is made if it is not there and wanted.

        Raises:
          SystemExit: It is there, but of other settings; or making it failed.
        """
        path = self.path(run.problem, run.optimizer, name)
        if not path.is_file():
            if not make:
                return None
            self._make(run, path)
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        there = {key: record[key] for key in Run._fields}
        if there != run._asdict():
            raise SystemExit(
                f"{path} is of other settings: give those, another --directory, or "
                f"remove it. Received: {run._asdict()}. It has: {there}"
            )
        return record

    def _make(self, run: Run, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = [json.dumps(run._asdict()), str(self._arguments.data), str(path)]
        command = [sys.executable, str(HERE / "train.py"), *arguments]
        log = path.with_suffix(".log")
        with log.open("w") as file:
            status = subprocess.run(
                command, env=self._environment, stdout=file, stderr=file, check=False
            ).returncode
        if status:
            raise SystemExit(
                f"{path.stem} failed, see {log}:\n{log.read_text()[-2000:]}"
            )
        log.unlink()
        record = json.loads(path.read_text(encoding="utf-8"))
        tuned = optimizers.search(PROBLEMS[run.problem], run.optimizer).tuned
        print(
            f"{run.problem} {run.optimizer} {path.stem} "
            f"{ {name: run.settings[name] for name in tuned} }: "
            f"{results.final_loss(record)} after {record['at'][-1]} updates, "
            f"{record['seconds'][-1]} s",
            flush=True,
        )


# Report -----------------------------------------------------------------------------
def documents(plan: Plan, arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Name and results of each problem of which Adam's runs are there."""
    for problem in arguments.problems:
        tunings = {o: plan.tune(problem, o, make=False) for o in arguments.optimizers}
        runs = {o: plan.runs(problem, o, make=False) for o in arguments.optimizers}
        if not runs.get(optimizers.ADAM):
            print(f"{problem}: Adam has no runs yet, which all are compared with.")
            continue
        parts = PROBLEMS[problem].examples(load(PROBLEMS[problem].data, arguments.data))
        # Of those whose loss is measured.
        parts = (subset(parts[0]), parts[1])
        least = [PROBLEMS[problem].least_loss(part) for part in parts]
        yield (
            problem,
            {
                "machine": runs[optimizers.ADAM][0]["machine"],
                "least": dict(zip(("training", "held_out"), least, strict=True)),
                "chosen": {o: tunings[o].chosen for o in runs if runs[o]},
                "trials": {o: [_short(r) for r in tunings[o].trials] for o in tunings},
                "runs": {o: [_short(r) for r in runs[o]] for o in runs if runs[o]},
            },
        )


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """Without what the document says once; of a trial, only how it ended."""
    curves = ("at", "seconds", "training", "held_out")
    kept = {key: record[key] for key in ("settings", "seed", "updates", *curves)}
    if record["seed"] == TRIAL_SEED:
        kept.update({key: kept[key][-1:] for key in curves})
    return kept


def report(plan: Plan, arguments: argparse.Namespace) -> None:
    """Writes files, pictures and tables into the documentation."""
    import make_supervised

    from supervised.pictures import draw

    docs: Path = arguments.docs
    for folder in (docs / "data" / "supervised", docs / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    for problem, document in documents(plan, arguments):
        text = json.dumps(document) + "\n"
        path = docs / "data" / "supervised" / f"{problem}.json"
        write_file(path, text.encode())
        draw(problem, document, docs / "images" / f"supervised_{problem}.png")
    make_supervised.write(docs)


# Command ----------------------------------------------------------------------------
def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = list(PROBLEMS)
    flags.add_argument("--problems", type=names(every), default=every)
    every = list(optimizers.OPTIMIZERS)
    flags.add_argument("--optimizers", type=names(every), default=every)
    flags.add_argument("--stage", type=names(STAGES), default=list(STAGES))
    flags.add_argument("--updates", type=positive(int))
    flags.add_argument("--kfac_share", type=positive(float))
    flags.add_argument("--trial_share", type=positive(float), default=0.5)
    flags.add_argument(
        "--seeds",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[0, 1, 2],
    )
    flags.add_argument("--jobs", type=positive(int), default=1)
    flags.add_argument("--directory", type=Path, default=Path("runs/supervised"))
    flags.add_argument("--data", type=Path, default=Path("runs/supervised/data"))
    flags.add_argument("--docs", type=Path, default=HERE.parents[1] / "docs")
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    flags = parser().parse_args(arguments)
    plan = Plan(flags)
    pairs = [(p, o) for p in flags.problems for o in flags.optimizers]

    def make(pair: tuple[str, str]) -> None:
        if "tune" in flags.stage:
            plan.tune(*pair, make=True)
        if "run" in flags.stage:
            plan.runs(*pair, make=True)

    if {"tune", "run"} & set(flags.stage):
        # Before several processes would make the same file.
        for name in dict.fromkeys(PROBLEMS[problem].data for problem in flags.problems):
            load(name, flags.data)
        pool = ThreadPoolExecutor(flags.jobs)
        try:
            for future in [pool.submit(make, pair) for pair in pairs]:
                future.result()
        finally:
            # Where one failed, those that wait are not begun.
            pool.shutdown(cancel_futures=True)
    if "report" in flags.stage:
        report(plan, flags)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The same command continues.") from None
