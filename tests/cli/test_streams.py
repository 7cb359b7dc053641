"""Standard streams that are closed, full or not read, and names no file can have."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from acktr_tf import evaluate, launch
from acktr_tf.cli import command
from acktr_tf.cli.streams import tell

ROOT = Path(launch.__file__).parent.parent
TELLING = (
    "import sys\n"
    "from acktr_tf.cli.command import run_command\n"
    "from acktr_tf.cli.streams import tell\n"
    "def main(values):\n"
    "    tell('x' * 20_000)\n"
    "    return 0\n"
    "sys.exit(run_command('some', '', lambda *_: None, main, sys.argv[1:]))\n"
)


def run(redirection: str, *arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command that tells something, under a shell."""
    words = [sys.executable, "-c", TELLING, *arguments]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "arguments", "status", "out", "err"),
    [
        (">/dev/full", [], 1, "", "Standard output cannot be written: No space left"),
        (">/dev/full", ["--help"], 1, "", "Standard output cannot be written: No"),
        (">&-", [], 2, "", "Standard output is closed, so that the next file opened"),
        ("2>&-", [], 2, "Standard error is closed, so that the next", ""),
        (">&- 2>&-", [], 2, "", ""),
        (">/dev/full 2>/dev/full", [], 1, "", ""),
        ("2>/dev/full", ["--no"], 2, "Unknown flag `--no`", ""),
    ],
)
def test_what_cannot_be_written_is_told_where_it_can(
    redirection: str, arguments: list[str], status: int, out: str, err: str
) -> None:
    found = run(redirection, *arguments)
    assert found[0] == status
    for text, expected in zip(found[1:], (out, err), strict=True):
        assert text.startswith(f"some: {expected}" if expected else "")
        assert len(text.splitlines()) == bool(expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "some: Standard output is read no further.\n"),
        # As `--help | head` is meant.
        (["--help"], ""),
    ],
)
def test_a_reader_that_ended(arguments: list[str], said: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", TELLING, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, said)


def test_what_is_told_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    tell("the score")
    tell("the report", sys.stderr)
    assert capsys.readouterr() == ("the score\n", "the report\n")


# Names ------------------------------------------------------------------------------
@pytest.mark.parametrize("main", [launch.main, evaluate.main])
def test_an_argument_that_is_not_utf_8_is_refused(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    # As Python passes the byte 0xfe on.
    assert main(["--run_dir=runs/\udcfe"]) == 2
    said = capsys.readouterr().err
    assert "must be text in UTF-8. Received: '--run_dir=runs/\\udcfe'" in said
    assert len(said.splitlines()) == 1


def test_a_flag_file_with_a_zero_byte_is_refused_with_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.flags"
    path.write_bytes(b"--seed=1\n--run_dir=a\0b\n")
    assert launch.main([f"--flagfile={path}"]) == 2
    assert "Received: the byte 0x00 in line 2." in capsys.readouterr().err


def test_a_name_that_is_too_long_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / ("n" * 256)

    def main(values: object) -> int:
        path.exists()
        return 0

    assert command.run_command("some", "", lambda *_: None, main, []) == 2
    assert capsys.readouterr().err == (
        f"some: {path}: the name is too long for a file.\n"
    )


def test_another_fault_of_the_system_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        command.run_command(
            "some", "", lambda *_: None, lambda _: os.stat(tmp_path / "no").st_size, []
        )
