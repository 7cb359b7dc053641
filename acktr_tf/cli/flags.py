"""absl flags made from settings, on FlagValues of their own, and how they are read."""

from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from absl.flags import FlagValues

from acktr_tf.cli.flag_files import SUFFIX, Argument, expand, flag_name
from acktr_tf.config.config import Config, settings
from acktr_tf.config.setting import Setting, checked, closest, described
from acktr_tf.errors import UserError


class SettingFlag(flags.Flag[Any]):
    """A flag that knows its `Setting`, and refuses what the setting does not accept.

    Attributes:
      setting: Group, help, unit, source and accepted values.
    """

    def __init__(self, name: str, default: Any, setting: Setting) -> None:
        self.setting = setting
        kind = type(default)
        super().__init__(
            _SettingParser(name, setting, kind),
            flags.ArgumentSerializer(),
            name,
            default,
            _help(setting, kind),
            boolean=kind is bool,
        )


class _SettingParser(flags.ArgumentParser[Any]):
    """absl's parser of the type, and then the range of the setting."""

    def __init__(self, name: str, setting: Setting, kind: type) -> None:
        self._name, self._setting, self._kind = name, setting, kind
        self._parser: flags.ArgumentParser[Any] = {
            bool: flags.BooleanParser,
            int: flags.IntegerParser,
            float: flags.FloatParser,
            str: flags.ArgumentParser,
        }[kind]()

    def parse(self, argument: Any) -> Any:
        try:
            value = self._parser.parse(argument)
        except (TypeError, ValueError):
            # Not of the type: `checked` says so in the words it has for the range.
            value = argument
        return checked(self._name, value, self._setting, self._kind)

    def flag_type(self) -> str:
        return self._kind.__name__


def define(values: FlagValues, name: str, default: Any, setting: Setting) -> None:
    """Defines the flag `--name` on `values`.

    Args:
      values: Where the flag is defined.
      name: Name of the flag.
      default: Its default, which also gives the type: bool, int, float or str.
      setting: What is known of it.
    """
    flags.DEFINE_flag(SettingFlag(name, default, setting), values)


def define_settings(values: FlagValues) -> None:
    """Defines a flag for each setting of `Config`."""
    for name, (setting, _, default) in settings().items():
        define(values, name, default, setting)


def read_config(values: FlagValues) -> Config:
    """The settings that the flags of `define_settings` were given.

    Raises:
      UserError: A value is out of range.
    """
    return Config.from_dict({name: values[name].value for name in settings()})


def config_from(arguments: Sequence[str]) -> Config:
    """The settings that arguments of `acktr_tf.launch` mean.

    Raises:
      UserError: See `parse` and `Config`.
    """
    values = FlagValues()  # type: ignore[no-untyped-call]
    define_settings(values)
    parse(values, arguments)
    return read_config(values)


def setting_flags(values: FlagValues) -> list[SettingFlag]:
    """The flags of `values` in the order of their definition."""
    own = (values[name] for name in values)
    return [flag for flag in own if isinstance(flag, SettingFlag)]


def parse(values: FlagValues, arguments: Sequence[str]) -> None:
    """Sets the flags that a command line, and the flag files it names, give.

    Args:
      values: Flags, all defined by `define`.
      arguments: The command line without the program.

    Raises:
      UserError: An unknown flag, a value that is not accepted, an argument that is no
        flag, or a bad flag file. The message names the flag file and the line of a
        flag that was read from one.
    """
    known = {flag.name: flag for flag in setting_flags(values)}
    valued = [name for name, flag in known.items() if not flag.boolean]
    for argument in expand(arguments, valued):
        _set(known, argument)
    values.mark_as_parsed()


def _set(known: dict[str, SettingFlag], argument: Argument) -> None:
    text, value, origin = argument
    name = flag_name(text)
    if not name:
        hint = f" Did you mean --flagfile={text}?" if text.endswith(SUFFIX) else ""
        raise UserError(
            f"Arguments are flags, --name=value. Received: {text!r}.{hint}{origin}"
        )
    if "=" in text:
        value = text.partition("=")[2]
    negated = known.get(name.removeprefix("no")) if name.startswith("no") else None
    if name in known:
        flag = known[name]
        if value is None and not flag.boolean:
            raise UserError(f"`--{name}` needs a value: --{name}=<value>.{origin}")
        given = "true" if value is None else value
    elif negated is not None and negated.boolean:
        if value is not None:
            raise UserError(f"`--{name}` takes no value. Received: {text}{origin}")
        flag, given = negated, "false"
    else:
        raise UserError(
            f"Unknown flag --{name}.{closest(f'--{name}', list(_spellings(known)))}"
            f"{origin}"
        )
    try:
        flag.parse(given)
    except UserError as error:
        raise UserError(f"{error}{origin}") from error
    flag.using_default_value = False


def _spellings(known: dict[str, SettingFlag]) -> Iterator[str]:
    yield "--flagfile"
    yield "--help"
    for name, flag in known.items():
        yield f"--{name}"
        if flag.boolean:
            yield f"--no{name}"


def _help(setting: Setting, kind: type) -> str:
    """Help text of a flag: what it does, what it accepts, and where it comes from."""
    unit = f", in {setting.unit}" if setting.unit else ""
    sentences = [setting.help]
    if setting.choices or kind in (int, float):
        accepted = described(setting, kind)
        sentences.append(f"{accepted[0].upper()}{accepted[1:]}{unit}.")
    if setting.source:
        sentences.append(f"Source: {setting.source}.")
    return " ".join(sentences)
