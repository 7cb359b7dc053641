"""Places that tests look things up in."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
