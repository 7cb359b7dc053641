"""Running a command: flags, help, one-line errors, exit statuses."""

import contextlib
import dataclasses
import errno
import itertools
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl.flags import FlagValues

from acktr_tf.backend import check_backend, is_out_of_memory
from acktr_tf.cli.flag_files import Argument, expand, presets
from acktr_tf.cli.flags import (
    SettingFlag,
    chosen_algorithm,
    define,
    parse,
    setting_flags,
)
from acktr_tf.cli.streams import check_streams, say, silence_unread, tell
from acktr_tf.config.algorithms import ALGORITHMS
from acktr_tf.config.setting import Settings, setting
from acktr_tf.errors import RunError, UserError

INTERRUPTED = 130
"""Exit status of a command stopped by Ctrl-C, 128 + SIGINT."""

BROKEN_PIPE = 141
"""Exit status of a command whose output nobody reads any more, 128 + SIGPIPE."""

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")


@dataclasses.dataclass(frozen=True)
class CommandSettings(Settings):
    """Flags of every command."""

    heading = "Command"

    verbosity: int = setting(
        0, "1 shows where in the code an error arose.", low=0, high=1
    )


def run_command(
    program: str,
    summary: str,
    define_flags: Callable[[FlagValues, Sequence[Argument]], None],
    main: Callable[[FlagValues], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command on its command line.

    `--help` and `--verbosity` are the same for all commands. An error of the user or
    of the run is one line on stderr, with a traceback above it if `--verbosity=1`.

    Args:
      program: Module that is run, `acktr_tf.launch`.
      summary: What the command does, for `--help`.
      define_flags: Defines the command's own flags, by `acktr_tf.cli.flags.define`. It
        is given the expanded command line, on which the flags may depend.
      main: Does the work with the parsed flags and returns the exit status. It is where
        TensorFlow may be imported, after `acktr_tf.backend.load_tensorflow()`.
      argv: Command line without the program; None takes that of the process.

    Returns:
      The exit status: that of `main`, 0 after `--help`, 2 for a `UserError`, 1 for a
      `RunError`, a standard stream that cannot be written, or if memory runs out, 130
      if interrupted, 141 if the output is read no further.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbosity=1" in arguments
    wants_help = any(argument in _HELP for argument in arguments)
    try:
        check_streams()
        values = FlagValues()  # type: ignore[no-untyped-call]
        expanded = _expand(arguments, lenient=wants_help)
        define_flags(values, expanded)
        define(values, CommandSettings().entries())
        if wants_help:
            tell(help_text(program, summary, values, expanded))
            return 0
        parse(values, expanded)
        verbose = values.verbosity == 1
        check_backend()
        return main(values)
    except (UserError, RunError) as error:
        if verbose:
            traceback.print_exc()
        say(f"{program}: {' '.join(str(error).splitlines())}")
        return error.exit_status
    except KeyboardInterrupt:
        say(f"{program}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        unread = silence_unread()
        if not unread:
            raise  # A pipe to something else: that is no way to end.
        # A reader of the help, such as `head`, has seen enough.
        if not wants_help:
            say(f"{program}: {' and '.join(unread)} is read no further.")
        return BROKEN_PIPE
    except Exception as error:
        # In whatever flag it was given.
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            say(f"{program}: {error.filename}: the name is too long for a file.")
            return UserError.exit_status
        if not is_out_of_memory(error):
            raise
        if verbose:
            traceback.print_exc()
        say(
            f"{program}: the memory of the machine, or what this process may have of "
            "it, ran out"
        )
        return RunError.exit_status


def _expand(arguments: Sequence[str], *, lenient: bool) -> list[Argument]:
    """Returns the command line with its flag files, or its part before an error."""
    expanded: list[Argument] = []
    with contextlib.suppress(*((UserError,) if lenient else ())):
        for argument in expand(arguments):
            expanded.append(argument)
    return expanded


def help_text(
    program: str, summary: str, values: FlagValues, arguments: Sequence[Argument]
) -> str:
    """Returns what `--help` prints: flags by heading, wrapped to the terminal."""
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
            "--flagfile=<file> reads flags from a file, one per line, as if they stood "
            "in its place: of two values of a flag the later wins. The file is looked "
            "up in the working directory, then among those of the package:",
            2,
        ),
    ]
    for path in presets():
        lines += [f"  {path.name}", wrap(_title(path), 6)]
    flags = sorted_by_heading(setting_flags(values))
    for heading, members in itertools.groupby(flags, lambda flag: flag.entry.heading):
        lines += ["", f"{heading}:"]
        for flag in members:
            lines += [f"  {_usage(flag)}", wrap(flag.help or "", 6)]
    lines += ["  --help", wrap("Show this.", 6)]
    if "algorithm" in values:
        chosen, _ = chosen_algorithm(arguments)
        others = [name for name in ALGORITHMS if name != chosen]
        lines += [
            "",
            wrap(
                f"These are the flags of a run with --algorithm={chosen}. Those of "
                "another algorithm: "
                + ", ".join(f"--algorithm={name} --help" for name in others)
                + ", or --algorithm=my_module:MyAlgorithm --help.",
                0,
            ),
        ]
    return "\n".join(lines)


def sorted_by_heading(flags: Sequence[SettingFlag]) -> list[SettingFlag]:
    """Sorts flags by heading, headings in the order of their first flag."""
    headings = list(dict.fromkeys(flag.entry.heading for flag in flags))
    return sorted(flags, key=lambda flag: headings.index(flag.entry.heading))


def _usage(flag: SettingFlag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    return f"{name} (default: {flag.shown_default})"


def _title(path: Path) -> str:
    """Returns the comment in the first line of a flag file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().lstrip("# ").strip()
