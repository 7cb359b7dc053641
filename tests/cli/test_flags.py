import os
import re
import sysconfig
from pathlib import Path

import pytest
from absl.flags import FLAGS, FlagValues

from acktr_tf.cli import flag_files
from acktr_tf.cli.flags import (
    define,
    define_settings,
    parse,
    read_config,
    setting_flags,
)
from acktr_tf.config.config import Config, settings
from acktr_tf.config.setting import Setting, described
from acktr_tf.errors import UserError

SETTINGS = settings()
PRESETS = Path(flag_files.__file__).parents[2] / "launch"


def read(*arguments: str) -> Config:
    values = FlagValues()
    define_settings(values)
    parse(values, arguments)
    return read_config(values)


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as raised:
        read(*arguments)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def presets(tmp_path, monkeypatch) -> list[Path]:
    """Directories in the place of those of the package."""
    paths = [tmp_path / "beside", tmp_path / "installed"]
    for path in paths:
        path.mkdir()
    monkeypatch.setattr(flag_files, "preset_directories", lambda: paths)
    return paths


# Flags ------------------------------------------------------------------------------


def test_a_flag_for_each_setting_and_none_in_the_global_flags():
    before = set(FLAGS)
    values = FlagValues()
    define_settings(values)
    flags = setting_flags(values)
    assert [flag.name for flag in flags] == list(SETTINGS)
    assert set(FLAGS) == before
    for flag in flags:
        setting, kind, default = SETTINGS[flag.name]
        assert flag.default == default
        assert type(flag.default) is kind
        assert flag.boolean == (kind is bool)
        assert flag.flag_type() == kind.__name__
        assert flag.help.startswith(setting.help)
        assert f"in {setting.unit}." in flag.help or not setting.unit
        assert setting.source in flag.help
        words = described(setting, kind)
        assert words[1:] in flag.help or kind in (bool, str)


def test_without_flags_every_setting_has_its_default():
    assert read() == Config()


@pytest.mark.parametrize("name", SETTINGS)
def test_each_flag_sets_its_setting(name):
    setting, kind, default = SETTINGS[name]
    value = {
        bool: not default,
        int: 7,
        float: 0.125,
        str: setting.choices[-1] if setting.choices else "some text",
    }[kind]
    text = str(value).lower() if kind is bool else str(value)
    for arguments in ([f"--{name}={text}"], [f"-{name}={text}"]):
        assert getattr(read(*arguments), name) == value
    if kind is not bool:
        assert getattr(read(f"--{name}", text), name) == value


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--deterministic", True),
        ("--deterministic=true", True),
        ("--deterministic=1", True),
        ("--nodeterministic", False),
        ("--deterministic=False", False),
    ],
)
def test_switches(argument, value):
    assert read("--deterministic", argument).deterministic is value


def test_an_equals_sign_in_a_value_belongs_to_it():
    assert read("--run_dir=runs/a=b").run_dir == "runs/a=b"


def test_a_negative_number_may_be_an_argument_of_its_own():
    config = read("--repeat_action_probability", "-1")
    assert config.repeat_action_probability == -1.0


