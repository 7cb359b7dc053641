"""Stopping on request: a signal lets the update end, a second one does not wait."""

import contextlib
import signal
import sys
from types import FrameType, TracebackType
from typing import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Inside the `with` block, remembers the first SIGINT or SIGTERM.

    A second one raises KeyboardInterrupt where the program stands. The handlers of
    before are put back at the end of the block.

    Attributes:
      signal: The signal received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._previous = {s: signal.signal(s, self._receive) for s in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for received, handler in self._previous.items():
            signal.signal(received, handler)

    @property
    def exit_status(self) -> int:
        """What a shell calls a process that the signal ended: 128 and its number."""
        return 0 if self.signal is None else 128 + int(self.signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        # What is said here must not stop the run in a way of its own: standard error
        # may be closed, full, or just being written.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            print(
                f"\n{self.signal.name}: finishing the update, then saving. "
                "Once more stops at once.",
                file=sys.stderr,
                flush=True,
            )
