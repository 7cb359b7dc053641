"""Runs of a benchmark, each in processes of its own, and how they ended.

The directory of a run holds

    run/           the run directory of acktr_tf.launch
    log.txt        output of its processes
    outcome.json   how the training ended, and how long it took
    scores.json    scores of the final policy, by acktr_tf.evaluate --json
"""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acktr_tf.errors import RunError, UserError
from acktr_tf.runs.files import (
    SAVING,
    check_entries,
    is_number,
    is_words,
    read_json,
    reason,
    write_atomically,
)
from acktr_tf.runs.locks import is_locked
from acktr_tf.training.stopping import STOP_SIGNALS, StopRequest

RUN = "run"
LOG = "log.txt"
OUTCOME = "outcome.json"
SCORES = "scores.json"

FINISHED, CRASHED, STOPPED, STARTED = "finished", "crashed", "stopped", "started"

TRAINER = "acktr_tf.launch"
EVALUATOR = "acktr_tf.evaluate"

_POLL_SECONDS = 0.1
_MAX_MESSAGE = 300  # Characters.
# As a shell calls a process that a signal ended, and as Python does.
_STOPPED_STATUSES = {status for s in STOP_SIGNALS for status in (128 + s, -s)}
_REFUSAL = "Another process trains in"  # Words of the trainer.
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


class Job(NamedTuple):
    """Run that is to be made.

    Attributes:
      task: Name of its task.
      algorithm: Name of its algorithm.
      seed: Its seed.
      directory: Where everything about it is kept.
      flags: Flags of `acktr_tf.launch`, but for the seed and the run directory.
      greedy: Whether the final policy is evaluated by its most probable actions.
    """

    task: str
    algorithm: str
    seed: int
    directory: Path
    flags: list[str]
    greedy: bool = False

    @property
    def name(self) -> str:
        """Name of the run, for people."""
        return f"{self.task} {self.algorithm} seed {self.seed}"

    @property
    def run_dir(self) -> Path:
        """The run directory of the trainer."""
        return self.directory / RUN

    @property
    def arguments(self) -> list[str]:
        """All flags of `acktr_tf.launch`."""
        own = [f"--seed={self.seed}", f"--run_dir={self.run_dir}", "--noprogress_bar"]
        return [*self.flags, *own]

    @property
    def command(self) -> list[str]:
        """Command that trains, and continues the training."""
        return [sys.executable, "-m", TRAINER, *self.arguments]


class Outcome(NamedTuple):
    """State of the training of a run.

    Attributes:
      command: Command that was run.
      exit_status: Exit status of the last process that ended, negative if a signal
        killed it; None while there is a process that has not ended.
      seconds: Wall time of the processes that ended, from start to end.
      crash: Last line of the log of the last process that crashed, empty if none has or
        the run was finished since.
      started: Time since the epoch when the process that has not ended was started.
    """

    command: list[str]
    exit_status: int | None
    seconds: float
    crash: str = ""
    started: float | None = None

    @property
    def status(self) -> str:
        """`finished`, `crashed`, `stopped` or, of a process that lives, `started`.

        A crashed run stays `crashed` until it is finished.
        """
        if self.exit_status == 0:
            return FINISHED
        if self.crash:
            return CRASHED
        return STARTED if self.exit_status is None else STOPPED


# Files ------------------------------------------------------------------------------
def write_file(path: Path, data: bytes) -> None:
    """Writes a file, which at every instant is whole, or as it was before.

    Raises:
      RunError: It cannot be written.
    """
    with _faults(f"Cannot write {path}"):
        write_atomically(path, data)


def read_outcome(directory: Path) -> Outcome | None:
    """Reads how the run in `directory` ended; None if it was never started.

    Raises:
      UserError: The file is damaged.
    """
    path = directory / OUTCOME
    document = _read_json(path)
    if document is None:
        return None
    check_entries(path, document, _OUTCOME_ENTRIES)
    try:
        return Outcome(**document)
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def read_scores(directory: Path) -> dict[str, Any] | None:
    """Reads the scores of the final policy; None if there are none yet.

    Raises:
      UserError: The file is damaged.
    """
    path = directory / SCORES
    document = _read_json(path)
    if document is not None:
        check_entries(path, {"mean": None, **document}, {"mean": is_number})
    return document


