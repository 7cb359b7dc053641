"""Logs of a run: the CSV files, and what a continued run makes of them."""

import errno
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs.log_files import (
    SCALARS,
    VALUES,
    one_line,
    open_log,
    points,
    rows,
)

from acktr_tf.errors import RunError, UserError
from acktr_tf.runs.checkpoints import load
from acktr_tf.types import Episode, Scalar


def test_logs_do_not_import_tensorflow() -> None:
    program = "import sys, acktr_tf.runs.logs; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# CSV -----------------------------------------------------------------------------


def test_csv_files(tmp_path: Path) -> None:
    log = open_log(tmp_path / "run")
    log.episode(20, Episode(-21.0, 1234), 1.23456)
    log.episode(40, Episode(np.float32(0.1), 7), 2.0)
    log.scalars(40, VALUES)
    log.scalars(80, {"exact_kl": math.nan, "value_loss": math.inf, "episodes": 10**9})
    log.close()

    assert rows(tmp_path / "run" / "episodes.csv") == [
        ["step", "episode_return", "episode_length", "seconds"],
        ["20", "-21", "1234", "1.235"],
        ["40", "0.1000000015", "7", "2.000"],
    ]
    header, first, second = rows(tmp_path / "run" / "progress.csv")
    assert header == ["step", *SCALARS]
    assert [float(cell) for cell in first] == [40, *VALUES.values()]
    assert {n: c for n, c in zip(header, second, strict=True) if c} == {
        "step": "80",
        "exact_kl": "nan",
        "value_loss": "inf",
        "episodes": "1000000000",
    }


def test_counts_that_no_int32_holds_are_whole_numbers(tmp_path: Path) -> None:
    step, updates = 640 * (2**33 + 1), 2**33 + 1
    log = open_log(tmp_path)
    log.episode(step, Episode(-1e12, 2**31 + 1), 1e9)
    log.scalars(step, {"updates": float(updates), "episodes": 12_345_678_901})
    state = log.state()
    log.close()
    log = open_log(tmp_path, state)
    log.scalars(step + 640, {"updates": updates + 1.0, "exact_kl": 1e10 / 3})
    log.close()
    assert rows(tmp_path / "episodes.csv")[1] == [
        str(step),
        "-1000000000000",
        "2147483649",
        "1000000000.000",
    ]
    header, *lines = rows(tmp_path / "progress.csv")
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["step"] for row in found] == [str(step), str(step + 640)]
    assert [row["updates"] for row in found] == ["8589934593", "8589934594"]
    assert found[0]["episodes"] == "12345678901"
    assert found[1]["exact_kl"] == "3333333333"
    assert [at for at, _ in points(tmp_path, "updates")] == [step, step + 640]


