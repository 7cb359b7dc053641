"""absl flags made from settings, on FlagValues of their own, and how they are read.

absl's own parser and flag files are not used: they look a flag file up in the working
directory only, and their errors name neither the file nor the line. absl also has to
know all flags before it reads the first, where here the value of `--algorithm` decides
which flags there are.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from absl.flags import FlagValues

from acktr_tf.cli.flag_files import SUFFIX, Argument, expand, flag_name
from acktr_tf.config.config import Config, entries, unknown_setting
from acktr_tf.config.run import RunSettings
from acktr_tf.config.setting import (
    Entry,
    Setting,
    describe,
    did_you_mean,
    show,
    validate,
)
from acktr_tf.errors import UserError

_ALGORITHM = "algorithm"


class SettingFlag(flags.Flag[Any]):
    """A flag that knows its `Setting`, and refuses what the setting does not accept.

    Attributes:
      entry: Name, heading, description, type and default.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        super().__init__(
            _SettingParser(entry),
            flags.ArgumentSerializer(),
            entry.path,
            entry.default,
            _help(entry.setting, entry.kind),
            boolean=entry.kind is bool,
        )

    @property
    def shown_default(self) -> str:
        """The default as it is written on the command line."""
        return show(self.entry.default, self.entry.setting) or "empty"


