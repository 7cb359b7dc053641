"""Single settings, and groups that are not of the package."""

import dataclasses
from typing import Any

import pytest

from acktr_tf.config.setting import (
    Setting,
    Settings,
    describe,
    did_you_mean,
    group,
    kind_of,
    setting,
    show,
)
from acktr_tf.errors import UserError


@pytest.mark.parametrize(
    ("about", "kind", "words"),
    [
        (Setting("h"), float, "a number"),
        (Setting("h", low=1), int, "an integer >= 1"),
        (
            Setting("h", low=0, high=1, exclusive_low=True),
            float,
            "a number > 0 and <= 1",
        ),
        (Setting("h", high=2, exclusive_high=True), float, "a number < 2"),
        (Setting("h", high=2**31 - 1), int, "an integer <= 2147483647"),
        (Setting("h", choices=("a", "b")), str, "one of a, b"),
        (Setting("h", low=0, none="auto"), int, "auto, or an integer >= 0"),
        (Setting("h", none="none"), str, "none, or text"),
        (Setting("h"), bool, "true or false"),
        (Setting("h"), str, "text"),
    ],
)
def test_accepted_values_in_words(about, kind, words):
    assert describe(about, kind) == words


def test_did_you_mean():
    assert did_you_mean("sed", ["seed", "env"]) == " Did you mean seed?"
    assert did_you_mean("zzz", ["seed", "env"]) == ""


def test_values_as_they_are_written():
    assert show(None, Setting("h", none="auto")) == "auto"
    assert show(True, Setting("h")) == "true"
    assert show(0.5, Setting("h")) == "0.5"


@dataclasses.dataclass(frozen=True)
class Kinds(Settings):
    a: bool = setting(False, "A.")
    b: int | None = setting(None, "B.", none="none")
    c: float = setting(1.0, "C.", source="a book")
    d: "str | None" = setting(None, "D.", none="none")
    e: tuple[int, ...] = setting((), "E.")
    f: int | str = setting(1, "F.")
    g: Any = setting(1, "G.")


def test_kind_of():
    assert [kind_of(Kinds, name) for name in "abcd"] == [bool, int, float, str]
    for name in "efg":
        with pytest.raises(TypeError, match=f"Received: Kinds.{name}: ") as raised:
            kind_of(Kinds, name)
        assert "must be bool, int, float or str" in str(raised.value)


def test_a_group_refuses_wrong_values_on_construction():
    @dataclasses.dataclass(frozen=True)
    class Steps(Settings):
        size: float = setting(1.0, "Size.", low=0.0)

    assert type(Steps(2).size) is float  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"`size` must be a number >= 0\. Received"):
        Steps(-1.0)
    with pytest.raises(UserError, match="`size` must be"):
        dataclasses.replace(Steps(), size=None)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    heading = "Inner"
    x: int = setting(1, "X.", source="for 1")
    y: int = setting(1, "Y.", source="for y")


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    heading = "Outer"
    plain: Inner = group(Inner())
    named: Inner = group(
        Inner(x=2, y=3), prefix="deep.", heading="Deep", sources={"y": "for 3"}
    )


def test_groups_in_groups():
    found = {entry.path: entry for entry in Outer().entries()}
    assert list(found) == ["x", "y", "deep.x", "deep.y"]
    assert [entry.heading for entry in found.values()] == ["Outer"] * 2 + ["Deep"] * 2
    assert [entry.default for entry in found.values()] == [1, 1, 2, 3]
    sources = [entry.setting.source for entry in found.values()]
    # The source of 1 is not that of 2.
    assert sources == ["for 1", "for y", "", "for 3"]
    assert Outer.from_paths({"x": 5, "deep.y": 6, "other": 7}) == Outer(
        Inner(5, 1), Inner(2, 6)
    )
    assert Outer.from_paths({"up.deep.y": 6}, "up.").named.y == 6
    assert Outer().entries("up.")[-1].path == "up.deep.y"
