"""Runs that are killed at random moments, again and again, until they are finished.

    python benchmarks/kills.py [--kills=300] [--workloads=cartpole,pong,...] \
        [--seed=0] [--directory=DIR] [--json=FILE]

Each workload is run once to its end. Then it is begun in another directory and killed
(SIGKILL, to all of its processes) at a moment drawn uniformly from a time somewhat
longer than a whole run takes, so that the moments are in its start, its updates, its
checkpoints, its evaluations and its exports; and the same command is given again, until
one ends by itself. What it has then must be to the bit what the run has that nobody
killed: all of the last checkpoint but for wall times, the lines of both CSV files, and
the weights of the export. That is repeated until the workload has had its share of
kills. A command that ends in another way than by the kill or with status 0 is a lost
run, and its last words are printed.

The kinds of runs are: `cartpole`, `pendulum` and `inverted_pendulum` (ACKTR, both
normalizations, separate critic), `pong`, and `benchmark` (two tasks by
`acktr_tf.benchmark`, killed with all that it started). To be quick, the processes of
runs are forked from one that has loaded TensorFlow and not used it; those of the
benchmark are not. All have one thread, since sums in several are not repeatable.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Before any of them is read.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from arguments import names, output_file, positive
from machine import machine

from acktr_tf import launch
from acktr_tf.backend import load_tensorflow
from acktr_tf.runs import checkpoints
from acktr_tf.runs.directory import CHECKPOINTS, EXPORT
from acktr_tf.runs.logs import EPISODES_FILE, PROGRESS_FILE

OFTEN = ("--deterministic", "--checkpoint_seconds=0.2", "--noprogress_bar")
RUNS = {
    "cartpole": (
        *("--flagfile=cartpole.flags", "--total_steps=7680"),
        *("--evaluation_period=3840", "--evaluation_games=2"),
    ),
    "pendulum": (
        *("--flagfile=classic.flags", "--env=Pendulum-v1", "--total_steps=6400"),
        *("--num_envs=8", "--evaluation_period=3200", "--evaluation_games=2"),
    ),
    "inverted_pendulum": (
        *("--flagfile=mujoco.flags", "--env=InvertedPendulum-v5"),
        *("--total_steps=6400", "--num_envs=8"),
        *("--evaluation_period=3200", "--evaluation_games=2"),
    ),
    "pong": (
        *("--flagfile=atari.flags", "--total_steps=640", "--num_envs=4"),
        "--evaluation_period=none",
    ),
}
SUITE = """[suite]
flags = --total_steps=6400 --num_envs=8 --unroll_length=16 --log_period=1 {flags}
[tasks]
Pole = --env=CartPole-v1
Pendulum = --env=Pendulum-v1
[algorithms]
A2C = --algorithm=a2c --hidden_size=8
"""
TIMED = ("seconds", "steps_per_second", "memory", "share_")
LONGER = 1.3
"""Kills come within so many times what a whole run takes."""


class Outcome(NamedTuple):
    """End of one command.

    Attributes:
      status: Exit status; None if it was killed.
      seconds: How long it took.
    """

    status: int | None
    seconds: float


def wait(pid: int, seconds: float) -> Outcome:
    """Waits for a process, and kills its group when the time is over."""
    begin = time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        spent = time.monotonic() - begin
        if found:
            return Outcome(os.waitstatus_to_exitcode(status), spent)
        if spent >= seconds:
            os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            return Outcome(None if code == -signal.SIGKILL else code, spent)
        time.sleep(0.002)


def run_launch(flags: tuple[str, ...]) -> Callable[[Path, float], Outcome]:
    """Returns the command that trains in a directory, for so many seconds at most."""

    def command(directory: Path, seconds: float) -> Outcome:
        directory.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = launch.main([*flags, *OFTEN, f"--run_dir={directory / 'run'}"])
            sys.stdout.flush()
            os._exit(status)
        return wait(pid, seconds)

    return command


def run_benchmark(directory: Path, seconds: float) -> Outcome:
    """Runs a small suite in a directory, for so many seconds at most."""
    directory.mkdir(parents=True, exist_ok=True)
    suite = SUITE.format(flags=" ".join(OFTEN))
    (directory / "small.suite").write_text(suite)
    command = [sys.executable, "-m", "acktr_tf.benchmark", "--suite=small"]
    with (directory / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--seeds=1", "--jobs=2", "--games=2"],
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return wait(process.pid, seconds)


WORKLOADS = {
    **{name: run_launch(flags) for name, flags in RUNS.items()},
    "benchmark": run_benchmark,
}


def results(run_dir: Path) -> dict[str, Any]:
    """All that a run has to show, but for wall times."""
    newest = checkpoints.latest(run_dir / CHECKPOINTS)
    assert newest is not None
    found: dict[str, Any] = {
        name: array
        for name, array in checkpoints.load(newest).arrays.items()
        if not name.startswith(("progress/seconds", "log/"))
    }
    for name in (EPISODES_FILE, PROGRESS_FILE):
        with (run_dir / name).open() as file:
            found[name] = np.array(
                [
                    [v for k, v in row.items() if not k.startswith(TIMED)]
                    for row in csv.DictReader(file)
                ]
            )
    for path in sorted((run_dir / EXPORT).rglob("variables.data*")):
        found[str(path.relative_to(run_dir))] = np.frombuffer(
            path.read_bytes(), np.uint8
        )
    return found


def differences(whole: Path, killed: Path) -> list[str]:
    """Names of what differs between the runs in two directories."""
    found = []
    for path in sorted(whole.rglob(CHECKPOINTS)):  # A benchmark has several runs.
        place = path.parent.relative_to(whole)
        one, other = results(whole / place), results(killed / place)
        if one.keys() != other.keys():
            found.append(f"{place}: {sorted(one.keys() ^ other.keys())}")
            continue
        found += [
            f"{place}: {name}"
            for name in one
            if not np.array_equal(one[name], other[name])
        ]
    return found


def kill_again_and_again(
    name: str, directory: Path, kills: int, random: np.random.Generator
) -> dict[str, Any]:
    """Kills a workload so many times; returns what came of it."""
    command, whole = WORKLOADS[name], directory / name / "whole"
    alone = command(whole, float("inf"))
    if alone.status != 0:
        raise SystemExit(f"{name}: {(whole / 'log.txt').read_text()[-2000:]}")
    done, finished, lost, different = 0, 0, 0, 0
    while done < kills:
        killed = directory / name / f"killed{finished + lost}"
        while True:
            limit = LONGER * random.uniform() * alone.seconds
            outcome = command(killed, limit if done < kills else float("inf"))
            if outcome.status is not None:
                break
            done += 1
        if outcome.status:
            lost += 1
            print(f"{name}: lost after {done} kills, status {outcome.status}:")
            print((killed / "log.txt").read_text()[-2000:], flush=True)
            continue
        finished += 1
        if found := differences(whole, killed):
            different += 1
            print(f"{name}: differs in {', '.join(found[:5])}", flush=True)
        shutil.rmtree(killed)
    return {
        "seconds": round(alone.seconds, 1),
        "kills": done,
        "finished": finished,
        "lost": lost,
        "different": different,
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=positive(int), default=300, help="in all")
    parser.add_argument(
        "--workloads", type=names(WORKLOADS), default=list(WORKLOADS), help="which"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--directory", type=Path, help="for the runs; default: none")
    parser.add_argument("--json", type=output_file, help="where the table goes, too")
    options = parser.parse_args()
    load_tensorflow()
    from acktr_tf.training import loop  # noqa: F401  # What the forks need, loaded once.

    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        table = {
            name: kill_again_and_again(
                name, directory, -(-options.kills // len(options.workloads)), random
            )
            for name in options.workloads
        }
    print("| workload | s, whole run | kills | finished | lost | not the same |")
    print("|---|---|---|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(str(value) for value in row.values())} |")
    if options.json:
        document = {"machine": machine(), "seed": options.seed, "workloads": table}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if any(row["lost"] or row["different"] for row in table.values()):
        raise SystemExit("Runs were lost or ended differently.")


if __name__ == "__main__":
    main()
