"""Progress of a run on a terminal, or in the lines of a log."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from acktr_tf.runs.files import reason

KL_BOUNDS = {
    "exact_kl": {"target_kl": "target", "max_kl": "max"},
    "predicted_kl": {"kl_radius": "radius"},
}
"""KL of a step → scalars that bound it, by the word that they are shown with."""


class ProgressBar:
    """Progress of a run on stderr: a bar on a terminal, else a plain line at times.

    Args:
      total_steps: Agent steps of the whole run, in whole updates.
      step: Agent steps done before, by the run that is continued.
      enabled: Whether to show anything but the lines given to `write`.

    Attributes:
      fault: Why stderr could not be written, in a sentence, or empty.
    """

    _PLAIN_PERIOD = 10.0  # seconds between two plain lines
    _FALLBACK_SIZE = (100, 24)  # of a terminal that does not say its size

    def __init__(self, total_steps: int, step: int, enabled: bool) -> None:
        self._total_steps = total_steps
        self._first_step = self._step = step
        self.fault = ""
        self._values: dict[str, float] = {}
        self._started = time.monotonic()
        self._next_line = self._started
        self._bar: tqdm[Any] | None = None
        self._plain = enabled and not sys.stderr.isatty()
        if enabled and not self._plain:
            sized = _has_size(sys.stderr)
            columns, rows = (None, None) if sized else self._FALLBACK_SIZE
            self._bar = tqdm(
                total=total_steps,
                initial=step,
                file=sys.stderr,
                dynamic_ncols=sized,
                ncols=columns,
                nrows=rows,
                unit=" steps",
                bar_format=(
                    "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
                    " [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
                ),
            )

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves on to `step`.

        Args:
          step: Agent steps of the run so far.
          values: Scalars by name. Those that are shown and left out keep their last
            value.
        """
        self._step = step
        self._values.update(values)
        if self._bar is not None:
            with self._noted_faults():
                self._bar.set_postfix_str(self._scores(), refresh=False)
                self._bar.update(step - self._bar.n)
        elif self._plain and time.monotonic() >= self._next_line:
            self._print_line()

    def write(self, line: str) -> None:
        """Prints a line on stderr, above the bar if there is one."""
        with self._noted_faults():
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the last state on the screen; safe to call twice."""
        if self._bar is not None:
            with self._noted_faults():
                self._bar.close()
        elif self._plain and self._step > self._first_step:
            self._print_line()
        self._bar, self._plain = None, False

    @contextlib.contextmanager
    def _noted_faults(self) -> Iterator[None]:
        """Keeps a stream that cannot be written from stopping an update halfway."""
        try:
            yield
        # ValueError: the stream is closed.
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            self.fault = self.fault or f"Standard error cannot be written: {why}"

    def _print_line(self) -> None:
        now = time.monotonic()
        self._next_line = now + self._PLAIN_PERIOD
        rate = (self._step - self._first_step) / max(now - self._started, 1e-9)
        left = (self._total_steps - self._step) / rate if rate else math.inf
        self.write(
            f"{self._step}/{self._total_steps} steps "
            f"({100 * self._step / self._total_steps:.0f}%), "
            f"{rate:.0f} steps/s, "
            f"{tqdm.format_interval(left) if math.isfinite(left) else '?'} left, "
            f"{self._scores()}"
        )

    def _scores(self) -> str:
        score = self._values.get("episode_return", math.nan)
        texts = [f"return {score:.1f}" if math.isfinite(score) else "return -"]
        texts += self._kl()
        return ", ".join(texts)

    def _kl(self) -> list[str]:
        """Returns the KL of the last step and its bounds, as far as the run has them.

        That is the exact KL, unless only the predicted one is bounded.
        """
        finite = {n: v for n, v in self._values.items() if math.isfinite(v)}
        for kl, bounds in KL_BOUNDS.items():
            known = [
                f"{word} {finite[n]:.2g}" for n, word in bounds.items() if n in finite
            ]
            if kl in self._values and known:
                name = "predicted KL" if kl == "predicted_kl" else "KL"
                return [f"{name} {self._values[kl]:.2g} ({', '.join(known)})"]
        if "exact_kl" in self._values:
            return [f"KL {self._values['exact_kl']:.2g}"]
        return []


def _has_size(terminal: TextIO) -> bool:
    try:
        return os.get_terminal_size(terminal.fileno()).columns > 0
    except OSError:
        return False
