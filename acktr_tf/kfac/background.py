"""Inversion in a background thread while training goes on."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from acktr_tf.kfac.linalg import Array


class BackgroundInverter:
    """Inverts the queued factors in a thread and returns the inverses one swap later.

    An inverse is returned exactly one swap after its factors were queued, however long
    the inversion took: results do not depend on the clock.

    Args:
      invert: Function of the factors that is called in the thread.
    """

    def __init__(self, invert: Callable[[Sequence[Array]], list[Array]]) -> None:
        self._invert = invert
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kfac-inverses")
        self._running: tuple[list[Array], Future[list[Array]]] | None = None

    def swap(self, *arrays: Array) -> list[Array]:
        """Waits for the inverses of the queued factors and starts on the new factors.

        Args:
          *arrays: The factors that were queued by the previous swap, then as many new
            ones. If the thread is not at work on the queued factors, as after a
            checkpoint was restored, they are inverted here and now.

        Returns:
          The inverses of the queued factors.
        """
        half = len(arrays) // 2
        queued, new = arrays[:half], arrays[half:]
        if self._running and all(map(np.array_equal, self._running[0], queued)):
            inverses = self._running[1].result()
        else:
            inverses = self._invert(queued)
        # TensorFlow's buffers are gone when this returns.
        kept = [np.asarray(array).copy() for array in new]
        self._running = (kept, self._pool.submit(self._invert, kept))
        return inverses
