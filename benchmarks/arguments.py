"""Flags that benchmarks have in common."""

import argparse
from collections.abc import Callable, Iterable


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
