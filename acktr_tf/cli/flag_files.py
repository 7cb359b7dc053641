"""Flag files: where they are looked up, and the flags that they hold."""

import difflib
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from acktr_tf.errors import UserError

SUFFIX = ".flags"


class Argument(NamedTuple):
    """One argument of a command line or line of a flag file.

    Attributes:
      text: `--name=value`, `--name` or `--noname`; on the command line also the value
        of the flag before it, or what is no flag.
      origin: ` (file, line n)`, or empty for the command line.
    """

    text: str
    origin: str = ""


def preset_directories() -> list[Path]:
    """Lists where the package's own files may be, in the order of the lookup."""
    installed = [
        sysconfig.get_path("data", scheme)
        for scheme in (
            sysconfig.get_default_scheme(),
            sysconfig.get_preferred_scheme("user"),
        )
    ]
    return [
        Path(__file__).resolve().parents[2] / "launch",
        *(Path(root, "share", "acktr_tf", "launch") for root in installed),
    ]


def presets(suffix: str = SUFFIX) -> list[Path]:
    """Lists the package's own files whose names end in `suffix`, one of each name."""
    found: dict[str, Path] = {}
    for directory in preset_directories():
        for path in sorted(directory.glob(f"*{suffix}")):
            found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def find(name: str, origin: str = "") -> Path:
    """Finds the file that `--flagfile=name` means.

    Args:
      name: As given; see `find_preset`.
      origin: ` (file, line n)` where it was given, for messages.

    Raises:
      UserError: No such file, or it is a directory.
    """
    if not name:
        raise UserError(f"`--flagfile` needs a name: --flagfile=atari.flags.{origin}")
    return find_preset(name, SUFFIX, "Flag file", origin)


def find_preset(name: str, suffix: str, what: str, origin: str = "") -> Path:
    """Finds a file in the working directory, or else among the package's own.

    Args:
      name: Not empty; `~` stands for the home directory.
      suffix: Ending of the names of such files, for messages.
      what: What such a file is, for messages: `Flag file`.
      origin: ` (file, line n)` where it was given, for messages.

    Raises:
      UserError: No such file, or it is a directory.
    """
    expanded = os.path.expanduser(name)
    # `/` drops the directory where the name is absolute.
    candidates = [Path.cwd() / expanded]
    candidates += [directory / expanded for directory in preset_directories()]
    for path in dict.fromkeys(candidates):
        if os.path.isdir(path):
            raise UserError(f"{what} `{name}` is a directory: {path}.{origin}")
        if os.path.exists(path):
            return path
    places = dict.fromkeys(
        str(path.parent)
        for index, path in enumerate(candidates)
        if index == 0 or path.parent.is_dir()
    )
    raise UserError(
        f"{what} `{name}` is not found. Looked in: {', '.join(places)}."
        f"{_similar(name, suffix)}{origin}"
    )


def expand(arguments: Sequence[str]) -> Iterator[Argument]:
    """Puts the flags of flag files in the place of `--flagfile`.

    Args:
      arguments: The command line without the program.

    Yields:
      Arguments in order, so that a later one wins over an earlier.

    Raises:
      UserError: An argument is not text in UTF-8; or a flag file is missing, cannot be
        read, includes itself, or has a line that is not a flag.
    """
    for text in arguments:
        # Python stands bytes that are not UTF-8 in for by halves of surrogate pairs.
        if re.search("[\\ud800-\\udfff]", text):
            raise UserError(f"Arguments must be text in UTF-8. Received: {text!a}")
    remaining = iter(arguments)
    for text in remaining:
        if flag_name(text) != "flagfile":
            yield Argument(text)
            continue
        name: str | None = text.partition("=")[2]
        if "=" not in text:
            name = next(remaining, None)
            if name is None or name.startswith("--"):
                raise UserError("`--flagfile` needs a value: --flagfile=<value>.")
        yield from _read(find(name or ""), ())


def flag_name(text: str) -> str:
    """Returns `name` of `--name=value`, `--name` or with one dash, or nothing."""
    match = re.match(r"--?([A-Za-z][\w.-]*)(=|\Z)", text)
    return match[1] if match else ""


def _read(path: Path, including: tuple[Path, ...]) -> Iterator[Argument]:
    """Reads the flags of a file, and in their places those of the files it includes."""
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if not text or text.startswith(("#", "//")):
            continue
        origin = f" ({path}, line {number})"
        _check_line(text, origin)
        if flag_name(text) != "flagfile":
            yield Argument(text, origin=origin)
            continue
        included = find(text.partition("=")[2].strip(), origin)
        chain = (*including, path)
        if included.resolve() in [file.resolve() for file in chain]:
            raise UserError(f"Flag file `{included}` includes itself.{origin}")
        yield from _read(included, chain)


def _lines(path: Path) -> list[str]:
    try:
        # Editors on Windows put a byte order mark first.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"Flag file {path} must be text in UTF-8. Received: the byte "
            f"0x{error.object[error.start]:02x} in line {number}."
        ) from error
    except OSError as error:
        raise UserError(
            f"Flag file {path} cannot be read: {error.strerror}."
        ) from error
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise UserError(
                f"Flag file {path} must be text in UTF-8. Received: the byte 0x00 in "
                f"line {number}."
            )
    return lines


def _check_line(text: str, origin: str) -> None:
    name = flag_name(text)
    if not name:
        raise UserError(
            f"A line of a flag file is a comment (#) or one flag, --name=value. "
            f"Received: {text}{origin}"
        )
    value = text.partition("=")[2]
    if re.search(r"\s(#|//)", value):
        raise UserError(
            "Text after a value is part of the value: give the comment a line of its "
            f"own. Received: {text}{origin}"
        )
    if re.fullmatch(r"\s*([\"']).*\1", value):
        raise UserError(
            "A flag file is not read by a shell: write the value without quotes. "
            f"Received: {text}{origin}"
        )
    if name == "flagfile" and "=" not in text:
        raise UserError(f"`--flagfile` needs a name: --flagfile=atari.flags.{origin}")


def _similar(name: str, suffix: str) -> str:
    """Returns the package's files most like `name`, or all of them if none is."""
    names = [path.name for path in presets(suffix)]
    if not names:
        return ""
    # Compared without the suffix, which would make all names alike.
    stems = {name.removesuffix(suffix): name for name in names}
    stem = os.path.basename(name).removesuffix(suffix)
    matches = difflib.get_close_matches(stem, stems, n=3, cutoff=0.6)
    if matches:
        return f" Did you mean {', '.join(stems[match] for match in matches)}?"
    return f" The package has {', '.join(names)}."
