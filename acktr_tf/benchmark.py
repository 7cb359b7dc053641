"""Command: train and score algorithms on a suite of tasks, over several seeds.

python -m acktr_tf.benchmark --suite=mujoco8 --seeds=5 --jobs=2
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl.flags import FlagValues

from acktr_tf.cli.command import run_command
from acktr_tf.cli.flag_files import presets
from acktr_tf.cli.flags import config_from, define
from acktr_tf.cli.streams import tell
from acktr_tf.config import Config, Settings, differences, setting
from acktr_tf.errors import UserError
from acktr_tf.runs.files import read_json
from acktr_tf.runs.locks import exclusive_lock
from acktr_tf.suites.jobs import (
    FINISHED,
    OUTCOME,
    Job,
    Outcome,
    cores,
    is_complete,
    read_outcome,
    run_jobs,
)
from acktr_tf.suites.suite import SUFFIX, Suite, find_suite, read_suite
from acktr_tf.training.stopping import StopRequest

PROGRAM = "acktr_tf.benchmark"
SUMMARY = (
    "Trains each algorithm of a suite on each of its tasks with several seeds, scores "
    "the policies, and writes a report. Given the directory of a benchmark that was "
    "stopped, continues it."
)

_LARGEST_SEED = 2**31 - 1
_CONFIG_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings(Settings):
    """Flags of the command."""

    heading = "Benchmark"

    suite: str | None = setting(
        None,
        f"Suite file, looked up like a flag file; {SUFFIX} may be left out.",
        none="none",
    )
    seeds: int = setting(5, "Seeds of each task and algorithm.", low=1)
    first_seed: int = setting(0, "The first of them.", low=0, high=_LARGEST_SEED)
    jobs: int | None = setting(
        None,
        "Runs at the same time, which share the cores; auto takes as many as there "
        "are cores.",
        low=1,
        none="auto",
    )
    directory: str | None = setting(
        None,
        "Directory that everything is kept in; auto takes runs/benchmark-<suite>.",
        none="auto",
    )
    games: int = setting(
        100,
        "Whole games of the evaluation of each final policy; 0 for no evaluation.",
        unit="games",
        low=0,
    )
    report: bool = setting(False, "Run nothing; write the report from what is there.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `acktr_tf.cli.command.run_command` for the exit status.

    It is 1, too, if a run crashed, and 130 or 143 if a signal stopped the benchmark.

    Args:
      argv: Command line without the program; None takes that of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "-m", PROGRAM, *arguments])
    return run_command(
        PROGRAM,
        SUMMARY,
        lambda values, _: define_flags(values),
        lambda values: benchmark(values, command),
        arguments,
    )


def define_flags(values: FlagValues) -> None:
    """Defines the flags of the command."""
    known = ", ".join(path.name.removesuffix(SUFFIX) for path in presets(SUFFIX))
    suite, *others = BenchmarkSettings().entries()
    text = f"{suite.setting.help} The package has {known or 'none'}."
    about = dataclasses.replace(suite.setting, help=text)
    define(values, [suite._replace(setting=about), *others])


def benchmark(values: FlagValues, command: str) -> int:
    """Runs or continues the benchmark that the flags name, and writes its report.

    Args:
      values: The flags.
      command: Command line that the user typed.
    """
    if not values.suite:
        raise UserError("--suite must be given: --suite=<name or file>.")
    suite = read_suite(find_suite(values.suite))
    directory = Path(values.directory or f"runs/benchmark-{suite.name}").expanduser()
    seeds = range(values.first_seed, values.first_seed + values.seeds)
    if values.report:
        if not directory.is_dir():
            raise UserError(f"There is no benchmark in {directory}.")
        check_settings(all_jobs(suite, directory, ()))
        _report(suite, directory, ())
        tell(f"The report is {directory / 'report.md'}.")
        return 0
    refusal = (
        f"Another benchmark runs in {directory}. Wait for it, stop it, or give another "
        "--directory."
    )
    with exclusive_lock(directory, refusal):
        check_settings(all_jobs(suite, directory, seeds))
        jobs = make_jobs(suite, directory, seeds)
        at_once = values.jobs or cores()
        return _run(suite, directory, jobs, at_once, values.games, command)


def _run(
    suite: Suite,
    directory: Path,
    jobs: Sequence[Job],
    at_once: int,
    games: int,
    command: str,
) -> int:
    from acktr_tf.suites.results import read_run

    seeds = sorted({job.seed for job in jobs})
    left = [job for job in jobs if not is_complete(job, games)]
    done = len(jobs) - len(left)
    failed = False

    def on_complete(job: Job, problem: str) -> None:
        nonlocal done, failed
        done += 1
        failed |= bool(problem)
        run = read_run(job)
        texts = [problem] if problem else []
        if run.status == FINISHED:
            score = f"{run.last_100_mean:.1f}" if run.counts else "no episode ended"
            texts.insert(0, f"{score} ({run.seconds:.0f} s)")
        tell(f"[{done}/{len(jobs)}] {job.name}: {', '.join(texts)}")
        _report(suite, directory, seeds)

    with StopRequest() as stop:
        run_jobs(left, at_once=at_once, games=games, stop=stop, on_complete=on_complete)
        _report(suite, directory, seeds)
    if stop.signal is not None:
        finished = sum(is_complete(job, games) for job in jobs)
        tell(
            f"Stopped: {finished} of {len(jobs)} runs are finished. To continue: "
            f"{command}",
            sys.stderr,
        )
        return stop.exit_status
    tell(f"The report is {directory / 'report.md'}.", sys.stderr)
    return int(failed)


# The runs ---------------------------------------------------------------------------
def make_jobs(suite: Suite, directory: Path, seeds: Iterable[int]) -> list[Job]:
    """Returns the runs of a benchmark in the order in which they are started.

    All tasks and algorithms come with one seed before they come with the next, so that
    a benchmark that is stopped is fair to all.
    """
    return [
        Job(
            task,
            algorithm,
            seed,
            directory / task / algorithm / str(seed),
            [*algorithm_flags, *suite.flags, *task_flags],
            suite.greedy,
        )
        for seed in seeds
        for task, task_flags in suite.tasks.items()
        for algorithm, algorithm_flags in suite.algorithms.items()
    ]


def all_jobs(suite: Suite, directory: Path, seeds: Iterable[int]) -> list[Job]:
    """Returns the runs with `seeds` and those of other seeds in the directory."""
    jobs = make_jobs(suite, directory, seeds)
    given = {job.seed for job in jobs}
    for job in make_jobs(suite, directory, [0]):
        for path in job.directory.parent.glob(f"*/{OUTCOME}"):
            name = path.parent.name
            if name.isdecimal() and str(int(name)) == name and int(name) not in given:
                jobs.append(job._replace(seed=int(name), directory=path.parent))
    return jobs


def _report(suite: Suite, directory: Path, seeds: Iterable[int]) -> None:
    # Imports NumPy, so only here: --help and a wrong flag answer at once.
    from acktr_tf.suites.report import write_report
    from acktr_tf.suites.results import read_run

    jobs = all_jobs(suite, directory, seeds)
    write_report(directory, suite, [read_run(job) for job in jobs])


# Settings ---------------------------------------------------------------------------
def check_settings(jobs: Iterable[Job]) -> None:
    """Refuses flags that cannot be, and runs that were started with other settings.

    Raises:
      UserError: Of the first such run; nothing was changed.
    """
    for job in jobs:
        try:
            config = config_from(job.arguments)
        except UserError as error:
            raise UserError(f"{job.task}, {job.algorithm}: {error}") from error
        if changed := _changes(job, config):
            raise UserError(
                f"{job.name} was run with other settings: {'; '.join(changed)}. Give "
                f"the suite its flags of then, give another --directory, or delete "
                f"{job.directory} to run it anew."
            )


def _changes(job: Job, config: Config) -> list[str]:
    """Returns the differences between a run and its job."""
    path = job.run_dir / _CONFIG_FILE
    try:
        recorded = read_json(path)["settings"]
        return differences(Config.from_dict(dict(recorded)), config)
    except FileNotFoundError:
        outcome = read_outcome(job.directory)
        if outcome is None or outcome.status != FINISHED:
            return []  # It never began: there is nothing to be continued.
        return _changed_flags(job, outcome)
    except (OSError, KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path} is damaged, or of another version: {error}") from error


def _changed_flags(job: Job, outcome: Outcome) -> list[str]:
    """Returns the flags in which a finished run without its settings differs."""
    own = ("--seed=", "--run_dir=", "--noprogress_bar")
    before = [flag for flag in outcome.command[3:] if not flag.startswith(own)]
    gone = [f"started with {flag}" for flag in before if flag not in job.flags]
    return gone + [f"now {flag}" for flag in job.flags if flag not in before]


if __name__ == "__main__":
    sys.exit(main())
