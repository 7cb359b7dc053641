"""The environment that the documentation writes, trained by the command it gives."""

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


def train(directory: Path, *flags: str) -> np.ndarray:
    """Runs the command in a directory with the module; the returns of its episodes."""
    (directory / "robot.py").write_text(block("robot.py"))
    python, *command = shlex.split(block("robot command"))
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *command, "--noprogress_bar", *flags],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (directory / "runs" / "robot" / "export" / "saved_model.pb").is_file()
    path = directory / "runs" / "robot" / EPISODES_FILE
    return np.loadtxt(path, delimiter=",", skiprows=1)[:, 1]


def test_it_trains(tmp_path):
    returns = train(tmp_path, "--total_steps=512", "--evaluation_period=none")
    assert len(returns) == 8
    assert (returns < 0).all()


@pytest.mark.slow
def test_it_learns(tmp_path):
    returns = train(tmp_path)
    # Who goes straight there is on the way for ten steps on average.
    assert returns[:100].mean() < -80
    assert returns[-100:].mean() > -30
