"""Command: train an agent, or continue a run.

python -m acktr_tf.launch --flagfile=atari.flags
"""

import dataclasses
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
from acktr_tf.config.config import ALGORITHMS, Config, settings

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
        print(effective_settings(config), flush=True)
        load_tensorflow()
        # Imports TensorFlow, so only here: --help and a wrong flag answer at once.
        from acktr_tf.training.loop import train as run

        return run(config, ["python", "-m", PROGRAM, *arguments])

    return run_command(PROGRAM, SUMMARY, define_settings, train, arguments)


def with_run_dir(config: Config) -> Config:
    """`config` with a run directory: the one given, or a new name under `runs`."""
    if config.run_dir:
        # A shell leaves the ~ of --run_dir=~/here as it is.
        return dataclasses.replace(config, run_dir=os.path.expanduser(config.run_dir))
    env = re.sub(r"[^\w.-]+", "_", config.env)
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{env}-{config.algorithm}-{config.seed}-{time}"
    path, number = Path("runs", name), 1
    while path.exists():
        number += 1
        path = Path("runs", f"{name}-{number}")
    return dataclasses.replace(config, run_dir=str(path))


def effective_settings(config: Config) -> str:
    """The settings in effect by group, those that differ from the default starred.

    Settings of another algorithm, or of a critic that there is not, are left out,
    unless they were changed: then they are shown to be without effect.
    """
    known = settings()
    width = max(len(name) for name in known)
    lines = ["Settings (* differs from the default)"]
    for group in dict.fromkeys(setting.group for setting, _, _ in known.values()):
        unused = (group in ALGORITHMS and group != config.algorithm) or (
            group == "critic"
            and (config.algorithm != "acktr" or config.critic == "joint")
        )
        rows = []
        for name, (setting, _, default) in known.items():
            value = getattr(config, name)
            changed = value != default
            if setting.group == group and (changed or not unused):
                star = "*" if changed else " "
                text = str(value).lower() if isinstance(value, bool) else str(value)
                rows.append(f"  {star} {name:{width}}  {text} {setting.unit}".rstrip())
        if rows:
            note = f" (without effect on {config.algorithm})" if unused else ""
            lines += [f"{group}{note}", *rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
