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

PAGE = Path(__file__).parents[1] / "docs" / "first_steps.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
COMMANDS = [
    line
    for language, text in BLOCKS
    for line in text.splitlines()
    if not language and line.startswith("python -m acktr_tf.")
]
DEFINE = {
    "acktr_tf.launch": flags.define_settings,
    "acktr_tf.evaluate": evaluate.define_flags,
    "acktr_tf.export": export.define_flags,
}


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_accepted(line):
    _, _, program, *arguments = shlex.split(line)
    values = FlagValues()
    DEFINE[program](values)
    flags.parse(values, list(expand(arguments)))


def test_all_commands_are_shown():
    assert {shlex.split(line)[2] for line in COMMANDS} == set(DEFINE)


def test_the_program_plays_a_game(tmp_path, monkeypatch, capsys):
    policy = make_policy(CARTPOLE)
    export_policy(policy, CARTPOLE, tmp_path / "models" / "my_pole", {})
    monkeypatch.chdir(tmp_path)
    (program,) = [text for language, text in BLOCKS if language == "python"]
    exec(compile(program, str(PAGE), "exec"), {})
    environment = gymnasium.make("CartPole-v1")
    observation, _ = environment.reset(seed=0)
    total, ended = 0.0, False
    while not ended:
        action = int(np.argmax(policy(observation[np.newaxis]).parameters))
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, ended = total + float(reward), terminated or truncated
    assert capsys.readouterr().out == f"return {total}\n"
