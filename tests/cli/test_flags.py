import dataclasses
import os
import re
import sysconfig
from pathlib import Path

import pytest
from absl.flags import FLAGS, FlagValues

from acktr_tf.cli import flag_files
from acktr_tf.cli.flag_files import Argument
from acktr_tf.cli.flags import (
    chosen_algorithm,
    config_from,
    define,
    define_settings,
    parse,
    setting_flags,
)
from acktr_tf.config import Config, Entry, configure, entries
from acktr_tf.config.algorithms import ALGORITHMS
from acktr_tf.config.setting import Setting, Settings, describe, setting, show
from acktr_tf.errors import UserError

PRESETS = Path(flag_files.__file__).parents[2] / "launch"
CASES = [
    (algorithm, entry)
    for algorithm in ALGORITHMS
    for entry in entries(algorithm).values()
    if entry.path != "algorithm"
]


def read(*arguments: str) -> Config:
    return config_from(arguments)


def value_of(config: Config, entry: Entry) -> object:
    return config.to_dict()[entry.path]


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
    for algorithm in ALGORITHMS:
        values = FlagValues()
        define_settings(values, [Argument(f"--algorithm={algorithm}")])
        flags = setting_flags(values)
        known = entries(algorithm)
        assert [flag.name for flag in flags] == list(known)
        for flag, entry in zip(flags, known.values(), strict=True):
            assert flag.entry == entry
            assert flag.default == entry.default
            assert flag.boolean == (entry.kind is bool)
            assert flag.flag_type() == entry.kind.__name__
            assert flag.shown_default == show(entry.default, entry.setting)
            assert flag.help.startswith(entry.setting.help)
            assert f"in {entry.setting.unit}." in flag.help or not entry.setting.unit
            assert entry.setting.source in flag.help
            words = describe(entry.setting, entry.kind)
            plain = entry.kind in (bool, str) and not entry.setting.none
            assert words[1:] in flag.help or plain
    assert set(FLAGS) == before


def test_without_flags_every_setting_has_its_default():
    assert read() == Config()
    assert read("--algorithm=a2c") == configure(algorithm="a2c")


def test_each_flag_sets_its_setting():
    for algorithm, entry in CASES:
        path, _, about, kind, default = entry
        value = {
            bool: not default,
            int: 7,
            float: 0.125,
            str: about.choices[-1] if about.choices else "some text",
        }[kind]
        text = str(value).lower() if kind is bool else str(value)
        given = [[f"--{path}={text}"], [f"-{path}={text}"]]
        if kind is not bool:
            given.append([f"--{path}", text])
        for arguments in given:
            config = read(f"--algorithm={algorithm}", *arguments)
            assert value_of(config, entry) == value
            # Nothing else.
            assert config == configure(algorithm=algorithm, **{path: value})


def test_the_words_for_none():
    words = set()
    for algorithm, entry in CASES:
        if word := entry.setting.none:
            words.add(word)
            for arguments in ([f"--{entry.path}={word}"], [f"--{entry.path}", word]):
                config = read(f"--algorithm={algorithm}", *arguments)
                assert value_of(config, entry) is None
    assert words == {"none", "auto"}
    assert refusal("--target_kl=auto") == (
        "`target_kl` must be none, or a number > 0. Received: target_kl='auto'"
    )


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
    assert read("--deterministic", argument).run.deterministic is value


def test_an_equals_sign_in_a_value_belongs_to_it():
    assert read("--run_dir=runs/a=b").run.run_dir == "runs/a=b"


def test_a_negative_number_may_be_an_argument_of_its_own():
    assert read("--initial_log_std", "-1").policy.initial_log_std == -1.0


def test_the_later_of_two_values_wins():
    assert read("--seed=1", "--seed=2").run.seed == 2


def test_a_wrong_value_is_named_with_what_is_accepted():
    for algorithm, entry in CASES:
        path, _, about, kind, _ = entry
        texts = ["x"] if about.choices else []
        texts += [] if kind is str else ["abc", ""]
        texts += {float: ["nan", "inf"], int: ["1.5"]}.get(kind, [])
        if about.low is not None:
            low = about.low if about.exclusive_low else about.low - 1
            texts.append(f"{kind(low)}")
        for text in texts:
            message = refusal(f"--algorithm={algorithm}", f"--{path}={text}")
            assert message.startswith(
                f"`{path}` must be {describe(about, kind)}. Received: {path}="
            )
            assert text in message


def test_an_unknown_flag_is_named_with_the_closest():
    assert refusal("--num_env=3").startswith(
        "Unknown flag `--num_env`. Did you mean --num_envs"
    )
    assert "Did you mean --num_envs" in refusal("--num-envs=3")
    assert "Did you mean --noprogress_bar" in refusal("--noprogres_bar")
    assert "Did you mean --critic.damping" in refusal("--critic_damping=1")
    assert "Did you mean --critic.damping" in refusal("--crtic.damping=1")
    assert refusal("--zzzzzzzz") == "Unknown flag `--zzzzzzzz`."


