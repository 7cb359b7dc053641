"""Faults of an environment's own code, in one line that says where they arose."""

import contextlib
import os
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

_LIBRARIES = tuple(
    f"{path}{os.sep}"
    for path in (
        Path(gymnasium.__file__).parent,
        Path(np.__file__).parent,
        Path(__file__).resolve().parents[1],
    )
)
_PYTHON = f"{sysconfig.get_path('stdlib')}{os.sep}"
_INSTALLED = tuple(
    f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib")
)
_LONGEST = 80  # Characters of a value in a message.


class SimulatorError(Exception):
    """Fault of an environment, in one line.

    It has one argument, the line, so that it passes from process to process.
    """


class DrawingError(SimulatorError):
    """`render` raised an exception."""


class PictureError(SimulatorError):
    """`render` returned something that is no picture."""


def describe(error: BaseException) -> str:
    """Returns an exception as one line: its type, its text and its place.

    The place is the last line of the environment's own code on the way to the error:
    not of Gymnasium, NumPy, Python's library or this package. An error without a text
    is shown by the statement in that place.
    """
    text = _text(error)
    if isinstance(error, SimulatorError):
        return text
    name, place = type(error).__name__, _place(error)
    if not text and place:
        text = place.line or ""
    shown = f"{name}: {text}" if text else name
    return f"{shown} ({_shown_path(place)}, line {place.lineno})" if place else shown


def shown(value: Any) -> str:
    """Returns a value that an environment returned, in words."""
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, tuple | list) and len(value) > 1:
        return f"a {name} of {len(value)} values"
    try:
        text = " ".join(repr(value).split())
    # Whatever the representation of an object of the user's own raises.
    except Exception:
        return f"a {name}"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{text} ({name})"


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    # An error of the user's own may fail to say what it is.
    except Exception:
        return ""


def _place(error: BaseException) -> traceback.FrameSummary | None:
    """Returns the last frame of the environment's own code, or None."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if not _is_library(frame.filename):
                return frame
        # Gymnasium raises some errors anew.
        seen = seen.__cause__
    return None


def _is_library(path: str) -> bool:
    if path.startswith(("<", *_LIBRARIES)):
        return True
    return path.startswith(_PYTHON) and not path.startswith(_INSTALLED)


def _shown_path(place: traceback.FrameSummary) -> str:
    """Returns the file of a frame, from the working directory if it lies below it."""
    here = ""
    with contextlib.suppress(OSError):  # It may have been deleted.
        here = f"{os.getcwd()}{os.sep}"
    return place.filename.removeprefix(here)
