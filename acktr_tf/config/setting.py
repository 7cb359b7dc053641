"""One setting, of a run or of a command: what it accepts, and what is said of it."""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any

from acktr_tf.errors import UserError

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one setting beside its name, type and default.

    Attributes:
      group: Heading under which `--help` shows it.
      help: What it does, in a sentence or two.
      unit: Unit of the value, empty if it has none.
      source: Where the default comes from.
      low: Lowest accepted value, or None.
      high: Highest accepted value, or None.
      exclusive_low: Whether `low` itself is refused.
      exclusive_high: Whether `high` itself is refused.
      also: A value with a meaning of its own that is accepted outside the range.
      choices: Accepted values, or empty for any.
      resumable: Whether a continued run may have another value than it was started
        with, because the value does not change what is learnt.
    """

    group: str
    help: str
    unit: str = ""
    source: str = ""
    low: float | None = None
    high: float | None = None
    exclusive_low: bool = False
    exclusive_high: bool = False
    also: float | None = None
    choices: tuple[str, ...] = ()
    resumable: bool = False

    def accepted(self, noun: str = "") -> str:
        """The accepted values in words, for error messages and the documentation.

        Args:
          noun: What the value is, to stand before its bounds: `a number`.
        """
        if self.choices:
            return "one of " + ", ".join(self.choices)
        bounds = []
        if self.low is not None:
            bounds.append(f"{'>' if self.exclusive_low else '>='} {self.low:g}")
        if self.high is not None:
            bounds.append(f"{'<' if self.exclusive_high else '<='} {self.high:.10g}")
        accepted = f"{noun} {' and '.join(bounds)}".strip()
        return accepted if self.also is None else f"{self.also:g}, or {accepted}"

    def accepts(self, value: Any) -> bool:
        """Whether `value`, already of the setting's type, is in range."""
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float):
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.also is not None and value == self.also:
            return True
        if self.low is not None and (
            value < self.low or (self.exclusive_low and value == self.low)
        ):
            return False
        return not (
            self.high is not None
            and (value > self.high or (self.exclusive_high and value == self.high))
        )


def closest(name: str, accepted: Sequence[str]) -> str:
    """` Did you mean a, b?` for the accepted names most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, accepted, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(matches)}?" if matches else ""


def described(setting: Setting, kind: type) -> str:
    """What a setting of type `kind` accepts, in words: `an integer >= 1`."""
    return setting.accepted(_KINDS[kind])


def checked(name: str, value: Any, setting: Setting, kind: type) -> Any:
    """`value` as `kind`, if it is of that type and in the range of `setting`.

    An int is taken for a float; nothing else is converted.

    Raises:
      UserError: The type is wrong or the value is out of range; the message names the
        setting, what is accepted and what was received.
    """
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            converted: Any = float(value)
        except OverflowError:
            converted = None
    else:
        converted = value if type(value) is kind else None
    if converted is None or not setting.accepts(converted):
        raise UserError(
            f"`{name}` must be {described(setting, kind)}. Received: {name}={value!r}"
        )
    return converted
