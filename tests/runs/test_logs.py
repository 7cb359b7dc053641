"""The logs of a run: CSV, TensorBoard and the progress bar."""

import csv
import errno
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing import (
    event_accumulator,
    plugin_event_accumulator,
)
from tensorboard.backend.event_processing.plugin_event_multiplexer import (
    EventMultiplexer,
)
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from acktr_tf.config.config import Config, settings
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import logs as metrics
from acktr_tf.runs.logs import SCALARS, ProgressBar, RunLog
from acktr_tf.types import Episode

REPOSITORY = Path(__file__).parents[2]
CONFIG = Config(env="CartPole-v1", num_envs=2, seed=3)
VALUES = {name: index + 0.5 for index, name in enumerate(SCALARS)}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def reload(accumulator: type[Any], run_dir: Path) -> Any:
    return accumulator(
        str(run_dir / "tensorboard"),
        size_guidance={"scalars": 0, "tensors": 0},
        purge_orphaned_data=True,
    ).Reload()


def points(run_dir: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard itself, and what the readers of event files see."""
    tag = SCALARS[name].tag
    shown = reload(plugin_event_accumulator.EventAccumulator, run_dir)
    read = reload(event_accumulator.EventAccumulator, run_dir)
    assert {*read.Tags()["scalars"]} <= {*shown.Tags()["tensors"]}
    points = [(event.step, event.value) for event in read.Scalars(tag)]
    np.testing.assert_equal(
        [
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto)))
            for e in shown.Tensors(tag)
        ],
        points,
    )
    return points


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# The table -----------------------------------------------------------------------


def test_every_scalar_is_described_once() -> None:
    tags = [scalar.tag for scalar in SCALARS.values()]
    assert len(set(tags)) == len(tags)
    for scalar in SCALARS.values():
        assert re.fullmatch(r"[a-z]+/[a-z_]+", scalar.tag)
        assert scalar.help.endswith(".")


def test_the_documentation_has_the_table() -> None:
    lines = ["| column | unit | in TensorBoard | what it is |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {scalar.unit} | `{scalar.tag}` | {scalar.help} |"
        for name, scalar in SCALARS.items()
    ]
    page = (REPOSITORY / "docs" / "run_directory.md").read_text()
    section = re.search(r"<!-- scalars -->\n(.*)\n<!-- /scalars -->", page, re.DOTALL)
    assert section is not None
    assert section.group(1) == "\n".join(lines), "paste the table in the page"


def test_metrics_does_not_import_tensorflow() -> None:
    program = "import sys, acktr_tf.runs.logs; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# CSV -----------------------------------------------------------------------------


def test_csv_files(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", CONFIG, None)
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


def test_a_name_that_is_not_in_the_table(tmp_path: Path) -> None:
    log = RunLog(tmp_path, CONFIG, None)
    with pytest.raises(ValueError, match=r"SCALARS. Received: kl$"):
        log.scalars(1, {"kl": 1.0, "exact_kl": 1.0})
    log.close()
    assert len(rows(tmp_path / "progress.csv")) == 1


def test_a_continued_run_has_each_line_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path, CONFIG, None)
    log.episode(20, Episode(1.0, 10), 1.0)
    log.scalars(20, {"updates": 1})
    position = log.position()
    assert position["step"] == 20
    for name in ("episodes.csv", "progress.csv"):
        assert position[name] == (tmp_path / name).stat().st_size
    whole = {name: (tmp_path / name).read_bytes() for name in position if "." in name}
    log.episode(40, Episode(2.0, 20), 2.0)
    log.scalars(40, {"updates": 2})
    log.close()
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("60,half a li")  # What a power cut may leave.

    log = RunLog(tmp_path, CONFIG, position)
    for name, content in whole.items():
        assert (tmp_path / name).read_bytes() == content
    assert log.position() == position
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
        RunLog(tmp_path, CONFIG, None)
    assert f"{tmp_path / name} holds a log already" in one_line(error)
    assert (tmp_path / name).read_text() == "step\n1\n"


def test_a_new_run_after_one_that_was_killed_before_its_first_line(
    tmp_path: Path,
) -> None:
    RunLog(tmp_path, CONFIG, None).close()
    (tmp_path / "progress.csv").write_bytes(b"")
    RunLog(tmp_path, CONFIG, None).close()
    assert rows(tmp_path / "progress.csv") == [["step", *SCALARS]]
    assert len(rows(tmp_path / "episodes.csv")) == 1


@pytest.mark.parametrize("name", ["episodes.csv", "progress.csv"])
@pytest.mark.parametrize("harm", ["missing", "shorter", "edited", "other columns"])
def test_a_log_that_does_not_fit_the_checkpoint(
    tmp_path: Path, name: str, harm: str
) -> None:
    log = RunLog(tmp_path, CONFIG, None)
    log.episode(20, Episode(1.0, 10), 1.0)
    log.scalars(20, {"updates": 1})
    position = log.position()
    log.episode(40, Episode(1.0, 10), 1.0)
    log.scalars(40, {"updates": 1})
    log.close()
    path = tmp_path / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
        expected = f"{path} is missing"
    elif harm == "shorter":
        path.write_bytes(content[: position[name] - 1])
        expected = f"has {position[name] - 1} bytes; at the checkpoint it had"
    elif harm == "edited":
        path.write_bytes(content.replace(b"20,", b"20.000,"))
        expected = "differ"
    else:
        path.write_bytes(b"t" + content[1:])
        expected = "its columns"
    before = {p: p.read_bytes() for p in tmp_path.glob("*.csv")}

    with pytest.raises(UserError) as error:
        RunLog(tmp_path, CONFIG, position)

    assert expected in one_line(error)
    assert str(path) in one_line(error)
    assert {p: p.read_bytes() for p in tmp_path.glob("*.csv")} == before


def test_a_run_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError) as error:
        RunLog(tmp_path / "run", CONFIG, None)
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
    log = RunLog(tmp_path, CONFIG, None)
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
import itertools, json, sys
from pathlib import Path
from acktr_tf.config.config import Config
from acktr_tf.runs.logs import RunLog
from acktr_tf.types import Episode
log = RunLog(Path(sys.argv[1]), Config(), None)
for step in itertools.count(1):
    log.episode(step, Episode(1.5, step), step / 7)
    log.scalars(step, {"exact_kl": 1 / step})
    if step == 5:
        print(json.dumps(log.position()), flush=True)
"""
    rng = random.Random(0)
    for _ in range(3):
        shutil.rmtree(tmp_path)
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        position = json.loads(process.stdout.readline())
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for name, columns in (("episodes.csv", 4), ("progress.csv", len(SCALARS) + 1)):
            assert (tmp_path / name).read_bytes().endswith(b"\n")
            lines = rows(tmp_path / name)
            assert {len(line) for line in lines} == {columns}
            steps = [int(line[0]) for line in lines[1:]]
            assert steps == list(range(1, len(steps) + 1))
        RunLog(tmp_path, CONFIG, position).close()
        assert len(rows(tmp_path / "episodes.csv")) == 1 + 5
        kept = points(tmp_path, "exact_kl")
        assert [step for step, _ in kept] == [1, 2, 3, 4, 5]


# TensorBoard ---------------------------------------------------------------------


def test_tensorboard_has_every_scalar(tmp_path: Path) -> None:
    log = RunLog(tmp_path, CONFIG, None)
    log.scalars(640, VALUES)
    log.scalars(1280, {"exact_kl": math.nan, "predicted_kl": -math.inf})
    log.close()

    accumulator = reload(plugin_event_accumulator.EventAccumulator, tmp_path)
    tags = {tag for tag in accumulator.Tags()["tensors"] if "hparams" not in tag}
    assert tags == {scalar.tag for scalar in SCALARS.values()}
    for name, value in VALUES.items():
        assert points(tmp_path, name)[0] == (640, value)
        metadata = accumulator.SummaryMetadata(SCALARS[name].tag)
        assert metadata.plugin_data.plugin_name == "scalars"
        assert SCALARS[name].help in metadata.summary_description
    step, value = points(tmp_path, "exact_kl")[1]
    assert step == 1280
    assert math.isnan(value)
    assert points(tmp_path, "predicted_kl")[1] == (1280, -math.inf)
    assert len(points(tmp_path, "entropy")) == 1


def test_the_hparams_tab_has_the_settings(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs" / "one", CONFIG, None)
    log.close()
    multiplexer = EventMultiplexer(purge_orphaned_data=True)
    multiplexer.AddRunsFromDirectory(str(tmp_path / "runs")).Reload()
    contents = multiplexer.PluginRunToTagToContent("hparams")["one/tensorboard"]

    start = hparams_metadata.parse_session_start_info_plugin_data(
        contents[hparams_metadata.SESSION_START_INFO_TAG]
    )
    shown = {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in start.hparams.items()
    }
    assert shown == CONFIG.to_dict()

    experiment = hparams_metadata.parse_experiment_plugin_data(
        contents[hparams_metadata.EXPERIMENT_TAG]
    )
    assert [info.name for info in experiment.hparam_infos] == list(settings())
    assert [info.name.tag for info in experiment.metric_infos] == [
        "episode/return",
        "episode/length",
        "kl/exact",
        "time/steps_per_second",
    ]


def test_no_orphans_of_a_killed_session_remain(tmp_path: Path) -> None:
    log = RunLog(tmp_path, CONFIG, None)
    log.scalars(20, {"updates": 1, "entropy": 1.0})
    log.scalars(40, {"updates": 2, "entropy": 2.0})
    position = log.position()
    log.scalars(60, {"updates": 3, "entropy": 3.0})
    log.scalars(80, {"updates": 4, "entropy": 4.0})
    log.close()

    log = RunLog(tmp_path, CONFIG, position)
    assert points(tmp_path, "updates") == [(20, 1.0), (40, 2.0)]
    log.scalars(60, {"updates": 30})
    log.close()
    # And once more, within the same second.
    log = RunLog(tmp_path, CONFIG, position)
    log.scalars(60, {"updates": 33})
    log.close()

    assert points(tmp_path, "updates") == [(20, 1.0), (40, 2.0), (60, 33.0)]
    assert points(tmp_path, "entropy") == [(20, 1.0), (40, 2.0)]


def test_a_run_killed_before_its_first_checkpoint_leaves_no_orphans(
    tmp_path: Path,
) -> None:
    log = RunLog(tmp_path, CONFIG, None)
    log.scalars(20, {"updates": 1})
    log.close()
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    RunLog(tmp_path, CONFIG, None).close()
    assert points(tmp_path, "updates") == []


# The progress bar ----------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    bar = ProgressBar(1000, 0, True)
    time.sleep(0.11)
    bar.update(500, {"episode_return": 18.25, "exact_kl": 0.00123, "kl_radius": 0.001})
    bar.write("best so far: 20")
    time.sleep(0.11)
    bar.update(1000, {})
    bar.close()
    bar.close()
    text = screen.getvalue()
    assert "500/1000" in text
    assert "steps/s" in text
    assert "return 18.2, KL 0.0012 of 0.001" in text
    assert re.search(r"(^|\r) *best so far: 20\n", text)
    assert "100%|" in text
    assert "1000/1000" in text


def test_plain_lines_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    bar = ProgressBar(10_000, 1000, True)
    for second in range(1, 26):
        now = 100.0 + second
        bar.update(1000 + 100 * second, {"episode_return": math.nan})
    bar.write("hello")
    bar.update(3600, {"episode_return": 9.0, "exact_kl": 0.5})
    bar.close()
    bar.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "1100/10000 steps (11%), 100 steps/s, 01:29 left, return -",
        "2100/10000 steps (21%), 100 steps/s, 01:19 left, return -",
        "3100/10000 steps (31%), 100 steps/s, 01:09 left, return -",
        "hello",
        "3600/10000 steps (36%), 104 steps/s, 01:01 left, return 9.0, KL 0.5",
    ]


def test_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(1000, 0, False)
    bar.update(500, {"episode_return": 1.0})
    bar.write("still said")
    bar.close()
    assert capsys.readouterr().err == "still said\n"
