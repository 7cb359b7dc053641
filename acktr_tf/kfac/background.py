"""Inversion in a thread of its own, while training goes on."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from acktr_tf.kfac.linalg import Array


class BackgroundSolver:
    """Solves one problem at a time, and hands its solution out when the next comes.

    So a solution comes out exactly one exchange after its problem went in, however long
    it took: results depend on no clock, and are never older than that.

    Args:
      solve: Called in a thread.
    """

    def __init__(self, solve: Callable[[Sequence[Array]], list[Array]]) -> None:
        self._solve = solve
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kfac-inverses")
        self._under_way: tuple[list[Array], Future[list[Array]]] | None = None

    def exchange(self, *arrays: Array) -> list[Array]:
        """Waits for the problem of the time before, and begins the next.

        Args:
          *arrays: The problem of the time before, then the new one. If the thread is
            not at work on the former, as after a checkpoint was restored, that is
            solved here and now.

        Returns:
          The solution of the former.
        """
        half = len(arrays) // 2
        posed, new = arrays[:half], arrays[half:]
        if self._under_way and all(map(np.array_equal, self._under_way[0], posed)):
            solution = self._under_way[1].result()
        else:
            solution = self._solve(posed)
        # TensorFlow's buffers are gone when this returns.
        kept = [np.asarray(array).copy() for array in new]
        self._under_way = (kept, self._pool.submit(self._solve, kept))
        return solution
