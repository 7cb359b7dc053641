"""The programs of docs/export.md run as they stand there."""

import re
import sys
import types
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import tensorflow as tf
from runs.policies import CARTPOLE, make_policy

from acktr_tf.runs.saved_model import export_policy

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)


def test_the_programs_convert_a_policy_and_play(tmp_path, monkeypatch, capsys):
    policy = make_policy(CARTPOLE)
    export_policy(policy, CARTPOLE, tmp_path / "models" / "my_pole", {})
    monkeypatch.chdir(tmp_path)
    # The package of the interpreter alone has the one that TensorFlow has.
    litert = types.ModuleType("ai_edge_litert.interpreter")
    litert.Interpreter = tf.lite.Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert)
    assert len(PROGRAMS) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for program in PROGRAMS:
            exec(compile(program, str(PAGE), "exec"), {})
    observation, _ = gymnasium.make("CartPole-v1").reset(seed=0)
    best = np.argmax(policy(observation[np.newaxis]).parameters, axis=1)
    assert capsys.readouterr().out == f"{best}\n"