def test_a_name_that_is_not_of_the_run(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(ValueError, match=r"Received: kl; accepted: episode_return"):
        log.scalars(1, {"kl": 1.0, "exact_kl": 1.0})
    log.close()
    assert len(rows(tmp_path / "progress.csv")) == 1


def test_a_continued_run_has_each_line_once(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.episode(20, Episode(1.0, 10), 1.0)
    log.scalars(20, {"updates": 1})
    state = log.state()
    assert state["step"] == 20
    for name in ("episodes.csv", "progress.csv"):
        assert state[name] == (tmp_path / name).stat().st_size
    whole = {name: (tmp_path / name).read_bytes() for name in state if "." in name}
    assert len(whole) == 2
    log.episode(40, Episode(2.0, 20), 2.0)
    log.scalars(40, {"updates": 2})
    log.close()
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("60,half a li")  # What a power cut may leave.

    log = open_log(tmp_path, state)
    for name, content in whole.items():
        assert (tmp_path / name).read_bytes() == content
    np.testing.assert_equal(log.state(), state)
    log.episode(40, Episode(3.0, 30), 3.0)
    log.scalars(40, {"updates": 3})
    log.close()
    log.close()

    assert [row[:2] for row in rows(tmp_path / "episodes.csv")[1:]] == [
        ["20", "1"],
        ["40", "3"],
    ]
    assert [row[0] for row in rows(tmp_path / "progress.csv")[1:]] == ["20", "40"]


@pytest.mark.parametrize("name", ["episodes.csv", "progress.csv"])
def test_a_new_run_never_overwrites(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("step\n1\n")
    with pytest.raises(UserError) as error:
        open_log(tmp_path)
    assert f"{tmp_path / name} holds a log already" in one_line(error)
    assert (tmp_path / name).read_text() == "step\n1\n"


def test_a_new_run_after_one_that_was_killed_before_its_first_line(
    tmp_path: Path,
) -> None:
    open_log(tmp_path).close()
    (tmp_path / "progress.csv").write_bytes(b"")
    open_log(tmp_path).close()
    assert rows(tmp_path / "progress.csv") == [["step", *SCALARS]]
    assert len(rows(tmp_path / "episodes.csv")) == 1


@pytest.mark.parametrize("name", ["episodes.csv", "progress.csv"])
@pytest.mark.parametrize("harm", ["missing", "shorter", "edited", "other columns"])
def test_a_log_that_does_not_fit_the_checkpoint(
    tmp_path: Path, name: str, harm: str
) -> None:
    log = open_log(tmp_path)
    log.episode(20, Episode(1.0, 10), 1.0)
    log.scalars(20, {"updates": 1})
    state = log.state()
    log.episode(40, Episode(1.0, 10), 1.0)
    log.scalars(40, {"updates": 1})
    log.close()
    path = tmp_path / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
        expected = f"{path} is missing"
    elif harm == "shorter":
        path.write_bytes(content[: state[name] - 1])
        expected = f"has {state[name] - 1} bytes; at the checkpoint it had"
    elif harm == "edited":
        path.write_bytes(content.replace(b"20,", b"20.000,"))
        expected = "differ"
    else:
        path.write_bytes(b"t" + content[1:])
        expected = "its columns"
    before = {p: p.read_bytes() for p in tmp_path.glob("*.csv")}

    with pytest.raises(UserError) as error:
        open_log(tmp_path, state)

    assert expected in one_line(error)
    assert str(path) in one_line(error)
    assert {p: p.read_bytes() for p in tmp_path.glob("*.csv")} == before


def test_a_run_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError) as error:
        open_log(tmp_path / "run")
    assert "Give a `--run_dir` that is a directory" in one_line(error)


class FullDisk:
    """Takes some bytes, then answers as a full disk does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write_to_system = os.write

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.write_to_system(descriptor, data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 5])
@pytest.mark.parametrize("name", ["episodes.csv", "progress.csv", "tfevents"])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, name: str
) -> None:
    log = open_log(tmp_path)
    log.episode(20, Episode(1.0, 10), 1.0)
    log.scalars(20, {"updates": 1})
    sizes = {p: p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()}
    if name == "tfevents":
        room += len("40,2\n") + len(SCALARS) - 1  # The line of progress.csv fits.
    disk = FullDisk(room)
    write: Callable[[], None] = {
        "episodes.csv": lambda: log.episode(40, Episode(1.0, 10), 2.0)
    }.get(name, lambda: log.scalars(40, {"updates": 2}))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk.write)
        with pytest.raises(RunError) as error:
            write()
    message = one_line(error)
    assert name in message
    assert "No space left on device" in message
    assert "The last checkpoint is whole" in message
    for path, size in sizes.items():
        if name in path.name:
            assert path.stat().st_size == size, "a part of a line is left"
    log.close()


def test_killed_while_writing(tmp_path: Path) -> None:
    program = """
import itertools, sys
from pathlib import Path
from acktr_tf.config.config import configure
from acktr_tf.runs.checkpoints import Checkpoint, save
from acktr_tf.runs.logs import RunLog
from acktr_tf.types import Episode, Scalar
scalars = {"exact_kl": Scalar("nats", "KL.", "kl/exact")}
directory = Path(sys.argv[1])
log = RunLog(directory, configure(), scalars, None)
for step in itertools.count(1):
    log.episode(step, Episode(1.5, step), step / 7)
    log.scalars(step, {"exact_kl": 1 / step})
    if step == 5:
        print(save(directory / "saved", Checkpoint(step, log.state()), 1), flush=True)
"""
    scalars = {"exact_kl": SCALARS["exact_kl"]}
    rng = random.Random(0)
    for _ in range(3):
        shutil.rmtree(tmp_path)
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        state = load(Path(process.stdout.readline().strip())).arrays
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for name, columns in (("episodes.csv", 4), ("progress.csv", 2)):
            assert (tmp_path / name).read_bytes().endswith(b"\n")
            lines = rows(tmp_path / name)
            assert {len(line) for line in lines} == {columns}
            steps = [int(line[0]) for line in lines[1:]]
            assert steps == list(range(1, len(steps) + 1))
        open_log(tmp_path, state, scalars).close()
        assert len(rows(tmp_path / "episodes.csv")) == 1 + 5
        kept = points(tmp_path, "exact_kl")
        assert [step for step, _ in kept] == [1, 2, 3, 4, 5]


# Columns of a continued run ------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path):
    """State of a run whose `progress.csv` has two columns, and one line."""
    scalars = {name: SCALARS[name] for name in ("updates", "entropy")}
    log = open_log(tmp_path, None, scalars)
    log.scalars(20, {"updates": 1, "entropy": 0.5})
    state = log.state()
    log.close()
    return state


def test_a_scalar_added_since_goes_to_tensorboard_only(tmp_path: Path, begun) -> None:
    scalars = {name: SCALARS[name] for name in ("exact_kl", "updates", "entropy")}
    log = open_log(tmp_path, begun, scalars)
    log.scalars(40, {"exact_kl": 0.25, "updates": 2, "entropy": 0.75})
    again = log.state()
    log.close()
    assert rows(tmp_path / "progress.csv") == [
        ["step", "updates", "entropy"],
        ["20", "1", "0.5"],
        ["40", "2", "0.75"],
    ]
    assert points(tmp_path, "exact_kl") == [(40, 0.25)]
    assert points(tmp_path, "updates") == [(20, 1.0), (40, 2.0)]
    # The file's columns are kept by every later continuation, too.
    log = open_log(tmp_path, again, scalars)
    log.scalars(60, {"exact_kl": 0.25, "updates": 3})
    log.close()
    assert rows(tmp_path / "progress.csv")[-1] == ["60", "3", ""]


def test_a_column_gone_since_stays_empty(tmp_path: Path, begun) -> None:
    log = open_log(tmp_path, begun, {"entropy": SCALARS["entropy"]})
    log.scalars(40, {"entropy": 0.75})
    with pytest.raises(ValueError, match="Received: updates; accepted: entropy"):
        log.scalars(60, {"updates": 3})
    log.close()
    assert rows(tmp_path / "progress.csv")[1:] == [
        ["20", "1", "0.5"],
        ["40", "", "0.75"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "step,updates,exact_kl\n20,1,0.5\n",
        "step,updates\n20,1\n20,1\n20,1\n20,1\n",
        "step,episode_return,episode_length,seconds\n1,2,3,4\n",
        "Once upon a time\nthere was a file\n",
    ],
)
def test_a_file_that_the_run_did_not_write_is_refused(
    tmp_path: Path, begun, text: str
) -> None:
    path = tmp_path / "progress.csv"
    path.write_text(text)
    for scalars in (SCALARS, {"updates": SCALARS["updates"]}):
        with pytest.raises(UserError, match="its columns, or its lines"):
            open_log(tmp_path, begun, scalars)
    assert path.read_text() == text


def test_two_scalars_cannot_have_one_tag(tmp_path: Path) -> None:
    scalars = {"kl": Scalar("", "KL.", "kl/exact"), "exact_kl": SCALARS["exact_kl"]}
    with pytest.raises(ValueError, match="kl/exact of both kl and exact_kl"):
        open_log(tmp_path, None, scalars)
    assert not list(tmp_path.iterdir())
