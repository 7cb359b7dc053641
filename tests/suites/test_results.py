"""Results as the files of a run say them."""

import json
import math

import pytest

from acktr_tf.errors import UserError
from acktr_tf.suites import jobs
from acktr_tf.suites.jobs import Job, Outcome
from acktr_tf.suites.results import read_run


@pytest.fixture
def job(tmp_path) -> Job:
    return Job("Easy", "ACKTR", 3, tmp_path / "Easy" / "ACKTR" / "3", ["--env=easy"])


def write_run(job, returns, outcome=None, scores=None, steps=1000):
    job.run_dir.mkdir(parents=True)
    lines = [f"{10 * i},{r},5,{i}.5\n" for i, r in enumerate(returns, start=1)]
    header = "step,episode_return,episode_length,seconds\n"
    (job.run_dir / "episodes.csv").write_text(header + "".join(lines))
    (job.run_dir / "progress.csv").write_text(f"step,loss\n64,1\n{steps},2\n")
    if outcome:
        jobs._write_outcome(job.directory, outcome)
    if scores:
        (job.directory / "scores.json").write_text(json.dumps(scores))


def test_a_run_is_what_its_files_say(job):
    write_run(
        job, range(250), Outcome(["x"], 0, 12.5), {"games": 2, "mean": 33.0}, 2600
    )
    run = read_run(job)
    assert run[:3] == ("Easy", "ACKTR", 3)
    assert (run.status, run.crash) == ("finished", "")
    assert (run.seconds, run.steps) == (12.5, 2600)
    assert run.episode_steps.tolist() == [10.0 * i for i in range(1, 251)]
    # Games 150 to 249.
    assert run.last_100_mean == pytest.approx(199.5)
    assert run.evaluation_mean == 33.0
    assert run.counts


def test_a_run_that_has_not_begun_is_waiting(job):
    run = read_run(job)
    assert (run.status, run.steps, run.seconds) == ("waiting", 0, 0.0)
    assert math.isnan(run.last_100_mean)
    assert math.isnan(run.evaluation_mean)
    assert not run.counts


def test_fewer_episodes_than_a_window_are_all_counted(job):
    write_run(job, [1, 2, 6], Outcome(["x"], 0, 1.0))
    assert read_run(job).last_100_mean == 3.0


def test_what_a_power_cut_left_of_a_line_is_no_line(job):
    write_run(job, [1, 2])
    with (job.run_dir / "episodes.csv").open("a") as file:
        file.write("30,9")
    assert read_run(job).episode_returns.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("text", ["step\n1\n", "step,episode_return\n1,x\n", "\xff\n"])
def test_a_damaged_file_is_named(job, text):
    write_run(job, [1])
    (job.run_dir / "episodes.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"episodes\.csv is damaged"):
        read_run(job)
