"""Settings: single values with help, unit, range and source, and groups of them."""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from acktr_tf.errors import UserError

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_SETTING, _GROUP = "setting", "group"


@dataclasses.dataclass(frozen=True)
class Setting:
    """Description of one setting, without its name, type and default.

    Attributes:
      help: Meaning, in a sentence or two.
      unit: Unit of the value, empty if it has none.
      source: Where the default comes from.
      low: Lowest accepted value, or None.
      high: Highest accepted value, or None.
      exclusive_low: Whether `low` itself is refused.
      exclusive_high: Whether `high` itself is refused.
      none: Word that stands for None (`none`, `auto`), empty if None is not accepted.
      choices: Accepted values, or empty for any.
      resumable: Whether a continued run may have another value than it was started
        with, because the value does not change what is learnt.
    """

    help: str
    unit: str = ""
    source: str = ""
    low: float | None = None
    high: float | None = None
    exclusive_low: bool = False
    exclusive_high: bool = False
    none: str = ""
    choices: tuple[str, ...] = ()
    resumable: bool = False

    def accepted(self, noun: str = "") -> str:
        """Returns the accepted values in words, for messages and the documentation.

        Args:
          noun: Precedes the bounds, such as `a number`.
        """
        if self.choices:
            return "one of " + ", ".join(self.choices)
        bounds = []
        if self.low is not None:
            bounds.append(f"{'>' if self.exclusive_low else '>='} {self.low:g}")
        if self.high is not None:
            bounds.append(f"{'<' if self.exclusive_high else '<='} {self.high:.10g}")
        accepted = f"{noun} {' and '.join(bounds)}".strip()
        return f"{self.none}, or {accepted}" if self.none else accepted

    def accepts(self, value: Any) -> bool:
        """Returns whether `value`, already of the setting's type, is in range."""
        if value is None:
            return bool(self.none)
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float):
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.low is not None and (
            value < self.low or (self.exclusive_low and value == self.low)
        ):
            return False
        return not (
            self.high is not None
            and (value > self.high or (self.exclusive_high and value == self.high))
        )


class Entry(NamedTuple):
    """One setting in its place.

    Attributes:
      path: Name on the command line and in `config.json`, such as `critic.damping`.
      heading: Title of the group that the setting is listed under.
      setting: Description.
      kind: bool, int, float or str.
      default: Default value.
    """

    path: str
    heading: str
    setting: Setting
    kind: type
    default: Any


def setting(default: Any, help: str, **details: Any) -> Any:
    """Declares a setting: a field of a `Settings` dataclass.

    Args:
      default: Default value.
      help: Meaning, in a sentence or two.
      **details: Further attributes of `Setting`.
    """
    details["choices"] = tuple(details.get("choices", ()))
    return dataclasses.field(
        default=default, metadata={_SETTING: Setting(help, **details)}
    )


