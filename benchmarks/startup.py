"""How long one waits: for --help, and for the first update of a run.

    python benchmarks/startup.py [--flagfile=atari.flags,mujoco.flags] [--rounds=3] \
        [--json=FILE]

Each process is timed from its start: with --help to its end; with a flag file to the
first line of the run's progress.csv, which is written when the first update is done.
Printed are seconds: the median, the least and the most of all rounds.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from arguments import output_file
from machine import machine

LAUNCH = [sys.executable, "-m", "acktr_tf.launch"]
POLL = 0.01
"""Seconds between two looks at a file."""


def seconds_of_help() -> float:
    """From the start of the process to its end."""
    before = time.perf_counter()
    subprocess.run([*LAUNCH, "--help"], check=True, capture_output=True)
    return time.perf_counter() - before


def seconds_to_first_update(flagfile: str) -> float:
    """From the start of the process to the first line of its log."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        command = [*LAUNCH, f"--flagfile={flagfile}", f"--run_dir={run_dir}"]
        command += ["--log_period=1", "--noprogress_bar"]
        progress = run_dir / "progress.csv"
        before = time.perf_counter()
        with (Path(directory) / "log.txt").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                while not has_line(progress):
                    if process.poll() is not None:
                        log.seek(0)
                        raise SystemExit(f"{shlex.join(command)}\n{log.read()[-2000:]}")
                    time.sleep(POLL)
                return time.perf_counter() - before
            finally:
                process.kill()
                process.wait()


def has_line(path: Path) -> bool:
    """Whether a CSV file has a line below its head."""
    return path.is_file() and path.read_text().count("\n") > 1


def table(document: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = document["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores:",
        "",
        "| | s, median | least | most |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {np.median(found):.2f} | {min(found):.2f} | {max(found):.2f} |"
        for name, found in document["seconds"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flagfile", default="atari.flags,mujoco.flags")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        seconds.setdefault("`--help`", []).append(seconds_of_help())
        for flagfile in arguments.flagfile.split(","):
            name = f"first update, `{flagfile}`"
            seconds.setdefault(name, []).append(seconds_to_first_update(flagfile))
    document = {"machine": machine(), "seconds": seconds}
    print(table(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