def test_the_later_of_two_values_wins():
    assert read("--seed=1", "--seed=2").seed == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "abc") for name, row in SETTINGS.items() if row[1] is not str),
        *((name, "") for name, row in SETTINGS.items() if row[1] is not str),
        *((name, "x") for name, row in SETTINGS.items() if row[0].choices),
        *((name, "nan") for name, row in SETTINGS.items() if row[1] is float),
        *((name, "inf") for name, row in SETTINGS.items() if row[1] is float),
        *((name, "1.5") for name, row in SETTINGS.items() if row[1] is int),
        ("num_envs", "0"),
        ("seed", "2147483648"),
        ("momentum", "1"),
        ("kl_radius", "0"),
        ("kl_radius", "-0.001"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(name, text):
    setting, kind, _ = SETTINGS[name]
    message = refusal(f"--{name}={text}")
    assert message.startswith(
        f"`{name}` must be {described(setting, kind)}. Received: {name}="
    )
    assert text in message


def test_an_unknown_flag_is_named_with_the_closest():
    assert refusal("--num_env=3").startswith(
        "Unknown flag --num_env. Did you mean --num_envs"
    )
    assert "Did you mean --num_envs" in refusal("--num-envs=3")
    assert "Did you mean --noprogress_bar" in refusal("--noprogres_bar")
    assert refusal("--zzzzzzzz") == "Unknown flag --zzzzzzzz."


@pytest.mark.parametrize("text", ["pong", "--", "-", "", "---seed=1", "--=1", "--7=1"])
def test_an_argument_that_is_no_flag_is_refused(text):
    assert refusal("--seed=1", text) == (
        f"Arguments are flags, --name=value. Received: {text!r}."
    )


def test_a_flag_file_without_its_flag_gets_a_hint():
    assert refusal("atari.flags").endswith("Did you mean --flagfile=atari.flags?")


@pytest.mark.parametrize("name", ["seed", "run_dir", "flagfile"])
def test_a_missing_value_is_refused(name):
    assert refusal(f"--{name}") == f"`--{name}` needs a value: --{name}=<value>."
    # Not taken for the value, which of run_dir could be any text.
    assert refusal(f"--{name}", "--num_envs=3") == refusal(f"--{name}")


def test_the_negation_of_a_switch_takes_no_value():
    assert "`--noprogress_bar` takes no value" in refusal("--noprogress_bar=true")


def test_only_switches_have_a_negation():
    assert "Unknown flag --noseed" in refusal("--noseed")


def test_a_command_can_define_flags_of_its_own():
    values = FlagValues()
    define(values, "games", 100, Setting("evaluation", "Games to play.", low=1))
    parse(values, ["--games=3"])
    assert values.games == 3
    with pytest.raises(UserError, match="`games` must be an integer >= 1"):
        parse(values, ["--games=0"])


# Flag files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--flagfile=a.flags"],
        ["-flagfile=a.flags"],
        ["--flagfile", "a.flags"],
        ["-flagfile", "a.flags"],
    ],
)
def test_flag_file(directory, arguments):
    (directory / "a.flags").write_text(
        "# comment\n// comment\n\n  --seed=3  \n-num_envs=5\n--deterministic\n"
        "--noprogress_bar\n--run_dir=some where\n"
    )
    assert read(*arguments) == Config(
        seed=3,
        num_envs=5,
        deterministic=True,
        progress_bar=False,
        run_dir="some where",
    )


def test_a_flag_file_as_editors_on_windows_write_it(directory):
    (directory / "a.flags").write_bytes(b"\xef\xbb\xbf--seed=3\r\n--env=pong\r\n")
    assert read("--flagfile=a.flags") == Config(seed=3, env="pong")


def test_a_flag_file_stands_in_the_place_of_its_flag(directory):
    (directory / "a.flags").write_text("--seed=1\n")
    (directory / "b.flags").write_text("--seed=2\n")
    assert read("--seed=0", "--flagfile=a.flags").seed == 1
    assert read("--flagfile=a.flags", "--seed=0").seed == 0
    assert read("--flagfile=a.flags", "--flagfile=b.flags").seed == 2
    assert read("--flagfile=b.flags", "--flagfile=a.flags").seed == 1


def test_nested_flag_files(directory):
    (directory / "inner.flags").write_text("--seed=2\n--num_envs=2\n--env=inner\n")
    (directory / "outer.flags").write_text(
        "--seed=1\n--flagfile=inner.flags\n--num_envs=3\n"
    )
    config = read("--flagfile=outer.flags")
    assert (config.seed, config.num_envs, config.env) == (2, 3, "inner")
    # Twice is not a circle.
    assert read("--flagfile=outer.flags", "--flagfile=inner.flags").num_envs == 2


