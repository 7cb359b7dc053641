"""Runs of other libraries beside the benchmark's: made once, whoever makes them."""

import json
import os
import sys

from acktr_tf.runs import locks
from acktr_tf.suites.jobs import Job

# Writes what a run leaves in the directories it is given, and says that it was made.
WORKER = """
import json, pathlib, sys
for directory in map(pathlib.Path, sys.argv[1:]):
    run = directory / "run"
    run.mkdir(parents=True, exist_ok=True)
    lines = ["step,episode_return,episode_length,seconds", "9,3.5,9,1.0", ""]
    (run / "episodes.csv").write_text("\\n".join(lines))
    (run / "progress.csv").write_text("step,seconds\\n9,1.0\\n")
    outcome = {"command": [], "exit_status": 0, "seconds": 1.5}
    (directory / "outcome.json").write_text(json.dumps(outcome))
(pathlib.Path(sys.argv[1]) / "made").write_text("")
"""


def job_of(directory, *others):
    """A job, and a command that finishes it and others."""
    job = Job("Task-v0", "PPO", int(directory.name), directory, [])
    return job, [sys.executable, "-c", WORKER, str(directory), *map(str, others)]


def test_a_run_that_another_process_finished_is_not_made_again(
    benchmark_script, tmp_path, capsys
):
    first, second = tmp_path / "1", tmp_path / "2"
    # When the first ends, the second is finished, too, by whomever.
    jobs = [job_of(first, second), job_of(second)]
    benchmark_script("side_by_side").run_all(jobs, 1)
    assert (first / "made").exists()
    assert not (second / "made").exists()
    assert capsys.readouterr().out == "Task-v0 PPO seed 1: 3.5 (2 s)\n"


def test_a_run_that_another_process_makes_is_left_to_it(benchmark_script, tmp_path):
    directory = tmp_path / "1"
    directory.mkdir()
    held = locks.lock(directory)
    assert held is not None
    benchmark_script("side_by_side").run_all([job_of(directory)], 1)
    os.close(held)
    assert list(directory.iterdir()) == []


def test_a_run_that_fails_is_named(benchmark_script, tmp_path, capsys):
    job, _ = job_of(tmp_path / "1")
    failing = [sys.executable, "-c", "raise SystemExit('no such task')"]
    benchmark_script("side_by_side").run_all(
        [(job, failing), job_of(tmp_path / "2")], 1
    )
    log = tmp_path / "1" / "log.txt"
    assert log.read_text() == "no such task\n"
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{job.name}: failed, see {log}", "Task-v0 PPO seed 2: 3.5 (2 s)"]
    assert json.loads((tmp_path / "2" / "outcome.json").read_text())["seconds"] == 1.5
