"""Command: train an agent, or continue a run.

python -m acktr_tf.launch --flagfile=atari.flags
"""

import datetime
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import FlagValues

from acktr_tf.backend import load_tensorflow
from acktr_tf.cli.command import run_command
from acktr_tf.cli.flags import define_settings, read_config
from acktr_tf.cli.streams import tell
from acktr_tf.config import Config, entries
from acktr_tf.config.setting import show

PROGRAM = "acktr_tf.launch"
SUMMARY = (
    "Trains an agent. Given the --run_dir of a run that was stopped, continues it."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `acktr_tf.cli.command.run_command` for the exit status.

    Args:
      argv: Command line without the program; None takes that of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def train(values: FlagValues) -> int:
        config = with_run_dir(read_config(values))
        tell(effective_settings(config))
        load_tensorflow()
        # Imports TensorFlow, so only here: --help and a wrong flag answer at once.
        from acktr_tf.training.loop import train as run

        return run(config, ["python", "-m", PROGRAM, *arguments])

    return run_command(PROGRAM, SUMMARY, define_settings, train, arguments)


def with_run_dir(config: Config) -> Config:
    """Returns `config` with a run directory: its own, or a new name under `runs`."""
    if config.run.run_dir is not None:
        # A shell leaves the ~ of --run_dir=~/here as it is.
        return config.replace(run_dir=os.path.expanduser(config.run.run_dir))
    env, algorithm = (
        re.sub(r"[^\w.-]+", "_", name)
        for name in (config.environment.env, config.run.algorithm)
    )
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{env}-{algorithm}-{config.run.seed}-{time}"
    path, number = Path("runs", name), 1
    while path.exists():
        number += 1
        path = Path("runs", f"{name}-{number}")
    return config.replace(run_dir=str(path))


def effective_settings(config: Config) -> str:
    """Describes the settings by heading; those that differ from the default have a *.

    Settings without effect, such as those of a critic that there is not, are left out
    unless they were changed: then they are shown to be without effect.
    """
    known = config.entries()
    defaults = entries(config.run.algorithm)
    unused = config.algorithm.without_effect()
    width = max(len(path) for path in known)
    by_heading: dict[str, list[str]] = {}
    for path, entry in known.items():
        changed = entry.default != defaults[path].default
        without_effect = bool(unused) and path.startswith(unused)
        if without_effect and not changed:
            continue
        heading = f"{entry.heading}{' (without effect)' if without_effect else ''}"
        value = show(entry.default, entry.setting)
        unit = "" if entry.default is None else entry.setting.unit
        row = f"  {'*' if changed else ' '} {path:{width}}  {value} {unit}".rstrip()
        by_heading.setdefault(heading, []).append(row)
    lines = ["Settings (* differs from the default)"]
    for heading, rows in by_heading.items():
        lines += [heading, *rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