def test_lookup_order(directory, presets):
    beside, installed = presets
    (installed / "a.flags").write_text("--seed=3\n")
    assert read("--flagfile=a.flags").seed == 3
    (beside / "a.flags").write_text("--seed=2\n")
    assert read("--flagfile=a.flags").seed == 2
    (directory / "a.flags").write_text("--seed=1\n")
    assert read("--flagfile=a.flags").seed == 1
    assert [path.parent for path in flag_files.presets()] == [beside]


def test_nested_names_are_looked_up_like_any_other(directory, presets):
    (presets[1] / "preset.flags").write_text("--seed=3\n--num_envs=3\n")
    (directory / "sub").mkdir()
    (directory / "sub" / "mine.flags").write_text(
        "--flagfile=preset.flags\n--num_envs=4\n"
    )
    config = read("--flagfile=sub/mine.flags")
    assert (config.seed, config.num_envs) == (3, 4)
    # Not relative to the file that names it.
    (directory / "sub" / "preset.flags").write_text("--seed=9\n")
    assert read("--flagfile=sub/mine.flags").seed == 3


def test_the_package_looks_beside_itself_and_where_pip_installs():
    directories = flag_files.preset_directories()
    assert directories[0] == PRESETS
    assert directories[1] == Path(
        sysconfig.get_path("data"), "share", "acktr_tf", "launch"
    )
    scheme = sysconfig.get_preferred_scheme("user")
    assert directories[2] == Path(
        sysconfig.get_path("data", scheme), "share", "acktr_tf", "launch"
    )


def test_absolute_path_and_home(directory, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "a.flags").write_text("--seed=4\n")
    monkeypatch.setenv("HOME", str(home))
    assert read(f"--flagfile={home}/a.flags").seed == 4
    assert read("--flagfile=~/a.flags").seed == 4
    (directory / "b.flags").write_text("--flagfile=~/a.flags\n")
    assert read("--flagfile=b.flags").seed == 4


def test_a_pipe_is_a_flag_file_too():
    reader, writer = os.pipe()
    os.write(writer, b"--seed=6\n")
    os.close(writer)
    try:
        assert read(f"--flagfile=/dev/fd/{reader}").seed == 6
    finally:
        os.close(reader)


def test_a_missing_file_is_named_with_places_and_presets(directory, presets):
    (presets[0] / "atari.flags").touch()
    (presets[1] / "cartpole.flags").touch()
    places = f"Looked in: {directory}, {presets[0]}, {presets[1]}."
    assert refusal("--flagfile=atri.flags") == (
        f"Flag file `atri.flags` is not found. {places} Did you mean atari.flags?"
    )
    assert refusal("--flagfile=cartpole").endswith("Did you mean cartpole.flags?")
    assert refusal("--flagfile=zzz").endswith(
        "The package has atari.flags, cartpole.flags."
    )


def test_a_missing_file_where_there_are_no_presets(directory, monkeypatch):
    monkeypatch.setattr(flag_files, "preset_directories", lambda: [Path("/nowhere")])
    assert refusal("--flagfile=a") == (
        f"Flag file `a` is not found. Looked in: {directory}."
    )


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_no_file_can_have(name):
    assert "is not found" in refusal(f"--flagfile={name}")


def test_a_directory_is_refused(directory):
    (directory / "d").mkdir()
    assert refusal("--flagfile=d") == (
        f"Flag file `d` is a directory: {directory / 'd'}."
    )


def test_an_empty_name_is_refused():
    assert "`--flagfile` needs a name" in refusal("--flagfile=")


def test_a_file_that_is_not_text_is_refused_with_the_line(directory):
    path = directory / "a.flags"
    path.write_bytes(b"--seed=1\n--env=\xff\n")
    message = f"Flag file {path} must be text in UTF-8. Received: the byte 0xff"
    assert refusal("--flagfile=a.flags") == f"{message} in line 2."


def test_a_file_that_cannot_be_read_is_refused():
    # Address 0 of the process, which nothing is mapped to.
    assert refusal("--flagfile=/proc/self/mem") == (
        "Flag file /proc/self/mem cannot be read: Input/output error."
    )


