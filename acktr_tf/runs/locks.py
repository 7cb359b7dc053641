"""Directories that one process at a time may have for its own."""

import fcntl
import os
from pathlib import Path


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