_OUTCOME_ENTRIES = {
    "command": is_words,
    "exit_status": lambda value: value is None or type(value) is int,
    "seconds": is_number,
    "crash": lambda value: isinstance(value, str),
    "started": lambda value: value is None or is_number(value),
}
"""Entries of `outcome.json` → whether a value of one is accepted."""


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


@contextlib.contextmanager
def _faults(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{what}: {reason(error)}. The same command continues."
        ) from error


def _write_outcome(directory: Path, outcome: Outcome) -> None:
    text = json.dumps(outcome._asdict(), indent=2) + "\n"
    write_file(directory / OUTCOME, text.encode())


# Processes --------------------------------------------------------------------------
def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def child_environment(at_once: int) -> dict[str, str]:
    """Returns the environment variables of processes, with a share of the cores each.

    Args:
      at_once: Processes between which the cores are divided.
    """
    threads = str(max(1, cores() // at_once))
    return {
        **dict.fromkeys(_THREADS, threads),
        # So that the last line of a log is the last one that was written.
        "PYTHONUNBUFFERED": "1",
        **os.environ,
    }


def run_jobs(
    jobs: Sequence[Job],
    *,
    at_once: int,
    games: int,
    stop: StopRequest,
    on_complete: Callable[[Job, str], None],
) -> None:
    """Trains what is not trained, then evaluates it, in the order of `jobs`.

    After a first signal nothing is started any more, and each process gets one SIGTERM,
    so that it saves; after a second they are killed. Either way this returns when all
    have ended and their outcomes are written.

    Args:
      jobs: Runs, also those that are finished.
      at_once: Jobs under way at the same time.
      games: Games of the evaluation of each final policy; 0 for none.
      stop: Signals received.
      on_complete: Called as `on_complete(job, error)` for each job that is complete or
        failed; `error` is empty on success. It is not called for jobs that `stop` cut
        short.

    Raises:
      RunError: A file cannot be written.
    """
    environment = child_environment(at_once)
    waiting = collections.deque(jobs)
    active: list[tuple[Job, _Work, _Process]] = []
    terminated = False

    def resume(job: Job, work: _Work) -> None:
        """Goes on with a job until it has another process, or ends."""
        try:
            active.append((job, work, next(work)))
        except StopIteration as end:
            if end.value is not None:
                on_complete(job, end.value)

    def signal_all(sent: signal.Signals) -> None:
        for _, _, process in active:
            if process.poll() is None:
                # Workers of its own are in its group. SIGTERM it passes on itself.
                kill = os.killpg if sent is signal.SIGKILL else os.kill
                kill(process.pid, sent)

    try:
        while True:
            while waiting and len(active) < at_once and stop.signal is None:
                job = waiting.popleft()
                resume(job, _work(job, games, environment, stop))
            if stop.signal is not None and not terminated:
                terminated = True
                signal_all(signal.SIGTERM)
            if not active:
                return
            time.sleep(_POLL_SECONDS)
            for entry in [each for each in active if each[2].poll() is not None]:
                active.remove(entry)
                resume(*entry[:2])
    except KeyboardInterrupt:
        signal_all(signal.SIGKILL)
        for job, work, process in active[:]:
            process.wait()
            resume(job, work)
    except BaseException:
        # Whatever it is, no process is left on its own.
        if not terminated:
            signal_all(signal.SIGTERM)
        try:
            for _, _, process in active:
                process.wait()
        except KeyboardInterrupt:
            signal_all(signal.SIGKILL)
        raise


_Process = subprocess.Popen[bytes]

_Work = Generator[_Process, None, str | None]
"""Yields a process, and goes on when that has ended. Returns what went wrong, empty if
nothing did, or None if the job was cut short."""


def _work(
    job: Job, games: int, environment: Mapping[str, str], stop: StopRequest
) -> _Work:
    outcome = read_outcome(job.directory)
    if outcome is None or outcome.status != FINISHED:
        if is_locked(job.run_dir):
            # Its benchmark was killed. Nothing here is touched: it may yet finish.
            return "stopped: another process still trains in it"
        outcome, problem = yield from _train(job, outcome, environment, stop)
        if outcome.status != FINISHED:
            return problem
    if not needs_evaluation(job, games):
        return ""
    if stop.signal is not None:
        return None
    return (yield from _evaluate(job, games, environment, stop))


def needs_evaluation(job: Job, games: int) -> bool:
    """Returns whether the final policy has yet to be scored over so many games."""
    if not games:
        return False
    scores = read_scores(job.directory) or {}
    actions = "greedy" if job.greedy else "sampled"
    return (scores.get("games"), scores.get("actions")) != (games, actions)


def is_complete(job: Job, games: int) -> bool:
    """Returns whether a job is trained, and scored over so many games."""
    outcome = read_outcome(job.directory)
    finished = outcome is not None and outcome.status == FINISHED
    return finished and not needs_evaluation(job, games)


def _train(
    job: Job,
    before: Outcome | None,
    environment: Mapping[str, str],
    stop: StopRequest,
) -> Generator[_Process, None, tuple[Outcome, str | None]]:
    with _faults(f"Cannot make {job.directory}"):
        job.directory.mkdir(parents=True, exist_ok=True)
    crash = before.crash if before else ""
    seconds = _seconds(job, before) if before else 0.0
    _write_outcome(
        job.directory, Outcome(job.command, None, seconds, crash, time.time())
    )
    started = time.monotonic()
    with _faults(f"Cannot start {job.name}"), _logged(job) as (log, read_new):
        process = _start(job.command, environment, log, log)
    yield process
    seconds += time.monotonic() - started
    status: int = process.returncode
    killed = status == -signal.SIGKILL and stop.signal is not None
    problem: str | None = ""
    if status == 0:
        crash = ""
    elif status in _STOPPED_STATUSES or killed:
        problem = "stopped" if stop.signal is None else None
    elif _REFUSAL in (line := _last_line(read_new(), status)):
        problem = "stopped: another process still trains in it"
    else:
        crash = line
        problem = f"crashed: {crash}"
    outcome = Outcome(job.command, status, round(seconds, 3), crash)
    _write_outcome(job.directory, outcome)
    return outcome, problem


def _evaluate(
    job: Job, games: int, environment: Mapping[str, str], stop: StopRequest
) -> _Work:
    command = [sys.executable, "-m", EVALUATOR, f"--run_dir={job.run_dir}"]
    command += ["--json", f"--games={games}", f"--greedy={str(job.greedy).lower()}"]
    saving = job.directory / f"{SAVING}evaluation"
    with (
        _faults(f"Cannot evaluate {job.name}"),
        _logged(job) as (log, read_new),
        saving.open("wb") as output,
    ):
        process = _start(command, environment, output, log)
    yield process
    status: int = process.returncode
    try:
        if status == 0:
            data = saving.read_bytes()
            try:
                json.loads(data)
            except ValueError as error:
                return f"evaluation crashed: its output is not JSON: {error}"
            write_file(job.directory / SCORES, data)
            return ""
    finally:
        saving.unlink()
    if stop.signal is not None:
        return None
    return f"evaluation crashed: {_last_line(read_new(), status)}"


def _start(
    command: Sequence[str], environment: Mapping[str, str], output: Any, errors: Any
) -> _Process:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        # The terminal's Ctrl-C is for the benchmark, which passes it on.
        start_new_session=True,
    )


@contextlib.contextmanager
def _logged(job: Job) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Opens the log of a job, to append to, and makes what reads what was appended."""
    path = job.directory / LOG
    with path.open("ab") as log:
        length = log.tell()

        def read_new() -> str:
            with path.open("rb") as file:
                file.seek(length)
                return file.read().decode(errors="replace")

        yield log, read_new


def _last_line(text: str, status: int) -> str:
    """Returns the last line of a log, and the signal that ended its process."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else "it wrote nothing"
    if len(line) > _MAX_MESSAGE:
        line = f"{line[:_MAX_MESSAGE]} ..."
    if status < 0:
        return f"{line} (killed by {signal.Signals(-status).name})"
    return line if lines else f"{line} (exit status {status})"


def _seconds(job: Job, before: Outcome) -> float:
    """Returns the wall time of a run's earlier processes."""
    if before.started is None:
        return before.seconds
    # Nobody saw it end: it did when it last wrote something, or later.
    signs = [job.run_dir / name for name in ("episodes.csv", "checkpoints", "export")]
    signs.append(job.directory / LOG)
    written = [path.stat().st_mtime for path in signs if path.exists()]
    return before.seconds + max([0.0, *(time - before.started for time in written)])
