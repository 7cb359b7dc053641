"""Shows whether a run keeps its speed and its memory: a table over its steps.

    python benchmarks/steady.py RUN_DIR [--windows=10]

Reads the run's progress.csv. Each window's speed is the steps it took over the seconds
it took; memory is the resident size of the process at its end. The last line compares
the second half with the first, the first window, which holds the compilation, left out.
"""

import argparse
import csv
from pathlib import Path

import numpy as np


def windows(path: Path, count: int) -> np.ndarray:
    """`[count, 3]`: step at the end of each window, steps a second, MiB."""
    with path.open() as file:
        rows = np.array(
            [
                [float(row[name]) for name in ("step", "seconds", "memory")]
                for row in csv.DictReader(file)
            ]
        )
    if len(rows) < 2 * count:
        raise SystemExit(f"{path} has {len(rows)} rows: too few for {count} windows.")
    ends = rows[np.linspace(0, len(rows) - 1, count + 1).round().astype(int)]
    speed = np.diff(ends[:, 0]) / np.diff(ends[:, 1])
    return np.column_stack([ends[1:, 0], speed, ends[1:, 2]])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--windows", type=int, default=10)
    arguments = parser.parse_args()
    table = windows(arguments.run_dir / "progress.csv", arguments.windows)
    print("|    step | steps/s |  MiB |\n|---|---|---|")
    for step, speed, memory in table:
        print(f"| {step:7.0f} | {speed:7.0f} | {memory:4.0f} |")
    first, second = np.array_split(table[1:], 2)
    speed, memory = second[:, 1:].mean(axis=0) / first[:, 1:].mean(axis=0)
    print(f"\nsecond half / first half: speed {speed:.3f}, memory {memory:.3f}")


if __name__ == "__main__":
    main()
