"""The environment that the documentation writes, trained by the command it gives."""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acktr_tf.runs.logs import EPISODES_FILE

PAGE = Path(__file__).parents[1] / "docs" / "environments.md"
TEXT = PAGE.read_text("utf-8")


def block(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", TEXT, re.DOTALL)
    assert match, name
    return match[1]


def train(name: str, directory: Path, *flags: str) -> np.ndarray:
    """Runs the command in a directory with the module; the returns of its episodes."""
    (directory / f"{name}.py").write_text(block(f"{name}.py"))
    python, *command = shlex.split(block(f"{name} command"))
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *command, "--noprogress_bar", *flags],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (directory / "runs" / name / "export" / "saved_model.pb").is_file()
    path = directory / "runs" / name / EPISODES_FILE
    return np.loadtxt(path, delimiter=",", skiprows=1)[:, 1]


def test_it_trains(tmp_path):
    returns = train("robot", tmp_path, "--total_steps=512", "--evaluation_period=none")
    assert len(returns) == 8
    assert (returns < 0).all()


@pytest.mark.slow
def test_it_learns(tmp_path):
    returns = train("robot", tmp_path)
    # Who goes straight there is on the way for ten steps on average.
    assert returns[:100].mean() < -80
    assert returns[-100:].mean() > -30


# It raises where an action is forbidden.
@pytest.mark.slow  # A process of its own; masks have quicker tests.
def test_the_masked_one_trains(tmp_path):
    returns = train("tour", tmp_path, "--total_steps=512", "--evaluation_period=none")
    assert len(returns) == 96  # Of 64 steps in each of 8 environments, 5 a tour.


@pytest.mark.slow
def test_the_masked_one_learns(tmp_path):
    returns = train("tour", tmp_path)
    module = {"__name__": "tour"}
    exec(block("tour.py").partition("gymnasium.register")[0], module)
    towns = module["TOWNS"]
    lengths = [
        np.linalg.norm(np.diff(towns[[0, *rest]], axis=0), axis=1).sum()
        for rest in itertools.permutations(range(1, len(towns)))
    ]
    assert returns[:100].mean() == pytest.approx(-np.mean(lengths), abs=0.7)
    assert returns[-100:].mean() > -1.03 * min(lengths)
