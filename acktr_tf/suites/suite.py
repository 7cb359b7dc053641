"""Suites: the algorithms that a benchmark compares, and its tasks, in a text file."""

import configparser
import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from acktr_tf.cli.flag_files import find_preset
from acktr_tf.errors import UserError
from acktr_tf.runs.files import reason

SUFFIX = ".suite"

_SECTIONS = ("suite", "tasks", "algorithms", "scores")
_SUITE_KEYS = ("title", "flags", "evaluation")
_SAMPLED, _GREEDY = "sampled", "greedy"
_GIVEN = ("--seed", "--run_dir")
"""Flags that each run gets from the benchmark."""


class Suite(NamedTuple):
    """Contents of a suite file.

    Attributes:
      name: Name of the file, without its ending.
      title: Title of the report.
      flags: Flags of `acktr_tf.launch`, for all runs.
      tasks: Name → flags, in the order of the file.
      algorithms: Name → flags, in the order of the file.
      scores: Name of each task → the returns that count as 0 and as 1 where tasks are
        brought together; empty if the suite does not say.
      greedy: Whether final policies are evaluated by their most probable actions.
    """

    name: str
    title: str
    flags: list[str]
    tasks: dict[str, list[str]]
    algorithms: dict[str, list[str]]
    scores: dict[str, tuple[float, float]]
    greedy: bool = False


def find_suite(name: str) -> Path:
    """Finds the suite file that `--suite=name` means.

    It is looked up in the working directory, then among the package's own.

    Args:
      name: As given; `.suite` may be left out.

    Raises:
      UserError: There is no such file; the message has the names most like it.
    """
    ending = "" if name.endswith(SUFFIX) else SUFFIX
    return find_preset(f"{name}{ending}", SUFFIX, "Suite")


def read_suite(path: Path) -> Suite:
    """Reads a suite file.

    The file is in the INI format, with the sections

        [suite]       title = ...; flags = flags of acktr_tf.launch for every run;
                      evaluation = sampled or greedy
        [tasks]       a name = flags, one line per task
        [algorithms]  a name = flags, one line per algorithm
        [scores]      a task = low high; optional, but for all tasks or none

    Raises:
      UserError: The file cannot be read, or is not such a file; the message says what
        was found and what is accepted.
    """
    sections = _sections(path)
    about = sections.get("suite", {})
    if unknown := sorted(set(about) - set(_SUITE_KEYS)):
        raise UserError(
            f"{path} has `{unknown[0]}` in [suite]. Accepted: {', '.join(_SUITE_KEYS)}."
        )
    evaluation = about.get("evaluation") or _SAMPLED
    if evaluation not in (_SAMPLED, _GREEDY):
        raise UserError(
            f"{path}: `evaluation` must be {_SAMPLED} or {_GREEDY}. "
            f"Received: {evaluation}"
        )
    name = path.name.removesuffix(SUFFIX)
    tasks = _named_flags(path, "tasks", sections)
    return Suite(
        name,
        about.get("title") or name,
        _flags(path, "flags", about.get("flags", "")),
        tasks,
        _named_flags(path, "algorithms", sections),
        _scores(path, sections.get("scores", {}), tasks),
        evaluation == _GREEDY,
    )


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """Reads section → name → value, all as they are written."""
    parser = configparser.ConfigParser(
        delimiters=("=",),
        interpolation=None,
        empty_lines_in_values=False,
        default_section="",  # No section is special.
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        # Editors on Windows put a byte order mark first.
        parser.read_string(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"Suite {path} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"Suite {path} must be text in UTF-8: {error}.") from error
    except configparser.Error as error:
        fault = " ".join(str(error).replace("'<string>'", "it").split())
        raise UserError(f"{path} is not a suite: {fault}") from error
    if unknown := sorted(set(parser.sections()) - set(_SECTIONS)):
        raise UserError(
            f"{path} has the section [{unknown[0]}]. Accepted: "
            f"{', '.join(f'[{name}]' for name in _SECTIONS)}."
        )
    return {name: dict(parser[name]) for name in parser.sections()}


def _named_flags(
    path: Path, section: str, sections: dict[str, dict[str, str]]
) -> dict[str, list[str]]:
    lines = sections.get(section)
    if not lines:
        raise UserError(f"{path} must have a section [{section}] that is not empty.")
    for name in lines:
        # It becomes the name of a directory, and stands in tables.
        if not re.fullmatch(r"\w[\w.+() -]*", name):
            raise UserError(
                f"{path}: a name in [{section}] must be letters, digits and spaces or "
                f"._+-() after the first. Received: {name}"
            )
    return {name: _flags(path, name, value) for name, value in lines.items()}


def _flags(path: Path, name: str, value: str) -> list[str]:
    try:
        flags = shlex.split(value)
    except ValueError as error:
        raise UserError(
            f"{path}: {error}. Received: {name} = {' '.join(value.split())}"
        ) from error
    for flag in flags:
        if not flag.startswith("--"):
            raise UserError(
                f"{path}: `{name}` must be flags, --name=value. Received: {flag}"
            )
        if flag.partition("=")[0] in _GIVEN:
            raise UserError(
                f"{path}: the benchmark gives each run its {' and '.join(_GIVEN)}. "
                f"Received: {name} = {flag}"
            )
    return flags


def _scores(
    path: Path, lines: dict[str, str], tasks: dict[str, list[str]]
) -> dict[str, tuple[float, float]]:
    if lines and set(lines) != set(tasks):
        raise UserError(
            f"{path} must have a line in [scores] for each of its tasks, or for none. "
            f"Received: {', '.join(lines)}; tasks: {', '.join(tasks)}."
        )
    return {name: _low_and_high(path, name, value) for name, value in lines.items()}


def _low_and_high(path: Path, name: str, value: str) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in value.split())
    except ValueError:
        low = high = math.nan
    # Comparisons with nan are false.
    if not -math.inf < low < high < math.inf:
        raise UserError(
            f"{path}: [scores] must have two numbers per task, low < high. Received: "
            f"{name} = {value}"
        )
    return low, high
