"""What every command has in common: flags, help, one-line errors, exit statuses."""

import itertools
import os
import select
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from absl.flags import FlagValues

from acktr_tf.backend import check_backend
from acktr_tf.cli.flag_files import presets
from acktr_tf.cli.flags import SettingFlag, define, parse, setting_flags
from acktr_tf.config.setting import Setting
from acktr_tf.errors import RunError, UserError

INTERRUPTED = 130
"""Exit status of a command stopped by Ctrl-C, 128 + SIGINT."""

BROKEN_PIPE = 141
"""Exit status of a command whose output nobody reads any more, 128 + SIGPIPE."""

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


def run_command(
    program: str,
    summary: str,
    define_flags: Callable[[FlagValues], None],
    main: Callable[[FlagValues], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command on its command line.

    `--help` and `--verbosity` are the same for all commands. An error of the user or
    of the run is one line on stderr, with a traceback above it if `--verbosity=1`.

    Args:
      program: Module that is run, `acktr_tf.launch`.
      summary: What the command does, for `--help`.
      define_flags: Defines the command's own flags, by `acktr_tf.cli.flags.define`.
      main: Does the work with the parsed flags and returns the exit status. It is where
        TensorFlow may be imported, after `acktr_tf.backend.load_tensorflow()`.
      argv: Command line without the program; None takes that of the process.

    Returns:
      The exit status: that of `main`, 0 after `--help`, 2 for a `UserError`, 1 for a
      `RunError`, 130 if interrupted, 141 if the output is read no further.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    values = FlagValues()  # type: ignore[no-untyped-call]
    define_flags(values)
    define(
        values,
        "verbosity",
        0,
        Setting("command", "1 shows where in the code an error arose.", low=0, high=1),
    )
    try:
        if any(argument in _HELP for argument in arguments):
            print(help_text(program, summary, values), flush=True)
            return 0
        parse(values, arguments)
        check_backend()
        return main(values)
    except (UserError, RunError) as error:
        # A bad flag may stand before --verbosity.
        if values["verbosity"].value or "--verbosity=1" in arguments:
            traceback.print_exc()
        print(f"{program}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _unread(stream)]
        if not unread:
            raise  # A pipe to something else: that is no way to end.
        # The reader, such as `head`, has seen enough. Nothing is left to flush to.
        for stream in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return BROKEN_PIPE


def _unread(stream: TextIO) -> bool:
    """Whether it is a pipe that nobody reads any more."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def help_text(program: str, summary: str, values: FlagValues) -> str:
    """What `--help` prints: the flags by group, wrapped to the terminal."""
    width = min(max(shutil.get_terminal_size().columns, 40), 100)

    def wrap(text: str, indent: int) -> str:
        margin = " " * indent
        return textwrap.fill(
            text,
            width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )

    lines = [
        f"usage: python -m {program} [--flagfile=<file>] [--<name>=<value> ...]",
        "",
        wrap(summary, 0),
        "",
        "flag files:",
        wrap(
            "--flagfile=<file> reads flags from a file, one a line, as if they stood "
            "in its place: of two values of a flag the later wins. The file is looked "
            "up in the working directory, then among those of the package:",
            2,
        ),
    ]
    for path in presets():
        lines += [f"  {path.name}", wrap(_title(path), 6)]
    flags = sorted_by_group(setting_flags(values))
    for group, members in itertools.groupby(flags, lambda flag: flag.setting.group):
        lines += ["", f"{group}:"]
        for flag in members:
            lines += [f"  {_heading(flag)}", wrap(flag.help or "", 6)]
    lines += ["  --help", wrap("Show this.", 6)]
    return "\n".join(lines)


def sorted_by_group(flags: Sequence[SettingFlag]) -> list[SettingFlag]:
    """Flags with those of a group together, groups in the order of their first flag."""
    groups = list(dict.fromkeys(flag.setting.group for flag in flags))
    return sorted(flags, key=lambda flag: groups.index(flag.setting.group))


def _heading(flag: SettingFlag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    default = str(flag.default)
    return f"{name} (default: {default.lower() if flag.boolean else default or 'none'})"


def _title(path: Path) -> str:
    """The comment in the first line of a flag file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().lstrip("# ").strip()
