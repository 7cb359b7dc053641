"""The algorithm that the documentation writes: trained, continued, scored, exported."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "your_own_algorithm.md").read_text("utf-8")


def block(name: str) -> str:
    match = re.search(rf"<!-- {re.escape(name)} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert match, name
    return match[1]


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # The commands silence TensorFlow unless its level is set, as the tests set it.
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the module of the page."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "my_reinforce.py").write_text(block("my_reinforce.py"))
    return directory


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


def test_its_command_trains_cartpole_and_continues_evaluates_and_exports(
    directory: Path, command: list[str]
) -> None:
    # In two parts, of which the first is stopped by its own checkpoint and a signal.
    script = (
        "import os, signal, sys\n"
        "from acktr_tf import launch\n"
        "from acktr_tf.runs.logs import RunLog\n"
        "scalars = RunLog.scalars\n"
        "def stop(log, step, values):\n"
        "    scalars(log, step, values)\n"
        "    if step >= 40_000:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "RunLog.scalars = stop\n"
        "sys.exit(launch.main(sys.argv[1:]))\n"
    )
    stopped = subprocess.run(
        [sys.executable, "-c", script, *command[1:]],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 143, stopped.stderr
    done = run(directory, *command)
    assert done.returncode == 0, done.stderr
    assert "Continuing from step" in done.stderr
    run_dir = directory / "runs" / "reinforce"
    assert column(run_dir / "episodes.csv", "episode_return")[-100:].mean() >= 195
    progress = run_dir / "progress.csv"
    assert np.isfinite(column(progress, "policy_loss")).all()
    assert (column(progress, "share_gradients") > 0).all()
    assert (np.diff(column(progress, "step")) > 0).all()

    scored = run(
        directory, "acktr_tf.evaluate", "--run_dir=runs/reinforce", "--games=20"
    )
    assert scored.returncode == 0, scored.stderr
    (mean,) = re.findall(r"^mean +(\S+)", scored.stdout, re.MULTILINE)
    assert float(mean) >= 195
    exported = run(
        directory, "acktr_tf.export", "--run_dir=runs/reinforce", "--model=model"
    )
    assert exported.returncode == 0, exported.stderr
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
    directory: Path, command: list[str], flags: list[str], expected: str
) -> None:
    refused = run(directory, *command, *flags)
    assert refused.returncode == 2
    assert expected in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_its_flags_are_in_the_help(directory: Path, command: list[str]) -> None:
    shown = run(directory, *command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Weight of the baseline's loss." in shown.stdout
    assert "--kl_radius" not in shown.stdout
    assert "--num_envs (default: 8)" in shown.stdout