@pytest.mark.parametrize(
    "text", ["pong", "--", "-", "", "---seed=1", "--=1", "--7=1", "--.a=1"]
)
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
    assert "Unknown flag `--noseed`" in refusal("--noseed")


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    switch: bool = setting(True, "Switch.")
    size: int = setting(1, "Size.", low=1)


def test_a_command_can_define_flags_of_its_own():
    values = FlagValues()
    define(values, Inner().entries())
    parse(values, [Argument("--size=3"), Argument("--noswitch")])
    assert (values.size, values.switch) == (3, False)
    with pytest.raises(UserError, match="`size` must be an integer >= 1"):
        parse(values, [Argument("--size=0")])
    # Not a run's: no algorithm is spoken of.
    with pytest.raises(UserError, match=r"^Unknown flag `--kl_radius`\.$"):
        parse(values, [Argument("--kl_radius=1")])
    about = Setting("Text.")
    define(values, [Entry("text", "Other", about, str, "")])
    assert setting_flags(values)[-1].shown_default == "empty"


def test_dots_in_the_names_of_switches():
    values = FlagValues()
    define(values, Inner().entries("inner."))
    for text, switch in [
        ("--noinner.switch", False),
        ("--inner.switch", True),
        ("-inner.switch=false", False),
        ("--inner.switch=true", True),
    ]:
        parse(values, [Argument(text)])
        assert values["inner.switch"].value is switch
    for text in ("--nonner.switch", "--inner.noswitch", "--noinner.size"):
        with pytest.raises(UserError, match=f"Unknown flag `{text}`"):
            parse(values, [Argument(text)])
    with pytest.raises(UserError, match=r"`--noinner\.switch` takes no value"):
        parse(values, [Argument("--noinner.switch=1")])


# The algorithm ----------------------------------------------------------------------


def test_the_last_algorithm_decides_which_flags_there_are(directory):
    assert read("--kl_radius=1", "--algorithm=a2c", "--algorithm=acktr") == configure(
        kl_radius=1
    )
    assert read("--rmsprop_decay=0.5", "--algorithm", "a2c") == configure(
        algorithm="a2c", rmsprop_decay=0.5
    )
    (directory / "a2c.flags").write_text("--algorithm=a2c\n")
    (directory / "acktr.flags").write_text("--flagfile=a2c.flags\n--algorithm=acktr\n")
    assert read("--flagfile=a2c.flags").run.algorithm == "a2c"
    assert read("--algorithm=acktr", "--flagfile=a2c.flags").run.algorithm == "a2c"
    assert read("--flagfile=a2c.flags", "--algorithm=acktr").run.algorithm == "acktr"
    assert read("--flagfile=acktr.flags", "--kl_radius=1") == configure(kl_radius=1)


def test_a_flag_of_another_algorithm_is_named_with_file_and_line(directory):
    assert refusal("--algorithm=a2c", "--kl_radius=0.1") == (
        "`--kl_radius` belongs to acktr; the run's algorithm is a2c. Leave it out, or "
        "choose --algorithm=acktr."
    )
    assert refusal("--rmsprop_decay=0.9").startswith("`--rmsprop_decay` belongs to a2c")
    assert refusal("--critic.damping=1", "--algorithm=a2c").startswith(
        "`--critic.damping` belongs to acktr"
    )
    (directory / "x.flags").write_text("--algorithm=a2c\n\n--critic.damping=0.1\n")
    assert refusal("--flagfile=x.flags") == (
        "`--critic.damping` belongs to acktr; the run's algorithm is a2c. Leave it "
        f"out, or choose --algorithm=acktr. ({directory / 'x.flags'}, line 3)"
    )


def test_an_unknown_algorithm_is_named_with_file_and_line(directory):
    path = directory / "x.flags"
    path.write_text("--seed=1\n--algorithm=acktor\n")
    message = refusal("--flagfile=x.flags")
    assert message.startswith("Unknown algorithm `acktor`. Did you mean acktr?")
    assert message.endswith(f" ({path}, line 2)")
    assert "my_module:MyAlgorithm" in refusal("--algorithm=")


def test_an_algorithm_without_a_value():
    message = "`--algorithm` needs a value: --algorithm=<value>."
    assert refusal("--algorithm") == message
    assert refusal("--algorithm", "--seed=1") == message
    assert chosen_algorithm([Argument("--algorithm")]) == ("acktr", "")


def test_a_value_does_not_name_the_algorithm():
    assert read("--run_dir", "algorithm=a2c").run.algorithm == "acktr"


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
    assert read(*arguments) == configure(
        seed=3,
        num_envs=5,
        deterministic=True,
        progress_bar=False,
        run_dir="some where",
    )


