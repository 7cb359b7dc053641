"""How many threads linear algebra on the host gets."""

import contextlib
import functools
import threading
from collections.abc import Iterator

import scipy.linalg  # noqa: F401  # Loads the BLAS whose threads are limited here.
from threadpoolctl import ThreadpoolController

SERIAL_SIZE = 1024
"""Rows of a matrix from which on several threads are worth their cost."""

_lock = threading.Lock()


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Keeps BLAS to one thread while matrices are small, for one caller at a time.

    OpenBLAS' threads go on turning for some 20 ms after each call, on the cores that
    TensorFlow's want. The limit is the process's: of callers that overlap, the last to
    leave would take the first one's limit for what there was before.

    Args:
      size: Rows of the matrices.
    """
    if size >= SERIAL_SIZE:
        yield
        return
    with _lock, _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
