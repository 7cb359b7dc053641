"""Threads of linear algebra on the host."""

import contextlib
import functools
import threading
from collections.abc import Iterator

import scipy.linalg  # noqa: F401  # Loads the BLAS whose threads are limited here.
from threadpoolctl import ThreadpoolController

SERIAL_SIZE = 1024
"""Smallest number of rows of a matrix for which several threads are used."""

_lock = threading.Lock()


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Limits BLAS to one thread if matrices are small, for one caller at a time.

    OpenBLAS threads spin for about 20 ms after each call and compete with TensorFlow's.
    The limit is one of the process. If calls overlapped, the last one to leave would
    restore the limit of the first one; so they take turns.

    Args:
      size: Number of rows of the matrices.
    """
    if size >= SERIAL_SIZE:
        yield
        return
    with _lock, _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
