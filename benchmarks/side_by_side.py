"""ACKTR beside Stable-Baselines3's PPO and A2C and sb3-contrib's TRPO.

    python -m acktr_tf.benchmark --suite=mujoco8 --first_seed=10 --directory=DIR
    python benchmarks/side_by_side.py --suite=mujoco8 --directory=DIR \
        --python=PYTHON [--first_seed=10] [--seeds=3] [--jobs=2]

PYTHON is that of an environment of its own:

    python -m venv ENV
    ENV/bin/pip install stable-baselines3 sb3-contrib "gymnasium[mujoco]"

The runs of the others go into the benchmark's directory DIR, beside those that are
there; one that is finished is not run again. The report of all goes to
DIR/side_by_side.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from arguments import positive

from acktr_tf.benchmark import all_jobs
from acktr_tf.cli.flags import config_from
from acktr_tf.runs import locks
from acktr_tf.suites.jobs import FINISHED, Job, child_environment, read_outcome
from acktr_tf.suites.report import write_report
from acktr_tf.suites.results import read_run
from acktr_tf.suites.suite import Suite, find_suite, read_suite

OTHERS = {"PPO": "ppo", "A2C": "a2c", "TRPO": "trpo"}
WORKER = Path(__file__).with_name("sb3_run.py")


def other_jobs(
    suite: Suite, directory: Path, seeds: range, python: str
) -> list[tuple[Job, list[str]]]:
    """The runs of the others, and what runs each."""
    first = next(iter(suite.algorithms.values()))
    jobs = []
    for seed in seeds:
        for task, flags in suite.tasks.items():
            # As many steps of the same task as the suite's first algorithm.
            config = config_from([*first, *suite.flags, *flags])
            for name, algorithm in OTHERS.items():
                place = directory / task / name / str(seed)
                command = [python, str(WORKER), f"--algorithm={algorithm}"]
                command += [f"--env={config.environment.env}", f"--seed={seed}"]
                command += [f"--total_steps={config.run.total_steps}"]
                command += [f"--directory={place}"]
                jobs.append((Job(task, name, seed, place, []), command))
    return jobs


def is_finished(job: Job) -> bool:
    """Whether the run need not be made."""
    outcome = read_outcome(job.directory)
    return outcome is not None and outcome.status == FINISHED


def run_all(jobs: list[tuple[Job, list[str]]], at_once: int) -> None:
    """Makes the runs that are not finished, some at a time.

    Several processes may do so in one directory: each leaves alone what another makes.
    """
    waiting = list(jobs)
    environment = child_environment(at_once)
    active: list[tuple[Job, subprocess.Popen[bytes], int]] = []
    while waiting or active:
        while waiting and len(active) < at_once:
            job, command = waiting.pop(0)
            job.directory.mkdir(parents=True, exist_ok=True)
            if (lock := locks.lock(job.directory)) is None:
                continue
            if is_finished(job):
                os.close(lock)
                continue
            with (job.directory / "log.txt").open("ab") as log:
                process = subprocess.Popen(command, env=environment, stderr=log)
            active.append((job, process, lock))
        time.sleep(0.2)
        for entry in [each for each in active if each[1].poll() is not None]:
            active.remove(entry)
            job, process, lock = entry
            os.close(lock)
            if process.returncode:
                print(f"{job.name}: failed, see {job.directory / 'log.txt'}")
                continue
            run = read_run(job)
            print(
                f"{job.name}: {run.last_100_mean:.1f} ({run.seconds:.0f} s)", flush=True
            )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--first_seed", type=int, default=10)
    parser.add_argument("--seeds", type=positive(int), default=3)
    parser.add_argument("--jobs", type=positive(int), default=2)
    arguments = parser.parse_args()
    suite = read_suite(find_suite(arguments.suite))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    others = other_jobs(suite, arguments.directory, seeds, arguments.python)
    run_all(others, arguments.jobs)

    both = suite._replace(
        algorithms={
            **suite.algorithms,
            **{
                name: [f"benchmarks/{WORKER.name}", f"--algorithm={flag}"]
                for name, flag in OTHERS.items()
            },
        }
    )
    jobs = [*all_jobs(suite, arguments.directory, ()), *(job for job, _ in others)]
    target = arguments.directory / "side_by_side"
    target.mkdir(exist_ok=True)
    write_report(target, both, [read_run(job) for job in jobs])
    print(f"The report is {target / 'report.md'}.")


if __name__ == "__main__":
    main()
