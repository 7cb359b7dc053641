"""Shows whether a run keeps its speed and its memory: a table over its steps.

    python benchmarks/steady.py RUN_DIR [--windows=10] [--json=FILE]

Reads the run's progress.csv, on the machine that trained. Each window's speed is the
steps it took over the seconds it took; memory is the resident size of the process at
its end. The last line compares the second half with the first, the first window, which
holds the compilation, left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from arguments import output_file
from machine import machine

from acktr_tf.runs.csv_files import read_columns


def windows(path: Path, count: int) -> np.ndarray:
    """`[count, 3]`: step at the end of each window, steps a second, MiB."""
    rows = read_columns(path, ("step", "seconds", "memory"))
    if len(rows) < 2 * count:
        raise SystemExit(f"{path} has {len(rows)} rows: too few for {count} windows.")
    ends = rows[np.linspace(0, len(rows) - 1, count + 1).round().astype(int)]
    speed = np.diff(ends[:, 0]) / np.diff(ends[:, 1])
    return np.column_stack([ends[1:, 0], speed, ends[1:, 2]])


def measure(run_dir: Path, count: int) -> dict[str, Any]:
    """The windows of a run, and what run it was."""
    text = (run_dir / "config.json").read_text(encoding="utf-8")
    settings = json.loads(text)["settings"]
    return {
        "machine": machine(),
        "env": settings["env"],
        "algorithm": settings["algorithm"],
        "windows": windows(run_dir / "progress.csv", count).tolist(),
    }


def table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine, rows = document["machine"], np.array(document["windows"])
    first, second = np.array_split(rows[1:], 2)
    speed, memory = second[:, 1:].mean(axis=0) / first[:, 1:].mean(axis=0)
    lines = [
        f"{document['env']}, {document['algorithm'].upper()}, "
        f"{machine['processor']}, {machine['cores']} cores:",
        "",
        "| step | steps/s | MiB |",
        "|---|---|---|",
        *(f"| {step:,.0f} | {rate:,.0f} | {size:,.0f} |" for step, rate, size in rows),
        "",
        f"Second half over first half: speed {speed:.3f}, memory {memory:.3f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    document = measure(arguments.run_dir, arguments.windows)
    print(table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
