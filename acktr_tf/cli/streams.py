"""Standard output and standard error: closed, full, or read by nobody any more."""

import contextlib
import os
import select
import sys
from typing import TextIO

from acktr_tf.errors import RunError, UserError
from acktr_tf.runs.files import reason


def check_streams() -> None:
    """Refuses to begin without a place to write to.

    Raises:
      UserError: Standard output or standard error is closed.
    """
    for name, stream in _streams().items():
        if stream is None:
            raise UserError(
                f"{name} is closed, so that the next file opened would take its place. "
                "Give it a file, or /dev/null."
            )


def tell(text: str, stream: TextIO | None = None) -> None:
    """Prints what a command has to tell.

    Args:
      text: The text.
      stream: Where to; None stands for standard output.

    Raises:
      BrokenPipeError: Nobody reads it any more.
      RunError: It cannot be written (a full disk).
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(stream)
        name = "error" if stream is sys.stderr else "output"
        raise RunError(
            f"Standard {name} cannot be written: {reason(error)}."
        ) from error


def say(text: str) -> None:
    """Prints a line on standard error, or on standard output if that fails."""
    for stream in (sys.stderr, sys.stdout):
        if stream is None:
            continue
        try:
            print(text, file=stream, flush=True)
            return
        except (OSError, ValueError):
            _silence(stream)


def silence_unread() -> list[str]:
    """Finds the standard streams that nobody reads any more, and leaves them be.

    What they still hold is dropped, so that no flush at the exit fails.

    Returns:
      Their names.
    """
    unread = [
        (name, stream)
        for name, stream in _streams().items()
        if stream is not None and _is_unread(stream)
    ]
    for _, stream in unread:
        _silence(stream)
    return [name for name, _ in unread]


def _streams() -> dict[str, TextIO | None]:
    return {"Standard output": sys.stdout, "Standard error": sys.stderr}


def _is_unread(stream: TextIO) -> bool:
    """Returns whether it is a pipe that nobody reads any more."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def _silence(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