class _SettingParser(flags.ArgumentParser[Any]):
    """absl's parser of the type, and then the range of the setting."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._parser: flags.ArgumentParser[Any] = {
            bool: flags.BooleanParser,
            int: flags.IntegerParser,
            float: flags.FloatParser,
            str: flags.ArgumentParser,
        }[entry.kind]()

    def parse(self, argument: Any) -> Any:
        path, _, setting, kind, _ = self._entry
        try:
            value = self._parser.parse(argument)
        except (TypeError, ValueError):
            # A word for None, or else `validate` says what is accepted.
            value = argument
        return validate(path, value, setting, kind)

    def flag_type(self) -> str:
        return self._entry.kind.__name__


def define(values: FlagValues, entries: Iterable[Entry]) -> None:
    """Defines a flag on `values` for each setting.

    Args:
      values: Where the flags are defined.
      entries: Settings in their places, as `Settings.entries` lists them.
    """
    for entry in entries:
        flags.DEFINE_flag(SettingFlag(entry), values)


def define_settings(values: FlagValues, arguments: Sequence[Argument] = ()) -> None:
    """Defines a flag for each setting of a run.

    Args:
      values: Where the flags are defined.
      arguments: The expanded command line of the run, which names the algorithm.

    Raises:
      UserError: The algorithm is unknown.
    """
    algorithm, origin = chosen_algorithm(arguments)
    try:
        known = entries(algorithm)
    except UserError as error:
        raise UserError(f"{error}{origin}") from error
    define(values, known.values())


def read_config(values: FlagValues) -> Config:
    """Returns the settings that the flags of `define_settings` were given."""
    known = entries(str(values[_ALGORITHM].value))
    return Config.from_dict({path: values[path].value for path in known})


def config_from(arguments: Sequence[str]) -> Config:
    """Returns the settings that arguments of `acktr_tf.launch` mean.

    Raises:
      UserError: See `find_algorithm`, `parse` and `Config`.
    """
    expanded = list(expand(arguments))
    values = FlagValues()  # type: ignore[no-untyped-call]
    define_settings(values, expanded)
    parse(values, expanded)
    return read_config(values)


def chosen_algorithm(arguments: Sequence[Argument]) -> tuple[str, str]:
    """Finds the algorithm that a command line names: the last one, or the default.

    Args:
      arguments: The expanded command line.

    Returns:
      Name of the algorithm, and the origin of the flag that names it.
    """
    chosen = RunSettings().algorithm, ""
    for index, argument in enumerate(arguments):
        if flag_name(argument.text) == _ALGORITHM:
            value = _value(arguments, index)
            chosen = chosen if value is None else (value, argument.origin)
    return chosen


def setting_flags(values: FlagValues) -> list[SettingFlag]:
    """Lists the flags of `values` in the order of their definition."""
    own = (values[name] for name in values)
    return [flag for flag in own if isinstance(flag, SettingFlag)]


def parse(values: FlagValues, arguments: Sequence[Argument]) -> None:
    """Sets the flags that a command line gives.

    Args:
      values: Flags, all defined by `define`.
      arguments: The command line, expanded by `acktr_tf.cli.flag_files.expand`.

    Raises:
      UserError: A flag that is unknown or belongs to another algorithm, a value that is
        missing or not accepted, or an argument that is no flag. The message names the
        flag file and the line of a flag that was read from one.
    """
    known = {flag.name: flag for flag in setting_flags(values)}
    algorithm = chosen_algorithm(arguments)[0] if _ALGORITHM in known else None
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        try:
            index += _set(known, arguments, index, algorithm)
        except UserError as error:
            raise UserError(f"{error}{argument.origin}") from error
    values.mark_as_parsed()


def _set(
    known: dict[str, SettingFlag],
    arguments: Sequence[Argument],
    index: int,
    algorithm: str | None,
) -> int:
    """Sets the flag of one argument; returns how many arguments it takes."""
    text = arguments[index].text
    name = flag_name(text)
    if not name:
        hint = f" Did you mean --flagfile={text}?" if text.endswith(SUFFIX) else ""
        raise UserError(f"Arguments are flags, --name=value. Received: {text!r}.{hint}")
    assigned = "=" in text
    negated = known.get(name.removeprefix("no")) if name.startswith("no") else None
    if name in known:
        flag = known[name]
        switched_on = flag.boolean and not assigned
        value = "true" if switched_on else _value(arguments, index)
        if value is None:
            raise UserError(f"`--{name}` needs a value: --{name}=<value>.")
        flag.parse(value)
        flag.using_default_value = False
        return 1 if assigned or switched_on else 2
    if negated is not None and negated.boolean:
        if assigned:
            raise UserError(f"`--{name}` takes no value. Received: {text}")
        negated.parse("false")
        negated.using_default_value = False
        return 1
    raise UserError(_unknown(name, known, algorithm))


def _value(arguments: Sequence[Argument], index: int) -> str | None:
    """Returns the value of the flag at `index`: after its `=`, or the next argument."""
    text = arguments[index].text
    if "=" in text:
        return text.partition("=")[2]
    # In a flag file each line is a flag.
    following = arguments[index + 1 : index + 2]
    if arguments[index].origin or not following or following[0].origin:
        return None
    value = following[0].text
    return None if value.startswith("--") else value


def _unknown(name: str, known: dict[str, SettingFlag], algorithm: str | None) -> str:
    """Returns what is wrong with a flag that is not defined."""
    spellings = list(_spellings(known))
    if algorithm is None:
        dashed = [f"--{spelling}" for spelling in spellings]
        return f"Unknown flag `--{name}`.{did_you_mean(f'--{name}', dashed)}"
    return unknown_setting(name, algorithm, spellings, dash="--")


def _spellings(known: dict[str, SettingFlag]) -> Iterator[str]:
    yield "flagfile"
    yield "help"
    for name, flag in known.items():
        yield name
        if flag.boolean:
            yield f"no{name}"


def _help(setting: Setting, kind: type) -> str:
    """Returns the help text of a flag: meaning, accepted values, unit and source."""
    unit = f", in {setting.unit}" if setting.unit else ""
    sentences = [setting.help]
    if setting.choices or setting.none or kind in (int, float):
        accepted = describe(setting, kind)
        sentences.append(f"{accepted[0].upper()}{accepted[1:]}{unit}.")
    if setting.source:
        sentences.append(f"Source: {setting.source}.")
    return " ".join(sentences)