def test_a_flag_file_as_editors_on_windows_write_it(directory):
    (directory / "a.flags").write_bytes(b"\xef\xbb\xbf--seed=3\r\n--env=pong\r\n")
    assert read("--flagfile=a.flags") == configure(seed=3, env="pong")


def test_a_flag_file_stands_in_the_place_of_its_flag(directory):
    (directory / "a.flags").write_text("--seed=1\n")
    (directory / "b.flags").write_text("--seed=2\n")
    assert read("--seed=0", "--flagfile=a.flags").run.seed == 1
    assert read("--flagfile=a.flags", "--seed=0").run.seed == 0
    assert read("--flagfile=a.flags", "--flagfile=b.flags").run.seed == 2
    assert read("--flagfile=b.flags", "--flagfile=a.flags").run.seed == 1


def test_nested_flag_files(directory):
    (directory / "inner.flags").write_text("--seed=2\n--num_envs=2\n--env=inner\n")
    (directory / "outer.flags").write_text(
        "--seed=1\n--flagfile=inner.flags\n--num_envs=3\n"
    )
    config = read("--flagfile=outer.flags")
    assert (config.run.seed, config.environment.num_envs, config.environment.env) == (
        2,
        3,
        "inner",
    )
    # Twice is not a circle.
    assert (
        read("--flagfile=outer.flags", "--flagfile=inner.flags").environment.num_envs
        == 2
    )


def test_lookup_order(directory, presets):
    beside, installed = presets
    (installed / "a.flags").write_text("--seed=3\n")
    assert read("--flagfile=a.flags").run.seed == 3
    (beside / "a.flags").write_text("--seed=2\n")
    assert read("--flagfile=a.flags").run.seed == 2
    (directory / "a.flags").write_text("--seed=1\n")
    assert read("--flagfile=a.flags").run.seed == 1
    assert [path.parent for path in flag_files.presets()] == [beside]


def test_nested_names_are_looked_up_like_any_other(directory, presets):
    (presets[1] / "preset.flags").write_text("--seed=3\n--num_envs=3\n")
    (directory / "sub").mkdir()
    (directory / "sub" / "mine.flags").write_text(
        "--flagfile=preset.flags\n--num_envs=4\n"
    )
    config = read("--flagfile=sub/mine.flags")
    assert (config.run.seed, config.environment.num_envs) == (3, 4)
    # Not relative to the file that names it.
    (directory / "sub" / "preset.flags").write_text("--seed=9\n")
    assert read("--flagfile=sub/mine.flags").run.seed == 3


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
    assert read(f"--flagfile={home}/a.flags").run.seed == 4
    assert read("--flagfile=~/a.flags").run.seed == 4
    (directory / "b.flags").write_text("--flagfile=~/a.flags\n")
    assert read("--flagfile=b.flags").run.seed == 4


def test_a_pipe_is_a_flag_file_too():
    reader, writer = os.pipe()
    os.write(writer, b"--seed=6\n")
    os.close(writer)
    try:
        assert read(f"--flagfile=/dev/fd/{reader}").run.seed == 6
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
        ("--num_env=3", "Unknown flag `--num_env`. Did you mean --num_envs"),
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
    assert read("--flagfile=a.flags").run.run_dir == "runs/a#1"


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
    assert config == configure(
        env="PongNoFrameskip-v4", network="nature_cnn", evaluation_period=250_000
    )
    assert (config.batch_size, config.run.total_steps) == (640, 10_000_000)


def test_atari_a2c_is_the_baseline():
    config = read("--flagfile=atari_a2c.flags")
    assert (config.run.algorithm, config.environment.env) == (
        "a2c",
        "PongNoFrameskip-v4",
    )
    assert (config.environment.num_envs, config.run.unroll_length) == (16, 5)
    assert (
        config.algorithm.learning_rate.learning_rate,
        config.algorithm.learning_rate.learning_rate_schedule,
    ) == (7e-4, "linear")
    assert (
        config.algorithm.rmsprop.rmsprop_decay,
        config.algorithm.rmsprop.rmsprop_epsilon,
    ) == (0.99, 1e-5)
    assert (
        config.algorithm.rmsprop.max_gradient_norm,
        config.policy.conv3_filters,
    ) == (0.5, 64)
    assert (config.algorithm.loss.entropy_cost, config.algorithm.loss.value_cost) == (
        0.01,
        0.5,
    )


@pytest.mark.parametrize("algorithm", ["acktr", "a2c"])
def test_cartpole_is_learnt_in_a_hundred_thousand_steps(algorithm):
    suffix = "" if algorithm == "acktr" else "_a2c"
    config = read(f"--flagfile=cartpole{suffix}.flags")
    assert (config.environment.env, config.run.algorithm) == ("CartPole-v1", algorithm)
    assert config.run.total_steps <= 100_000
