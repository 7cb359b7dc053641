"""Finished runs, packed into a file and unpacked elsewhere."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from acktr_tf.suites.jobs import Job
from acktr_tf.suites.results import read_run


@pytest.fixture
def keep_runs(benchmark_script):
    return benchmark_script("keep_runs")


def write_run(directory: Path, status: int | None = 0, scores: bool = True) -> None:
    run = directory / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "large").write_text("x" * 1000)
    command = ["/usr/bin/python", "-m", "acktr_tf.launch", "--env=a"]
    outcome = {
        "command": [*command, "--seed=0", f"--run_dir={run}", "--noprogress_bar"],
        "exit_status": status,
        "seconds": 12.5,
    }
    (directory / "outcome.json").write_text(json.dumps(outcome))
    if scores:
        found = {"policy": f"{run}/export", "mean": 3.5, "games": 2}
        (directory / "scores.json").write_text(json.dumps(found))
    (run / "episodes.csv").write_text(
        "step,episode_return,episode_length,seconds\n10,1.5,10,0.1\n20,-2.25,10,0.2\n"
    )
    (run / "progress.csv").write_text("step,loss\n10,1\n20,0.5\n30,0.25\n")


def test_unpacked_runs_are_those_that_were_packed(keep_runs, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    write_run(old / "Task" / "A 1" / "0")
    assert keep_runs.pack(old, tmp_path / "kept.tar.xz") == 1
    assert keep_runs.unpack(tmp_path / "kept.tar.xz", new) == 1
    runs = [
        read_run(Job("Task", "A 1", 0, where / "Task" / "A 1" / "0", []))
        for where in (old, new)
    ]
    for left, right in zip(*runs, strict=True):
        np.testing.assert_array_equal(left, right)
    assert runs[1].status == "finished"
    assert runs[1].steps == 30
    assert not list(new.rglob("large"))


def test_what_is_kept_names_no_place_of_the_machine(keep_runs, tmp_path):
    write_run(tmp_path / "Task" / "A" / "0")
    texts = keep_runs.files_of(tmp_path / "Task" / "A" / "0").values()
    assert not [text for text in texts if str(tmp_path) in text or "/usr" in text]
    outcome = json.loads(next(iter(texts)))
    assert outcome["command"] == [
        *("python", "-m", "acktr_tf.launch", "--env=a", "--seed=0", "--noprogress_bar")
    ]


def test_runs_that_are_not_done_are_not_packed(keep_runs, tmp_path):
    write_run(tmp_path / "runs" / "Task" / "A" / "0", status=None)
    write_run(tmp_path / "runs" / "Task" / "A" / "1", status=1)
    write_run(tmp_path / "runs" / "Task" / "A" / "2", scores=False)
    assert keep_runs.pack(tmp_path / "runs", tmp_path / "kept.tar.xz") == 0


def test_a_run_that_is_there_is_left_alone(keep_runs, tmp_path):
    write_run(tmp_path / "runs" / "Task" / "A" / "0")
    keep_runs.pack(tmp_path / "runs", tmp_path / "kept.tar.xz")
    scores = tmp_path / "runs" / "Task" / "A" / "0" / "scores.json"
    scores.write_text("{}")
    assert keep_runs.unpack(tmp_path / "kept.tar.xz", tmp_path / "runs") == 0
    assert scores.read_text() == "{}"


@pytest.mark.parametrize("name", ["A/0/../../../out", "A/0/folder"])
def test_a_file_of_something_else_is_refused(keep_runs, tmp_path, name):
    kept = tmp_path / "kept.tar.xz"
    with tarfile.open(kept, "w:xz") as archive:
        archive.addfile(tarfile.TarInfo("A/0/outcome.json"))
        member = tarfile.TarInfo(name)
        if name.endswith("folder"):
            member.type = tarfile.DIRTYPE
        archive.addfile(member)
    with pytest.raises(SystemExit, match="not of this script's making"):
        keep_runs.unpack(kept, tmp_path / "deep" / "runs")
    assert not (tmp_path / "out").exists()
    # What is there counts as no run.
    assert not list(tmp_path.rglob("outcome.json"))


def test_the_same_runs_make_the_same_file(keep_runs, tmp_path):
    write_run(tmp_path / "runs" / "Task" / "A" / "0")
    for name in ("one", "two"):
        keep_runs.pack(tmp_path / "runs", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
