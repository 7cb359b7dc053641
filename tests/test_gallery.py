"""The commands of the gallery of environments: accepted, and run where installed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from absl.flags import FlagValues

from acktr_tf.cli import flags
from acktr_tf.cli.flag_files import expand
from acktr_tf.runs.logs import EPISODES_FILE

PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
COMMANDS = re.findall(r"`(python -m acktr_tf\.launch [^`]*)`", PAGE.read_text("utf-8"))
BOX2D = ("CarRacing-v3", "LunarLander-v3", "BipedalWalker-v3")


def environment(command: str) -> str:
    """The environment that a command of the page names."""
    values = FlagValues()
    flags.define_settings(values)
    flags.parse(values, list(expand(shlex.split(command)[3:])))
    return str(values["env"].value)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_accepted(command: str) -> None:
    assert environment(command) in command or "minigrid.flags" in command


def test_no_command_is_missed() -> None:
    assert len(COMMANDS) == PAGE.read_text("utf-8").count("`python -m ")
    assert len(set(COMMANDS)) == len(COMMANDS) > 15


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_train_what_is_installed(command: str, tmp_path: Path) -> None:
    env = environment(command)
    module, colon, _ = env.rpartition(":")
    if colon:
        pytest.importorskip(module)
    if env in BOX2D:
        pytest.importorskip("Box2D")
    few = ["--num_envs=2", "--unroll_length=8", "--total_steps=64", "--noprogress_bar"]
    run_dir = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable,
            *shlex.split(command)[1:],
            *few,
            "--log_period=1",
            "--evaluation_period=none",
            f"--run_dir={run_dir}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (run_dir / EPISODES_FILE).is_file()
    assert (run_dir / "export" / "saved_model.pb").is_file()
