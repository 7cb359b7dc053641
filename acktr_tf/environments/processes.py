"""Environments in processes of their own: signals, and closing."""

import contextlib
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import gymnasium

CLOSING_SECONDS = 10.0
"""Time that an environment has to close before its process is killed."""

ENDING_SECONDS = 0.2
"""Time in which a process that has closed its pipe is seen to have ended."""

STOPPING_SECONDS = 60
"""Time that a process goes on after a SIGTERM, so that the run can save and close."""


def start_method() -> str:
    """Returns a start method that passes nothing of this process on."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


class DeferSignals(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Leaves signals to the process that the environments were started by.

    A terminal sends Ctrl-C, and a job scheduler SIGTERM, to every process of a job. The
    training process finishes its update and saves, for which it needs the environments.
    From the first reset on, the environment's process ignores SIGINT, and ends
    `STOPPING_SECONDS` after a SIGTERM.

    Args:
      env: The environment.
      starter: Id of the process that starts the others. Gymnasium makes an environment
        there, too.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], starter: int) -> None:
        super().__init__(env)
        self._defers = os.getpid() != starter

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        # Not before: whoever is stopped while it makes environments waits for none.
        if self._defers:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _end_later)
            self._defers = False
        return self.env.reset(**options)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(STOPPING_SECONDS)  # By default SIGALRM ends the process.


def close_processes(vector: Any) -> None:
    """Closes environments whatever became of their processes.

    A process that has died, or is busy for longer than `CLOSING_SECONDS`, holds nothing
    up; Gymnasium's own `close` raises for the first and waits for the second.

    Args:
      vector: A `gymnasium.vector.AsyncVectorEnv`.
    """
    if vector.closed:
        return
    pipes = [pipe for pipe in vector.parent_pipes if pipe is not None]
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send(("close", None))
    deadline = time.monotonic() + CLOSING_SECONDS
    for pipe in pipes:
        _read_until_end(pipe, deadline)
        pipe.close()
    for process in vector.processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    vector.closed = True


def ended_process(vector: Any) -> str:
    """Returns what became of an environment's process that no longer answers.

    Args:
      vector: A `gymnasium.vector.AsyncVectorEnv`.
    """
    for number, process in enumerate(vector.processes):
        process.join(ENDING_SECONDS)
        if process.exitcode is None:
            continue
        if process.exitcode < 0:
            how = f"killed by {signal.Signals(-process.exitcode).name}"
        else:
            how = f"exit status {process.exitcode}"
        return f"the process of environment {number} has ended ({how})"
    return "the process of an environment does not answer any more"


def _read_until_end(pipe: Connection, deadline: float) -> None:
    """Reads a pipe until the process at the other end has ended, or the time is up.

    The fork server tells Python that a process has ended, and a SIGTERM to all ends the
    fork server at once; a pipe needs no other process.
    """
    with contextlib.suppress(OSError, EOFError):
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            pipe.recv()
