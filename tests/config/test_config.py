import dataclasses
import json
import math
import re

import numpy as np
import pytest

from acktr_tf.config.config import Config, differences, settings
from acktr_tf.config.setting import described
from acktr_tf.errors import UserError

SETTINGS = settings()


def _out_of_range() -> list[tuple[str, object]]:
    """Name and value just outside of what each setting accepts, at both ends."""
    cases: list[tuple[str, object]] = []
    for name, (setting, kind, _) in SETTINGS.items():
        step = 1 if kind is int else 1e-6
        if setting.choices:
            cases += [(name, ""), (name, setting.choices[0].upper())]
        if setting.low is not None:
            low = kind(setting.low)
            cases.append((name, low if setting.exclusive_low else low - step))
        if setting.high is not None:
            high = kind(setting.high)
            cases.append((name, high if setting.exclusive_high else high + step))
        if kind is float:
            cases += [(name, math.nan), (name, math.inf), (name, -math.inf)]
            cases.append((name, 10**400))
    return cases


def _ends_of_range() -> list[tuple[str, object]]:
    """Name and value just inside of what each setting accepts, at both ends."""
    cases: list[tuple[str, object]] = []
    for name, (setting, kind, _) in SETTINGS.items():
        step = 1 if kind is int else 1e-6
        cases += [(name, choice) for choice in setting.choices]
        if setting.low is not None:
            low = kind(setting.low)
            cases.append((name, low + step if setting.exclusive_low else low))
        if setting.high is not None:
            high = kind(setting.high)
            cases.append((name, high - step if setting.exclusive_high else high))
        if setting.also is not None:
            cases.append((name, kind(setting.also)))
    return cases


def _wrong_types() -> list[tuple[str, object]]:
    wrong: dict[type, list[object]] = {
        bool: [1, 0.0, "true", None],
        int: [True, 1.0, "1", None],
        float: [True, "0.5", None],
        str: [1, True, None, b"pong"],
    }
    return [
        (name, value)
        for name, (_, kind, _) in SETTINGS.items()
        for value in wrong[kind]
    ]


def test_every_setting_with_a_range_is_in_the_cases():
    free = {"env", "run_dir"}
    covered = {name for name, _ in _out_of_range()}
    switches = {name for name, (_, kind, _) in SETTINGS.items() if kind is bool}
    assert covered == set(SETTINGS) - free - switches


@pytest.mark.parametrize(("name", "value"), _out_of_range() + _wrong_types())
def test_refuses_and_names_setting_value_and_range(name, value):
    setting, kind, _ = SETTINGS[name]
    with pytest.raises(UserError) as raised:
        Config(**{name: value})
    message = str(raised.value)
    assert message == (
        f"`{name}` must be {described(setting, kind)}. Received: {name}={value!r}"
    )
    assert "\n" not in message


@pytest.mark.parametrize(("name", "value"), _ends_of_range())
def test_accepts_the_ends_of_the_range(name, value):
    assert getattr(Config(**{name: value}), name) == value


def test_no_value_between_the_special_one_and_the_range():
    with pytest.raises(UserError, match=r"must be -1, or a number >= 0 and < 1\."):
        Config(repeat_action_probability=-0.5)


def test_every_setting_has_group_help_and_a_default_that_is_accepted():
    for name, (setting, kind, default) in SETTINGS.items():
        assert setting.group, name
        assert setting.help.endswith("."), name
        assert kind in (bool, int, float, str), name
        assert setting.accepts(default), name


def test_round_trip_through_json():
    config = Config(
        env="CartPole-v1", num_envs=3, discount=1, damping=1 / 3, deterministic=True
    )
    restored = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    assert list(config.to_dict()) == list(SETTINGS)


def test_an_integer_for_a_number_becomes_a_number():
    for value in (1, np.float64(1.0)):
        assert type(Config(discount=value).discount) is float


def test_from_dict_names_an_unknown_setting_and_the_closest():
    values = {**Config().to_dict(), "num_env": 3}
    with pytest.raises(
        UserError, match=re.escape("`num_env`. Did you mean num_envs, ")
    ):
        Config.from_dict(values)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1  # type: ignore[misc]


def test_batch_and_updates():
    config = Config(num_envs=4, unroll_length=5, total_steps=101)
    assert config.batch_size == 20
    assert config.total_updates == 6
    assert dataclasses.replace(config, total_steps=100).total_updates == 5


@pytest.mark.parametrize("name", SETTINGS)
def test_a_continued_run_may_change_only_what_is_resumable(name):
    setting, kind, default = SETTINGS[name]
    other = {
        bool: lambda: not default,
        str: lambda: setting.choices[-1] if setting.choices else "other",
        int: lambda: default + 1,
        float: lambda: 0.37,
    }[kind]()
    if other == default:
        other = setting.choices[0]
    found = differences(Config(), Config(**{name: other}))
    if setting.resumable:
        assert found == []
    else:
        assert found == [f"{name}: started with {default!r}, now {other!r}"]


def test_differences_are_all_named_in_order():
    found = differences(Config(seed=1, env="a"), Config(seed=2, env="b", run_dir="c"))
    assert [text.partition(":")[0] for text in found] == ["env", "seed"]
    assert differences(Config(seed=1), Config(seed=1)) == []