def group(
    default: "Settings",
    *,
    prefix: str = "",
    heading: str = "",
    sources: Mapping[str, str] | None = None,
) -> Any:
    """Declares a group of settings within another: a field of a `Settings` dataclass.

    Args:
      default: Group with its defaults in this place.
      prefix: Prefix of the names of the settings in it, such as `critic.`.
      heading: Title that they are listed under; empty for that of the outer group.
      sources: Name → where the default in this place comes from; names that are left
        out keep their source if they keep their default.
    """
    return dataclasses.field(
        default=default,
        metadata={_GROUP: (prefix, heading, dict(sources or {}))},
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of a group of settings: a frozen dataclass of `setting` and `group` fields.

    Attributes:
      heading: Title of the group in `--help` and in the documentation.
      defaults: Path of a setting outside of the group → its default, where a group that
        belongs to an algorithm wants another one than the shared groups have.
      defaults_source: Where these defaults come from.

    Raises:
      UserError: On construction, if a value has the wrong type or is out of range.
    """

    heading: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]] = types.MappingProxyType({})
    defaults_source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if _SETTING in field.metadata:
                value = validate(
                    field.name,
                    getattr(self, field.name),
                    field.metadata[_SETTING],
                    kind_of(type(self), field.name),
                )
                # A frozen dataclass has no other way; an int given for a float is one.
                object.__setattr__(self, field.name, value)

    def entries(self, prefix: str = "", heading: str = "") -> list[Entry]:
        """Lists the settings of the group and of the groups in it, with their values.

        Args:
          prefix: Prefix of the paths.
          heading: Title that they are listed under; empty for that of the group.
        """
        heading = heading or self.heading
        found = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _SETTING in field.metadata:
                found.append(
                    Entry(
                        prefix + field.name,
                        heading,
                        field.metadata[_SETTING],
                        kind_of(type(self), field.name),
                        value,
                    )
                )
            elif _GROUP in field.metadata:
                inner, title, sources = field.metadata[_GROUP]
                own = {entry.path: entry for entry in type(value)().entries()}
                for entry in value.entries("", title or heading):
                    source = sources.get(entry.path)
                    if source is None:
                        same = entry.default == own[entry.path].default
                        source = entry.setting.source if same else ""
                    about = dataclasses.replace(entry.setting, source=source)
                    path = prefix + inner + entry.path
                    found.append(entry._replace(path=path, setting=about))
        return found

    def without_effect(self) -> str:
        """Returns the prefix of settings that the others make ineffective, or empty."""
        return ""

    def depends_on_total_steps(self) -> list[str]:
        """Returns the settings through which a run depends on its `total_steps`.

        A run that has none may be continued with more steps. An algorithm of one's own
        is given the length of the run for whatever it does with it: its `algorithm` is
        such a setting, unless its settings say otherwise.
        """
        return ["algorithm"]

    @classmethod
    def from_paths(cls, values: Mapping[str, Any], prefix: str = "") -> typing.Self:
        """Makes the group from values by path; those left out take their defaults.

        Args:
          values: Path → value; paths that are not of the group are ignored.
          prefix: Prefix of the paths of the group.

        Raises:
          UserError: A value has the wrong type or is out of range; the message has the
            setting's path.
        """
        return _from_paths(cls(), values, prefix)


def _from_paths(default: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        if _SETTING in field.metadata:
            path = prefix + field.name
            if path in values:
                kind = kind_of(type(default), field.name)
                about = field.metadata[_SETTING]
                changed[field.name] = validate(path, values[path], about, kind)
        elif _GROUP in field.metadata:
            inner = field.metadata[_GROUP][0]
            value = getattr(default, field.name)
            changed[field.name] = _from_paths(value, values, prefix + inner)
    return dataclasses.replace(default, **changed)


_type_hints = functools.cache(typing.get_type_hints)


def kind_of(cls: type, name: str) -> type:
    """Returns the type of a setting: bool, int, float or str, also of `float | None`.

    Raises:
      TypeError: The annotation is another one.
    """
    annotation = _type_hints(cls)[name]
    kinds = [annotation]
    if isinstance(annotation, types.UnionType):
        kinds = [part for part in typing.get_args(annotation) if part is not type(None)]
    if len(kinds) != 1 or kinds[0] not in _KINDS:
        raise TypeError(
            f"A setting must be bool, int, float or str, or one of these or None. "
            f"Received: {cls.__name__}.{name}: {annotation}"
        )
    kind: type = kinds[0]
    return kind


def did_you_mean(name: str, accepted: Sequence[str]) -> str:
    """Returns ` Did you mean a, b?` for the names most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, accepted, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(matches)}?" if matches else ""


def describe(setting: Setting, kind: type) -> str:
    """Returns what a setting of type `kind` accepts: `an integer >= 1`."""
    return setting.accepted(_KINDS[kind])


def show(value: Any, setting: Setting) -> str:
    """Returns a value as it is written on the command line."""
    if value is None:
        return setting.none
    return str(value).lower() if isinstance(value, bool) else str(value)


def validate(name: str, value: Any, setting: Setting, kind: type) -> Any:
    """Returns `value` as `kind`, if it is of that type and in the range of `setting`.

    An int is taken for a float, and the word for None as None; nothing else is
    converted.

    Raises:
      UserError: The type is wrong or the value is out of range; the message names the
        setting, what is accepted and what was received.
    """
    if value is None or (setting.none and value == setting.none):
        if setting.none:
            return None
        converted: Any = None
    elif (
        kind is float and isinstance(value, int | float) and not isinstance(value, bool)
    ):
        try:
            converted = float(value)
        except OverflowError:
            converted = None
    else:
        converted = value if type(value) is kind else None
    if converted is None or not setting.accepts(converted):
        raise UserError(
            f"`{name}` must be {describe(setting, kind)}. Received: {name}={value!r}"
        )
    return converted
