"""Environments in processes of their own, and how those are stopped."""

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
"""How long an environment has to close before its process is killed."""

STOPPING_SECONDS = 60
"""How long a process goes on after a SIGTERM, for what started it to save and close."""


def start_method() -> str:
    """How processes are started to which nothing of this one comes along."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


class Undisturbed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Leaves signals to the process that the environments were started by.

    A terminal sends Ctrl-C, and a job scheduler SIGTERM, to every process of a job. The
    one that trains finishes its update and saves, for which it needs the environments.
    In theirs SIGINT is ignored from the first reset on, and SIGTERM ends them
    `STOPPING_SECONDS` later.

    Args:
      env: The environment.
      starter: That process' id. Gymnasium makes an environment there, too.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], starter: int) -> None:
        super().__init__(env)
        self._disturbed = os.getpid() != starter

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        # Not before: whoever is stopped while it makes environments waits for none.
        if self._disturbed:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _end_later)
            self._disturbed = False
        return self.env.reset(**options)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(STOPPING_SECONDS)  # Whose default is to end the process.


def close_processes(vector: Any) -> None:
    """Closes environments whatever became of their processes.

    One that has died, or is busy for longer than `CLOSING_SECONDS`, holds nothing up;
    Gymnasium's own `close` raises for the first and waits for the second.

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
        _read_to_the_end(pipe, deadline)
        pipe.close()
    for process in vector.processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    vector.closed = True


def _read_to_the_end(pipe: Connection, deadline: float) -> None:
    """Until the process at the other end has ended, or the time is up.

    Python is told of the end by the process that started it, which a SIGTERM to all
    ends at once; a pipe needs nobody.
    """
    with contextlib.suppress(OSError, EOFError):
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            pipe.recv()