def test_a_file_that_includes_itself_is_refused_with_file_and_line(directory):
    (directory / "a.flags").write_text("# first\n--flagfile=b.flags\n")
    (directory / "b.flags").write_text(f"--flagfile={directory}/../work/a.flags\n")
    message = refusal("--flagfile=a.flags")
    assert "includes itself" in message
    assert message.endswith(f"({directory / 'b.flags'}, line 1)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed=1", "is a comment (#) or one flag, --name=value. Received: seed=1"),
        ("--seed 1", "is a comment (#) or one flag, --name=value. Received: --seed 1"),
        ("--seed=1 # comment", "Text after a value is part of the value"),
        ("--seed=1 // comment", "Text after a value is part of the value"),
        ("--run_dir=runs/a\t# comment", "Text after a value is part of the value"),
        ("--seed=1 --num_envs=3", "Received: seed='1 --num_envs=3'"),
        ('--run_dir="runs/a"', "write the value without quotes"),
        ("--env='pong'", "write the value without quotes"),
        ("--seed", "`--seed` needs a value"),
        ("--flagfile", "`--flagfile` needs a name"),
        ("--flagfile=", "`--flagfile` needs a name"),
        ("--flagfile=missing", "`missing` is not found"),
        ("--num_env=3", "Unknown flag --num_env. Did you mean --num_envs"),
        ("--num_envs=abc", "`num_envs` must be an integer >= 1. Received: num_envs='a"),
        ("--num_envs=0", "`num_envs` must be an integer >= 1. Received: num_envs=0"),
        ("--noprogress_bar=1", "takes no value"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_line(directory, line, message):
    path = directory / "a.flags"
    path.write_text(f"--num_envs=2\n\n{line}\n")
    received = refusal("--flagfile=a.flags")
    assert message in received
    assert received.endswith(f" ({path}, line 3)")


def test_a_hash_within_a_value_is_part_of_it(directory):
    (directory / "a.flags").write_text("--run_dir=runs/a#1\n")
    assert read("--flagfile=a.flags").run_dir == "runs/a#1"


# The package's own flag files -------------------------------------------------------


def test_the_presets_are_found_from_any_directory():
    names = [path.name for path in flag_files.presets()]
    assert {
        "atari.flags",
        "atari_a2c.flags",
        "cartpole.flags",
        "cartpole_a2c.flags",
    } <= set(names)


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.flags")), ids=lambda p: p.name)
def test_presets_are_read_and_begin_with_a_title(path):
    read(f"--flagfile={path.name}")
    assert re.match(r"# \w.{20,}", path.read_text())


def test_atari_is_the_paper_s_setting():
    config = read("--flagfile=atari.flags")
    assert config == Config(
        env="PongNoFrameskip-v4", network="nature_cnn", evaluation_period=250_000
    )
    assert (config.batch_size, config.total_steps) == (640, 10_000_000)


def test_atari_a2c_is_the_baseline():
    config = read("--flagfile=atari_a2c.flags")
    assert (config.algorithm, config.env) == ("a2c", "PongNoFrameskip-v4")
    assert (config.num_envs, config.unroll_length) == (16, 5)
    assert (config.learning_rate, config.learning_rate_schedule) == (7e-4, "linear")
    assert (config.rmsprop_decay, config.rmsprop_epsilon) == (0.99, 1e-5)
    assert (config.max_gradient_norm, config.conv3_filters) == (0.5, 64)
    assert (config.entropy_cost, config.value_cost) == (0.01, 0.5)


@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_cartpole_is_learnt_in_a_hundred_thousand_steps(algorithm):
    suffix = "" if algorithm == "acktr" else "_a2c"
    config = read(f"--flagfile=cartpole{suffix}.flags")
    assert (config.env, config.algorithm) == ("CartPole-v1", algorithm)
    assert config.total_steps <= 100_000
