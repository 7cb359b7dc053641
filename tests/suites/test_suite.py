"""Suite files: what is read, where they are found, and what is refused."""

import gymnasium
import pytest

from acktr_tf.cli import flag_files, flags
from acktr_tf.errors import UserError
from acktr_tf.suites.suite import SUFFIX, find_suite, read_suite

TEXT = """
# Two tasks
[suite]
title = Two = 2
flags = --total_steps=1000 --noprogress_bar

[tasks]
Task.B-v1 = --env=B
a b = --env=A --hidden_size=8
    --num_envs=2

[algorithms]
ACKTR = --flagfile="my flags"
Plain =

[scores]
a b = -1 2.5
Task.B-v1 = 0 10
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty working directory, beside two in the place of the package's."""
    monkeypatch.setattr(
        flag_files,
        "preset_directories",
        lambda: [tmp_path / "beside", tmp_path / "installed"],
    )
    for name in ("work", "beside", "installed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "two.suite"


def refusal(path, text):
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_suite(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# Reading ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_suite_is_read_in_its_order(path, encoding):
    path.write_text(TEXT, encoding=encoding)
    suite = read_suite(path)
    assert suite._asdict() == {
        "name": "two",
        "title": "Two = 2",
        "flags": ["--total_steps=1000", "--noprogress_bar"],
        "tasks": {
            "Task.B-v1": ["--env=B"],
            "a b": ["--env=A", "--hidden_size=8", "--num_envs=2"],
        },
        "algorithms": {"ACKTR": ["--flagfile=my flags"], "Plain": []},
        "scores": {"Task.B-v1": (0.0, 10.0), "a b": (-1.0, 2.5)},
        "greedy": False,
    }
    assert list(suite.tasks) == ["Task.B-v1", "a b"]
    assert list(suite.algorithms) == ["ACKTR", "Plain"]


def test_tasks_and_algorithms_are_enough(path):
    path.write_text("[tasks]\na =\n[algorithms]\nb =\n")
    suite = read_suite(path)
    assert (suite.title, suite.flags, suite.scores) == ("two", [], {})


@pytest.mark.parametrize(("evaluation", "greedy"), [("greedy", True), ("", False)])
def test_a_suite_says_how_policies_are_evaluated(path, evaluation, greedy):
    path.write_text(
        f"[suite]\nevaluation = {evaluation}\n[tasks]\na =\n[algorithms]\nb =\n"
    )
    assert read_suite(path).greedy == greedy


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[suite]", "", "is not a suite: File contains no section headers"),
        ("title", "titel", "`titel` in [suite]. Accepted: title, flags, evaluation."),
        ("title =", "evaluation =", "must be sampled or greedy. Received: Two = 2"),
        ("[scores]", "[score]", "the section [score]. Accepted: [suite], [tasks]"),
        ("[suite]", "[DEFAULT]", "the section [DEFAULT]. Accepted: [suite], [tasks]"),
        ("[algorithms]", "", "must have a section [algorithms] that is not empty"),
        ("Plain", "ACKTR", "'ACKTR' in section 'algorithms' already exists"),
        ("Plain =", "Plain", "'Plain"),
        ("Plain", "../x", "a name in [algorithms] must be letters"),
        ("Plain", ".", "Received: ."),
        ("Plain", "a|b", "Received: a|b"),
        ('"my flags"', '"my flags', "No closing quotation. Received: ACKTR = --flag"),
        ("--env=B", "B", "`Task.B-v1` must be flags, --name=value. Received: B"),
        ("--env=B", "--env B", "`Task.B-v1` must be flags, --name=value. Received: B"),
        ("--env=B", "--env=B # why", "must be flags, --name=value. Received: #"),
        ("--env=B", "--seed=3", "gives each run its --seed and --run_dir. Received"),
        ("--noprogress_bar", "--run_dir=x", "Received: flags = --run_dir=x"),
        ("a b = -1 2.5", "", "Received: Task.B-v1; tasks: Task.B-v1, a b."),
        ("a b = -1", "c = -1", "for each of its tasks, or for none. Received: c, Task"),
        (
            "-1 2.5",
            "3 2.5",
            "must have two numbers per task, low < high. Received: a b",
        ),
        ("-1 2.5", "-1", "must have two numbers per task"),
        ("-1 2.5", "-1 2 3", "must have two numbers per task"),
        ("-1 2.5", "-1 x", "must have two numbers per task"),
        ("-1 2.5", "nan 1", "must have two numbers per task"),
        ("-1 2.5", "0 inf", "must have two numbers per task"),
    ],
)
def test_a_bad_suite_is_refused_in_a_line(path, old, new, message):
    assert TEXT.count(old) >= 1
    assert message in refusal(path, TEXT.replace(old, new))


