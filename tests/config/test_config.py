"""Settings of a run: values, names, groups, algorithms."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from acktr_tf.config import (
    Config,
    Entry,
    Settings,
    configure,
    differences,
    entries,
    find_algorithm,
)
from acktr_tf.config.a2c import A2CSettings
from acktr_tf.config.acktr import ACKTRSettings
from acktr_tf.config.algorithms import ALGORITHMS
from acktr_tf.config.setting import describe, group, setting
from acktr_tf.errors import UserError

CASES = [
    (algorithm, entry)
    for algorithm in ALGORITHMS
    for entry in entries(algorithm).values()
    if entry.path != "algorithm"
]


def refusal(algorithm: str = "acktr", **values: Any) -> str:
    with pytest.raises(UserError) as raised:
        configure(algorithm=algorithm, **values)
    message = str(raised.value)
    assert "\n" not in message
    return message


def out_of_range(entry: Entry) -> Iterator[object]:
    """Values just outside of what a setting accepts, at both ends."""
    setting, kind = entry.setting, entry.kind
    step = 1 if kind is int else 1e-6
    if setting.choices:
        yield from ("", setting.choices[0].upper())
    if setting.low is not None:
        yield kind(setting.low) if setting.exclusive_low else kind(setting.low) - step
    if setting.high is not None:
        high = kind(setting.high)
        yield high if setting.exclusive_high else high + step
    if kind is float:
        yield from (math.nan, math.inf, -math.inf, 10**400)


def wrong_types(entry: Entry) -> list[object]:
    wrong: dict[type, list[object]] = {
        bool: [1, 0.0, "true"],
        int: [True, 1.0, "1"],
        float: [True, "0.5"],
        str: [1, True, b"pong"],
    }
    none = [] if entry.setting.none else [None]
    words = [word for word in ("none", "auto") if word != entry.setting.none]
    return [*wrong[entry.kind], *none, *(words if entry.kind is not str else [])]


def in_range(entry: Entry) -> Iterator[object]:
    """Values just inside of what a setting accepts, at both ends."""
    setting, kind = entry.setting, entry.kind
    step = 1 if kind is int else 1e-6
    yield from setting.choices
    if setting.low is not None:
        yield kind(setting.low) + step if setting.exclusive_low else kind(setting.low)
    if setting.high is not None:
        high = kind(setting.high)
        yield high - step if setting.exclusive_high else high


# Values -----------------------------------------------------------------------------
def test_every_setting_with_a_range_has_values_outside_of_it():
    without = {entry.path for _, entry in CASES if not list(out_of_range(entry))}
    switches = {entry.path for _, entry in CASES if entry.kind is bool}
    free = {"env", "run_dir", "action_mask", "env_kwargs", "wrappers"}
    assert without == free | switches


def test_refuses_and_names_setting_value_and_range():
    refused = 0
    for algorithm, entry in CASES:
        path = entry.path
        for value in [*out_of_range(entry), *wrong_types(entry)]:
            assert refusal(algorithm, **{path: value}) == (
                f"`{path}` must be {describe(entry.setting, entry.kind)}. "
                f"Received: {path}={value!r}"
            )
            refused += 1
    assert refused > 500


def test_accepts_the_ends_of_the_range():
    for algorithm, entry in CASES:
        for value in in_range(entry):
            config = configure(algorithm=algorithm, **{entry.path: value})
            assert config.to_dict()[entry.path] == value


def test_the_words_for_none():
    nullable = {entry.path for _, entry in CASES if entry.setting.none}
    assert {"target_kl", "max_kl", "kl_radius", "critic.kl_radius"} < nullable
    assert {"run_dir", "pixels", "env_threads", "evaluation_period"} < nullable
    for algorithm, entry in CASES:
        if word := entry.setting.none:
            assert word in ("none", "auto")
            for value in (None, word):
                config = configure(algorithm=algorithm, **{entry.path: value})
                assert config.to_dict()[entry.path] is None
            assert describe(entry.setting, entry.kind).startswith(f"{word}, or ")
    assert refusal(target_kl="auto") == (
        "`target_kl` must be none, or a number > 0. Received: target_kl='auto'"
    )
    # 0 and -1 were the words once.
    assert "must be none, or a number > 0" in refusal(max_kl=0.0)
    assert "must be auto, or a number >= 0" in refusal(value_lambda=-1.0)


def test_every_setting_has_heading_help_and_a_default_that_is_accepted():
    for _, entry in CASES:
        assert entry.heading, entry.path
        assert entry.setting.help.endswith("."), entry.path
        assert entry.kind in (bool, int, float, str), entry.path
        assert entry.setting.accepts(entry.default), entry.path


def test_an_integer_for_a_number_becomes_a_number():
    for value in (1, np.float64(1.0)):
        assert type(configure(discount=value).returns.discount) is float
        config = configure(**{"critic.damping": value})
        assert type(config.algorithm.critic_optimizer.kfac.damping) is float


# Groups and paths -------------------------------------------------------------------
def test_each_part_has_its_own_group():
    config = configure(env="a", hidden_size=3, gae_lambda=0.5, seed=7, damping=0.1)
    assert config.environment.env == "a"
    assert config.policy.hidden_size == 3
    assert config.returns.gae_lambda == 0.5
    assert config.run.seed == 7
    assert config.algorithm.kfac.damping == 0.1


def test_a_path_sets_the_setting_of_that_place_only():
    config = configure(**{"critic.damping": 0.3, "critic.learning_rate": 0.1})
    assert config.algorithm.critic_optimizer.kfac.damping == 0.3
    assert config.algorithm.critic_optimizer.learning_rate.learning_rate == 0.1
    default = configure()
    assert config.algorithm.kfac == default.algorithm.kfac
    assert config.algorithm.learning_rate == default.algorithm.learning_rate


def test_the_optimizers_have_the_same_settings():
    known = set(entries("acktr"))
    kfac = {entry.path for entry in ACKTRSettings().kfac.entries()}
    assert kfac
    assert kfac <= known
    assert {f"critic.{path}" for path in kfac} <= known


def test_a_group_s_sources_are_those_of_its_place():
    known = entries("acktr")
    assert "Pong" in known["learning_rate"].setting.source
    # A default of this place does not have the source of the group's own.
    assert known["critic.learning_rate"].setting.source == ""
    assert known["critic.learning_rate_schedule"].setting.source
    assert "0.95" in known["critic.factor_decay"].setting.source
    assert "Stable-Baselines3" in entries("a2c")["learning_rate"].setting.source


def test_a_wrong_value_in_a_group_is_named_by_its_path():
    assert refusal(**{"critic.damping": 0.0}) == (
        "`critic.damping` must be a number > 0. Received: critic.damping=0.0"
    )
    with pytest.raises(UserError, match="`damping` must be a number > 0"):
        ACKTRSettings().kfac.from_paths({"damping": 0.0})


def test_settings_without_effect():
    assert configure().algorithm.without_effect() == "critic."
    assert configure(critic="separate").algorithm.without_effect() == ""
    assert configure(algorithm="a2c").algorithm.without_effect() == ""


# Algorithms -------------------------------------------------------------------------
def test_each_algorithm_has_its_settings_and_its_defaults():
    assert type(configure().algorithm) is ACKTRSettings
    config = configure(algorithm="a2c")
    assert type(config.algorithm) is A2CSettings
    assert config.algorithm.learning_rate.learning_rate == 0.0007
    assert config.algorithm.loss.value_cost == 0.5
    assert configure().algorithm.loss.value_cost == 0.25


def test_an_algorithm_may_have_other_defaults_of_shared_settings():
    config = configure(algorithm="a2c")
    assert (config.environment.num_envs, config.run.unroll_length) == (16, 5)
    assert config.returns.gae_lambda == 1.0
    assert (configure().environment.num_envs, configure().run.unroll_length) == (32, 20)
    for path, value in A2CSettings.defaults.items():
        entry = entries("a2c")[path]
        assert entry.default == value
        assert entry.setting.source == A2CSettings.defaults_source
        assert entries("acktr")[path].setting.source != entry.setting.source
    assert configure(algorithm="a2c", num_envs=3).environment.num_envs == 3


def test_a_setting_of_another_algorithm_is_refused_by_name():
    shared = set(entries("acktr")) & set(entries("a2c"))
    for mine, other in (("acktr", "a2c"), ("a2c", "acktr")):
        for path, entry in entries(other).items():
            if path not in shared:
                assert refusal(mine, **{path: entry.default}) == (
                    f"`{path}` belongs to {other}; the run's algorithm is {mine}. "
                    f"Leave it out, or choose algorithm={other}. The settings are "
                    "listed in docs/settings.md."
                )
    assert "rmsprop_decay" not in shared
    assert "kl_radius" not in shared


def test_an_unknown_setting_is_named_with_the_closest():
    assert "`num_env`. Did you mean num_envs, " in refusal(num_env=3)
    message = refusal(**{"critic.dampng": 0.1})
    assert "Unknown setting `critic.dampng`. Did you mean critic.damping" in message


def test_an_unknown_algorithm_is_refused():
    assert refusal("acktor").startswith(
        "Unknown algorithm `acktor`. Did you mean acktr? Accepted: acktr, a2c, or "
    )
    assert "`algorithm` must be text. Received: algorithm=3" in refusal(algorithm=3)
    for name in ("my_module", ":Class", "my_module:", ""):
        assert "my_module:MyAlgorithm" in refusal(name)


@dataclasses.dataclass(frozen=True)
class OwnSettings(Settings):
    heading = "Own"
    defaults: ClassVar[dict[str, Any]] = {"num_envs": 2}

    clip: float = setting(0.2, "Clip.", low=0.0)
    critic: A2CSettings = group(A2CSettings(), prefix="critic.", heading="Own critic")


class Own:
    Settings = OwnSettings


def test_an_algorithm_of_one_s_own(monkeypatch):
    name = f"{__name__}:Own"
    assert find_algorithm(name).load() is Own
    config = configure(algorithm=name, clip=0.1, **{"critic.learning_rate": 1})
    assert config.environment.num_envs == 2
    assert config.algorithm == OwnSettings.from_paths(
        {"clip": 0.1, "critic.learning_rate": 1}
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    headings = [entry.heading for entry in entries(name).values()]
    assert headings.index("Own") < headings.index("Own critic")
    message = refusal(name, kl_radius=0.1)
    assert message.startswith(
        f"`kl_radius` belongs to acktr; the run's algorithm is {name}."
    )


def test_an_algorithm_of_one_s_own_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_algorithm.py").write_text(
        "import dataclasses\n"
        "from acktr_tf.config import Settings, setting\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class OwnSettings(Settings):\n"
        "    heading = 'Own'\n"
        "    epochs: int = setting(3, 'Epochs.', low=1)\n"
        "class Own:\n"
        "    Settings = OwnSettings\n"
        "class Wrong:\n"
        "    Settings = 3\n"
    )
    (tmp_path / "needs_another.py").write_text("import missing_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert configure(algorithm="own_algorithm:Own", epochs=4).algorithm.epochs == 4
    assert "has no `Owm`" in refusal("own_algorithm:Owm")
    for name in ("Wrong", "dataclasses"):
        message = refusal(f"own_algorithm:{name}")
        assert "must be a class whose attribute `Settings` is a subclass" in message
    assert "Settings=3" in refusal("own_algorithm:Wrong")
    assert "names the module own_algoritm, which is not found" in refusal(
        "own_algoritm:Own"
    )
    # What the module itself misses is for its author to see.
    with pytest.raises(ModuleNotFoundError, match="missing_package"):
        configure(algorithm="needs_another:Own")


# The whole --------------------------------------------------------------------------
def test_round_trip_through_json():
    for values in (
        {"discount": 1, "damping": 1 / 3, "deterministic": True, "target_kl": None},
        {"algorithm": "a2c", "rmsprop_decay": 0.5},
    ):
        config = configure(env="CartPole-v1", num_envs=3, **values)
        restored = Config.from_dict(json.loads(json.dumps(config.to_dict())))
        assert restored == config
        assert list(config.to_dict()) == list(entries(config.run.algorithm))


def test_the_default_config_is_that_of_the_default_algorithm():
    assert Config() == configure()
    assert {p: e.default for p, e in entries("acktr").items()} == Config().to_dict()


def test_is_frozen():
    config = configure()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run.seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run = config.run  # type: ignore[misc]


def test_replace():
    config = configure(seed=3, **{"critic.damping": 0.5})
    changed = config.replace(env="x", **{"critic.damping": 0.1})
    assert (changed.environment.env, changed.run.seed) == ("x", 3)
    assert changed.algorithm.critic_optimizer.kfac.damping == 0.1
    assert config.environment.env == "pong"


def test_batch_and_updates():
    config = configure(num_envs=4, unroll_length=5, total_steps=101)
    assert config.batch_size == 20
    assert config.total_updates == 6
    assert config.replace(total_steps=100).total_updates == 5


def test_a_continued_run_may_change_only_what_is_resumable():
    resumable = set()
    for algorithm, entry in CASES:
        path, _, about, kind, default = entry
        other: object = {
            bool: lambda default=default: not default,
            str: lambda about=about: about.choices[-1] if about.choices else "other",
            int: lambda default=default: (default or 0) + 1,
            float: lambda: 0.37,
        }[kind]()
        if other == default:
            other = about.choices[0]
        start = configure(algorithm=algorithm)
        found = differences(start, start.replace(**{path: other}))
        if about.resumable:
            resumable.add(path)
            assert found == []
        else:
            text = f"{path}: started with {default!r}, now {other!r}"
            assert [each.partition(", and in use")[0] for each in found] == [text]
    assert resumable == {
        "env_threads",
        "vectorization",
        "run_dir",
        "checkpoint_seconds",
        "checkpoints_kept",
        "progress_bar",
    }


ACKTR_CONSTANT = {"learning_rate_schedule": "constant", "target_kl": None}


@pytest.mark.parametrize(
    ("settings", "in_use_by"),
    [
        (ACKTR_CONSTANT, ""),
        ({**ACKTR_CONSTANT, "target_kl": 0.1}, "target_kl_schedule"),
        (
            {**ACKTR_CONSTANT, "target_kl": 0.1, "target_kl_schedule": "constant"},
            "",
        ),
        (
            {**ACKTR_CONSTANT, "entropy_cost_schedule": "linear"},
            "entropy_cost_schedule",
        ),
        ({"target_kl": None}, "learning_rate_schedule"),
        # Without a critic of its own, its schedule has no effect.
        ({**ACKTR_CONSTANT, "critic": "separate"}, "critic.learning_rate_schedule"),
        (
            {
                **ACKTR_CONSTANT,
                "critic": "separate",
                "critic.learning_rate_schedule": "constant",
            },
            "",
        ),
        ({"algorithm": "a2c"}, "learning_rate_schedule"),
        ({"algorithm": "a2c", "learning_rate_schedule": "constant"}, ""),
    ],
)
def test_a_run_may_be_made_longer_unless_a_schedule_ends_with_it(
    settings: dict[str, Any], in_use_by: str
) -> None:
    start = configure(**settings, total_steps=500)
    found = differences(start, start.replace(total_steps=501))
    changed = "total_steps: started with 500, now 501, and in use by "
    assert found == ([f"{changed}{in_use_by}=linear"] if in_use_by else [])
    shorter = "total_steps: started with 500, now 499"
    assert differences(start, start.replace(total_steps=499)) == [shorter]
    # Another change is refused as ever.
    other = start.replace(total_steps=501, seed=7)
    assert differences(start, other)[-1] == "seed: started with 0, now 7"


def test_an_algorithm_of_one_s_own_says_whether_its_run_may_be_made_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = configure(algorithm=f"{__name__}:Own", total_steps=500)
    longer = start.replace(total_steps=600)
    (refused,) = differences(start, longer)
    assert refused.endswith(f"now 600, and in use by algorithm={__name__}:Own")
    monkeypatch.setattr(OwnSettings, "depends_on_total_steps", lambda self: [])
    assert differences(start, longer) == []


def test_differences_are_all_named_in_order():
    found = differences(
        configure(seed=1, env="a"), configure(seed=2, env="b", run_dir="c")
    )
    assert [text.partition(":")[0] for text in found] == ["env", "seed"]
    assert differences(configure(seed=1), configure(seed=1)) == []


def test_another_algorithm_is_one_difference():
    assert differences(configure(), configure(algorithm="a2c")) == [
        "algorithm: started with 'acktr', now 'a2c'"
    ]
