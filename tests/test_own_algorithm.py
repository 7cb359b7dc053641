"""The algorithm that the documentation writes: trained, continued, scored, exported."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import REPOSITORY

from acktr_tf import launch

PAGE = (REPOSITORY / "docs" / "your_own_algorithm.md").read_text("utf-8")


def block(name: str) -> str:
    match = re.search(rf"<!-- {re.escape(name)} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert match, name
    return match[1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the module of the page."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "my_reinforce.py").write_text(block("my_reinforce.py"))
    return directory


@pytest.fixture
def here(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is found as `python -m` finds it, but in this process."""
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))


@pytest.fixture(scope="module")
def command() -> list[str]:
    python, module, *command = shlex.split(block("command"))
    assert (python, module) == ("python", "-m")
    return [*command, "--noprogress_bar"]


def column(path: Path, name: str) -> np.ndarray:
    header, *rows = path.read_text().splitlines()
    index = header.split(",").index(name)
    return np.array([float(row.split(",")[index]) for row in rows])


def test_the_page_says_how_long_the_file_is() -> None:
    lines = block("my_reinforce.py").splitlines()
    assert len(lines) <= 80
    assert f"in {len(lines)} lines" in PAGE


# Stops a run by a signal at a step, continues it, plays games and exports: all in one
# process, which loads TensorFlow once.
COMMANDS = """
import os, signal, sys
from acktr_tf import evaluate, export, launch
from acktr_tf.runs.logs import RunLog

stop_at, games, *command = sys.argv[1:]
scalars = RunLog.scalars
def stop(log, step, values):
    scalars(log, step, values)
    if step >= int(stop_at):
        RunLog.scalars = scalars
        os.kill(os.getpid(), signal.SIGTERM)
RunLog.scalars = stop
assert launch.main(command) == 143
assert launch.main(command) == 0
run_dir = "--run_dir=runs/reinforce"
assert evaluate.main([run_dir, "--games=" + games]) == 0
assert export.main([run_dir, "--model=model"]) == 0
"""


@pytest.mark.parametrize(
    ("stop_at", "games", "flags", "at_least"),
    [
        pytest.param(40_000, 20, [], 195, marks=pytest.mark.slow, id="learns"),
        # As far as a command can go wrong; what it learns in so few steps is nothing.
        pytest.param(2_000, 1, ["--total_steps=6000"], 1, id="runs"),
    ],
)
def test_its_command_trains_cartpole_and_continues_evaluates_and_exports(
    directory: Path,
    command: list[str],
    stop_at: int,
    games: int,
    flags: list[str],
    at_least: float,
) -> None:
    run_dir = directory / "runs" / "reinforce"
    shutil.rmtree(run_dir, ignore_errors=True)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            COMMANDS,
            str(stop_at),
            str(games),
            *command[1:],
            *flags,
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Continuing from step" in done.stderr
    assert column(run_dir / "episodes.csv", "episode_return")[-100:].mean() >= at_least
    progress = run_dir / "progress.csv"
    assert np.isfinite(column(progress, "policy_loss")).all()
    assert (column(progress, "share_gradients") > 0).all()
    assert (np.diff(column(progress, "step")) > 0).all()
    (mean,) = re.findall(r"^mean +(\S+)", done.stdout, re.MULTILINE)
    assert float(mean) >= at_least
    assert (directory / "model" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--learning_rate=0"], "`learning_rate` must be a number > 0"),
        (["--kl_radius=0.1"], "`--kl_radius` belongs to acktr; the run's algorithm is"),
        (["--algorithm=my_reinforce:Missing"], "module my_reinforce has no `Missing`"),
        (["--algorithm=nowhere:X"], "names the module nowhere, which is not found"),
        (["--algorithm=my_reinforce:Scalar"], "whose attribute `Settings` is a"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    here: None,
    command: list[str],
    flags: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launch.main([*command[1:], *flags]) == 2
    refusal = capsys.readouterr().err
    assert expected in refusal
    assert len(refusal.splitlines()) == 1


def test_its_flags_are_in_the_help(
    here: None, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main([*command[1:], "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Weight of the baseline's loss." in shown
    assert "--kl_radius" not in shown
    assert "--num_envs (default: 8)" in shown
