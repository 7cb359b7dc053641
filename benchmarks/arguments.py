"""Flags that benchmarks have in common."""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)


def names(known: Iterable[str], separator: str = ",") -> Callable[[str], list[str]]:
    """A type of argparse: several names, all of them known."""
    accepted = list(known)

    def parse(text: str) -> list[str]:
        received = text.split(separator)
        if unknown := [name for name in received if name not in accepted]:
            raise argparse.ArgumentTypeError(
                f"must be among {separator.join(accepted)}. "
                f"Received: {separator.join(unknown)}"
            )
        return received

    return parse


def positive(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """A type of argparse: a number above 0, by `int` or `float`."""

    def parse(text: str) -> Number:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"must be above 0. Received: {text}")
        return number

    parse.__name__ = getattr(kind, "__name__", "number")
    return parse


def at_least(least: int) -> Callable[[str], int]:
    """A type of argparse: an integer that is not less."""

    def integer(text: str) -> int:
        if (number := int(text)) < least:
            raise argparse.ArgumentTypeError(
                f"must be at least {least}. Received: {text}"
            )
        return number

    return integer


def output_file(text: str) -> Path:
    """A type of argparse: a file that can be written, known before anything is run."""
    path = Path(text)
    place = path if path.exists() else path.parent
    if path.is_dir() or not os.access(place, os.W_OK):
        raise argparse.ArgumentTypeError(
            f"must be a file that can be written. Received: {text}"
        )
    return path
