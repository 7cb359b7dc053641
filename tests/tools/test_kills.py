"""What the benchmark of kills counts as lost and as not the same."""

import os
import shutil
import signal

import numpy as np
import pytest

from acktr_tf.runs import checkpoints
from acktr_tf.runs.checkpoints import Checkpoint
from acktr_tf.runs.directory import CHECKPOINTS, EXPORT
from acktr_tf.runs.logs import EPISODES_FILE, PROGRESS_FILE


def write_run(run_dir, weight=1.0, episode_return=3.0, seconds=5.0):
    run_dir.mkdir(parents=True)
    arrays = {
        "learner/weight": np.array([weight]),
        "progress/seconds": np.array(seconds),
    }
    checkpoints.save(run_dir / CHECKPOINTS, Checkpoint(64, arrays), keep=1)
    (run_dir / EPISODES_FILE).write_text(
        f"step,episode_return,seconds\n64,{episode_return},{seconds}\n"
    )
    (run_dir / PROGRESS_FILE).write_text(f"step,share_acting\n64,{seconds / 10}\n")
    variables = run_dir / EXPORT / "variables"
    variables.mkdir(parents=True)
    (variables / "variables.data-00000-of-00001").write_bytes(bytes([int(weight)]))


def test_wall_times_may_differ_and_nothing_else(benchmark_script, tmp_path):
    kills = benchmark_script("kills")
    write_run(tmp_path / "whole" / "run")
    write_run(tmp_path / "slow" / "run", seconds=9.0)
    assert kills.differences(tmp_path / "whole", tmp_path / "slow") == []
    write_run(tmp_path / "score" / "run", episode_return=4.0)
    found = kills.differences(tmp_path / "whole", tmp_path / "score")
    assert found == ["run: episodes.csv"]
    write_run(tmp_path / "weight" / "run", weight=2.0)
    found = kills.differences(tmp_path / "whole", tmp_path / "weight")
    assert found == [
        "run: learner/weight",
        "run: export/variables/variables.data-00000-of-00001",
    ]


def test_a_process_that_takes_too_long_is_killed(benchmark_script):
    kills = benchmark_script("kills")
    for seconds, expected in ((0.1, None), (30.0, 3)):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if expected is None:
                signal.pause()
            os._exit(3)
        assert kills.wait(pid, seconds).status == expected


@pytest.mark.parametrize("status", [0, 2])
def test_kills_go_on_until_their_number_and_lost_runs_are_told(
    benchmark_script, tmp_path, monkeypatch, capsys, status
):
    kills = benchmark_script("kills")
    limits = []

    def command(directory, seconds):
        limits.append(seconds)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "log.txt").write_text("the last words")
        if directory.name == "whole":
            write_run(directory / "run")
            return kills.Outcome(0, 10.0)
        if len(limits) % 3:
            return kills.Outcome(None, seconds)
        if status == 0:
            shutil.copytree(directory.parent / "whole" / "run", directory / "run")
        return kills.Outcome(status, 8.0)

    monkeypatch.setitem(kills.WORKLOADS, "fake", command)
    row = kills.kill_again_and_again("fake", tmp_path, 5, np.random.default_rng(0))
    # One ends by itself after each two kills, and the last is left alone.
    assert (row["kills"], row["finished"] + row["lost"]) == (5, 3)
    assert row["lost"] == (3 if status else 0)
    assert row["different"] == 0
    assert ("the last words" in capsys.readouterr().out) == bool(status)
    assert limits[-1] == float("inf")
    assert all(0 < limit < 13.0 for limit in limits[1:-1])
