"""Directories that one process at a time may have for its own."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from acktr_tf.errors import UserError
from acktr_tf.runs.files import not_writable


def lock(directory: Path) -> int | None:
    """Locks a directory until the descriptor that is returned is closed.

    Where the file system has no locks there is nothing to hold, and all may have it.

    Returns:
      The descriptor; None if another process has locked the directory.

    Raises:
      OSError: The directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        return descriptor  # A file system without locks.
    return descriptor


@contextlib.contextmanager
def exclusive_lock(directory: Path, refusal: str) -> Iterator[None]:
    """Holds a directory, made if need be, for this process alone.

    Args:
      directory: The directory.
      refusal: Message of the error if another process holds it.

    Raises:
      UserError: It cannot be made or opened, or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = lock(directory)
    except OSError as error:
        raise not_writable(directory, error) from error
    if descriptor is None:
        raise UserError(refusal)
    try:
        yield
    finally:
        os.close(descriptor)  # Which also unlocks it.


def is_locked(directory: Path) -> bool:
    """Returns whether a process holds a directory now."""
    if not directory.is_dir():
        return False
    descriptor = lock(directory)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None