def test_a_file_that_is_no_text_is_refused(path):
    path.write_bytes(b"[suite]\ntitle = \xff\n")
    with pytest.raises(UserError, match=r"must be text in UTF-8: .*byte 0xff"):
        read_suite(path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_suite(path.parent)


# Where they are ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a.suite"])
def test_the_working_directory_comes_first_and_the_ending_may_be_left_out(
    directory, name
):
    for place in ("installed", "beside", "work"):
        file = directory / place / "a.suite"
        file.touch()
        assert find_suite(name) == file
    # Neither is what is meant.
    (directory / "work" / "a").mkdir()
    (directory / "work" / "a.flags").touch()
    assert find_suite(name) == file


def test_a_path_is_a_name_too(directory, monkeypatch):
    (directory / "own.suite").touch()
    monkeypatch.setenv("HOME", str(directory))
    for name in ("../own", "~/own", f"{directory}/own.suite"):
        assert find_suite(name).samefile(directory / "own.suite")


def test_an_unknown_suite_is_named_with_the_closest(directory):
    (directory / "beside" / "mujoco8.suite").touch()
    (directory / "installed" / "classic.suite").touch()
    (directory / "installed" / "mujoco.flags").touch()
    with pytest.raises(UserError) as raised:
        find_suite("mujoco")
    places = ", ".join(str(directory / n) for n in ("work", "beside", "installed"))
    assert str(raised.value) == (
        f"Suite `mujoco.suite` is not found. Looked in: {places}. "
        "Did you mean mujoco8.suite?"
    )
    with pytest.raises(UserError, match=r"has classic\.suite, mujoco8\.suite\.$"):
        find_suite("zzz")


# The package's own ------------------------------------------------------------------


@pytest.mark.parametrize("path", flag_files.presets(SUFFIX), ids=lambda path: path.name)
def test_the_package_s_suites_are_of_tasks_that_there_are(path):
    assert path.read_text().startswith("# ")
    suite = read_suite(path)
    for name, task in suite.tasks.items():
        assert task == [f"--env={name}"]
        assert gymnasium.spec(name).max_episode_steps
    for algorithm in suite.algorithms.values():
        assert algorithm[0].startswith("--flagfile=")
        for task in suite.tasks.values():
            config = flags.config_from([*algorithm, *suite.flags, *task])
            assert [f"--env={config.environment.env}"] == task


def test_the_mujoco_suite_is_that_of_the_paper():
    suite = read_suite(find_suite("mujoco8"))
    config = flags.config_from([*suite.algorithms["ACKTR"], *suite.flags])
    assert config.run.total_steps == 1_000_000
    paper = [1000, 9375, -4.1, 3520, 2450, 450, 41.7, 1375]
    assert [high for _, high in suite.scores.values()] == paper
    assert [name.removesuffix("-v5") for name in suite.scores] == [
        *("InvertedPendulum", "InvertedDoublePendulum", "Reacher", "Hopper"),
        *("HalfCheetah", "Walker2d", "Swimmer", "Ant"),
    ]
