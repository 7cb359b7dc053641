import re
import shlex
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from absl.flags import FlagValues
from runs.policies import CARTPOLE, make_policy

from acktr_tf import evaluate, export
from acktr_tf.cli import flags
from acktr_tf.cli.flag_files import expand
from acktr_tf.runs.saved_model import export_policy

README = Path(__file__).parents[1] / "README.md"
PAGE = README.parent / "docs" / "first_steps.md"


def blocks(page):
    """Language and text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def commands(page):
    return [
        command
        for language, text in blocks(page)
        for line in text.splitlines()
        for command in line.split(" && ")
        if not language and command.startswith("python -m acktr_tf.")
    ]


COMMANDS = commands(PAGE)
DEFINE = {
    "acktr_tf.launch": flags.define_settings,
    "acktr_tf.evaluate": evaluate.define_flags,
    "acktr_tf.export": export.define_flags,
}


@pytest.mark.parametrize("line", [*COMMANDS, *commands(README)])
def test_the_commands_are_accepted(line):
    _, _, program, *arguments = shlex.split(line)
    values = FlagValues()
    DEFINE[program](values)
    flags.parse(values, list(expand(arguments)))


def test_all_commands_are_shown():
    assert {shlex.split(line)[2] for line in COMMANDS} == set(DEFINE)


def test_the_readme_goes_on_with_the_run_that_it_begins():
    first, *rest = commands(README)
    run_dir = re.search(r"--run_dir=\S+", first)[0]
    assert shlex.split(first)[2] == "acktr_tf.launch"
    later = [line for line in rest if "--run_dir" in line]
    assert {shlex.split(line)[2] for line in later} == set(DEFINE)
    assert all(run_dir in line.split() for line in later)
    # What comes with the repository is not written over.
    exported = [re.search(r"--model=(\S+)", x)[1] for x in rest if ".export" in x]
    assert exported
    assert not any((README.parent / model).exists() for model in exported)


def test_the_program_plays_a_game(tmp_path, monkeypatch, capsys):
    policy = make_policy(CARTPOLE)
    export_policy(policy, CARTPOLE, tmp_path / "models" / "my_pole", {})
    monkeypatch.chdir(tmp_path)
    (program,) = [text for language, text in blocks(PAGE) if language == "python"]
    exec(compile(program, str(PAGE), "exec"), {})
    environment = gymnasium.make("CartPole-v1")
    observation, _ = environment.reset(seed=0)
    total, ended = 0.0, False
    while not ended:
        action = int(np.argmax(policy(observation[np.newaxis]).parameters))
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, ended = total + float(reward), terminated or truncated
    assert capsys.readouterr().out == f"return {total}\n"
