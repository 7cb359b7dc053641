"""Runs in processes of their own: order, outcomes, crashes, stopping and continuing."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from suites.fake_jobs import calls, fakes, processes, signal_when, wait_for

from acktr_tf.errors import RunError, UserError
from acktr_tf.suites import jobs
from acktr_tf.suites.jobs import Job, Outcome, read_outcome, read_scores
from acktr_tf.training.stopping import StopRequest

__all__ = ["fakes"]


def job(env="good", seed=0) -> Job:
    return Job("Task", "ACKTR", seed, Path("all", env, str(seed)), [f"--env={env}"])


def run(*todo, at_once=1, games=0):
    """Problems by seed, and the signal that stopped the jobs."""
    problems = {}
    with StopRequest() as stop:
        jobs.run_jobs(
            todo,
            at_once=at_once,
            games=games,
            stop=stop,
            on_complete=lambda job, problem: problems.setdefault(job.seed, problem),
        )
    return problems, stop.signal


# Outcomes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_status", "crash", "status"),
    [
        (0, "", "finished"),
        (1, "boom", "crashed"),
        (143, "", "stopped"),
        (-9, "", "stopped"),
        (None, "", "started"),
        # Tried again, and stopped or under way: a crash is not forgotten until the end.
        (143, "boom", "crashed"),
        (None, "boom", "crashed"),
    ],
)
def test_status(exit_status, crash, status):
    assert Outcome(["x"], exit_status, 1.0, crash).status == status


def test_an_outcome_is_what_was_written(tmp_path):
    assert read_outcome(tmp_path) is None
    assert read_scores(tmp_path) is None
    outcome = Outcome(["a", "b"], 1, 2.5, "boom", 3.5)
    jobs._write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome
    for text in ("{", "[]", '{"x": 1}'):
        (tmp_path / "outcome.json").write_text(text)
        with pytest.raises(UserError, match=r"outcome\.json"):
            read_outcome(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("command", "python"),
        ("command", [1]),
        ("exit_status", "0"),
        ("exit_status", 0.5),
        ("seconds", "2.5"),
        ("seconds", True),
        ("seconds", float("inf")),
        ("crash", None),
        ("started", [3.5]),
    ],
)
def test_an_outcome_with_an_odd_type_is_named(name, value, tmp_path):
    outcome = Outcome(["a", "b"], 1, 2.5, "boom", 3.5)
    text = json.dumps({**outcome._asdict(), name: value})
    (tmp_path / "outcome.json").write_text(text)
    with pytest.raises(UserError, match=rf"outcome\.json is damaged: `{name}` is no"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"games": 3}',
        '{"mean": "9.0"}',
        '{"mean": null}',
        '{"mean": [[1]]}',
        "[" * 10**5,
    ],
)
def test_scores_without_a_mean_are_named(text, tmp_path):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"scores\.json is damaged"):
        read_scores(tmp_path)


def test_a_full_disk_leaves_the_earlier_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    jobs.write_file(path, b"first")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"Cannot write .*file: No space left on device"):
        jobs.write_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


# Processes --------------------------------------------------------------------------


def test_the_cores_are_shared_unless_the_user_says_otherwise(monkeypatch):
    for name in jobs._THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    for at_once, threads in [(1, "8"), (2, "4"), (3, "2"), (8, "1"), (20, "1")]:
        environment = jobs.child_environment(at_once)
        assert [environment[name] for name in jobs._THREADS] == [threads] * 3
        assert environment["PATH"] == os.environ["PATH"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    environment = jobs.child_environment(2)
    assert [environment[name] for name in jobs._THREADS] == ["4", "4", "5"]


def test_runs_see_their_share_of_the_cores(fakes, monkeypatch):
    for name in jobs._THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs, "cores", lambda: 6)
    run(job("threads"), at_once=2)
    assert (job("threads").run_dir / "threads").read_text() == "3 3 3"


def test_a_run_is_trained_and_then_evaluated(fakes):
    todo = job(seed=3)
    assert run(todo, games=7) == ({3: ""}, None)
    assert calls() == ["good 3", "evaluate"]
    outcome = read_outcome(todo.directory)
    assert (outcome.status, outcome.exit_status, outcome.crash) == ("finished", 0, "")
    assert 0 < outcome.seconds < 60
    assert outcome.command == [
        *(sys.executable, "-m", "fake_trainer", "--env=good", "--seed=3"),
        *("--run_dir=all/good/3/run", "--noprogress_bar"),
    ]
    scores = {"games": 7, "actions": "sampled", "mean": 106.0}
    assert read_scores(todo.directory) == scores
    names = {path.name for path in todo.directory.iterdir()}
    assert names == {"run", "log.txt", "outcome.json", "scores.json"}


def test_runs_are_started_in_their_order(fakes):
    run(*(job(seed=seed) for seed in (2, 0, 1)), games=1)
    assert calls() == ["good 2", "evaluate", "good 0", "evaluate", "good 1", "evaluate"]


def test_as_many_at_once_as_asked_for(fakes):
    todo = [job("rendezvous", seed) for seed in range(2)]
    # Each waits until the other has begun.
    assert run(*todo, at_once=2)[0] == {0: "", 1: ""}


def test_no_more_at_once_than_asked_for(fakes, monkeypatch):
    start = jobs._start
    processes, alive = [], []

    def counted(*arguments):
        processes.append(start(*arguments))
        alive.append(sum(each.poll() is None for each in processes))
        return processes[-1]

    monkeypatch.setattr(jobs, "_start", counted)
    run(*(job(seed=seed) for seed in range(5)), at_once=2, games=1)
    assert len(processes) == 10
    assert max(alive) == 2


def test_what_is_finished_is_neither_run_again_nor_touched(fakes):
    todo = job()
    run(todo, games=2)
    before = {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in todo.directory.rglob("*")
    }
    assert run(todo, games=2)[0] == {0: ""}
    assert run(todo, games=0)[0] == {0: ""}
    assert calls() == ["good 0", "evaluate"]
    assert before == {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in todo.directory.rglob("*")
    }


def test_what_is_not_evaluated_over_so_many_games_is(fakes):
    todo = job()
    run(todo, games=0)
    run(todo, games=2)
    assert read_scores(todo.directory)["games"] == 2
    run(todo, games=3)
    assert read_scores(todo.directory)["games"] == 3
    assert calls() == ["good 0", "evaluate", "evaluate"]


def test_what_was_evaluated_by_other_actions_is_again(fakes):
    for greedy, actions in [(False, "sampled"), (True, "greedy"), (True, "greedy")]:
        todo = job()._replace(greedy=greedy)
        run(todo, games=2)
        assert read_scores(todo.directory)["actions"] == actions
    assert calls() == ["good 0", "evaluate", "evaluate"]


@pytest.mark.parametrize(
    ("env", "crash", "exit_status"),
    [
        ("crash", "ValueError: boom", 1),
        ("silent", "it wrote nothing (exit status 7)", 7),
        ("die", "unwell (killed by SIGKILL)", -9),
    ],
)
def test_a_crash_is_told_with_the_last_line_of_its_log(fakes, env, crash, exit_status):
    todo = job(env)
    # What an earlier process said is not taken for this one's words.
    todo.directory.mkdir(parents=True)
    (todo.directory / "log.txt").write_text("Old news.\n")
    for attempt in (1, 2):
        assert run(todo, games=1)[0] == {0: f"crashed: {crash}"}
        outcome = read_outcome(todo.directory)
        assert outcome[1] == exit_status
        assert (outcome.status, outcome.crash) == ("crashed", crash)
        assert calls() == [f"{env} 0"] * attempt


def test_a_crash_does_not_hold_up_the_others(fakes):
    problems, _ = run(job("crash", 0), job("good", 1))
    assert problems == {0: "crashed: ValueError: boom", 1: ""}


def test_a_long_last_line_is_cut():
    assert jobs._last_line("x" * 1000, 1) == "x" * 300 + " ..."


def test_a_crashed_run_is_crashed_until_it_is_finished(fakes):
    todo = job("crash")
    run(todo)
    seconds = read_outcome(todo.directory).seconds
    Path("mended").touch()
    assert run(todo)[0] == {0: ""}
    outcome = read_outcome(todo.directory)
    assert (outcome.status, outcome.crash) == ("finished", "")
    assert outcome.seconds > seconds


def test_a_crashed_run_that_is_stopped_is_crashed_still(fakes):
    todo = job("wait")
    todo.directory.mkdir(parents=True)
    jobs._write_outcome(todo.directory, Outcome(todo.command, 1, 100.0, "boom"))
    signal_when(calls, signal.SIGINT)
    assert run(todo) == ({}, signal.SIGINT)
    outcome = read_outcome(todo.directory)
    assert (outcome.status, outcome.crash) == ("crashed", "boom")
    assert (outcome.exit_status, outcome.started) == (143, None)
    assert outcome.seconds > 100.4


def test_an_evaluation_that_crashes_is_told_and_made_again(fakes):
    todo = job()
    Path("bad_evaluation").write_text("half of it")
    assert run(todo, games=1)[0] == {0: "evaluation crashed: no picture"}
    assert read_scores(todo.directory) is None
    assert read_outcome(todo.directory).status == "finished"
    Path("bad_evaluation").write_text("")
    (problem,) = run(todo, games=1)[0].values()
    assert problem.startswith("evaluation crashed: its output is not JSON")
    assert read_scores(todo.directory) is None
    Path("bad_evaluation").unlink()
    assert run(todo, games=1)[0] == {0: ""}
    assert calls() == ["good 0", "evaluate", "evaluate", "evaluate"]
    assert not list(todo.directory.glob(".*"))


# Stopping ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_save_and_the_same_call_continues(fakes, number):
    todo = [job("wait", seed) for seed in range(3)]
    signal_when(lambda: len(calls()) == 2, number)
    assert run(*todo, at_once=2, games=1) == ({}, number)
    for stopped in todo[:2]:
        # One signal each, whatever it was that arrived here.
        assert (stopped.run_dir / "signals").read_text() == "1"
        outcome = read_outcome(stopped.directory)
        assert (outcome.status, outcome.exit_status) == ("stopped", 143)
        assert outcome.seconds > 0.4
    # Nothing is started after the signal.
    assert read_outcome(todo[2].directory) is None
    seconds = read_outcome(todo[0].directory).seconds
    Path("mended").touch()
    assert run(*todo, at_once=2, games=1)[0] == {0: "", 1: "", 2: ""}
    # Of both processes together.
    assert read_outcome(todo[0].directory).seconds > seconds


def test_what_finishes_after_the_signal_is_finished_and_evaluated_later(fakes):
    todo = job("last update")
    signal_when(calls, signal.SIGINT)
    assert run(todo, games=1) == ({}, signal.SIGINT)
    assert read_outcome(todo.directory).status == "finished"
    assert run(todo, games=1)[0] == {0: ""}
    assert calls() == ["last update 0", "evaluate"]


def test_ctrl_c_in_the_terminal_reaches_the_children_once(fakes):
    # As a terminal does, to the whole group: the children must not be in it.
    script = (
        "from pathlib import Path\n"
        "from acktr_tf.suites import jobs\n"
        "from acktr_tf.training.stopping import StopRequest\n"
        "jobs.TRAINER = 'fake_trainer'\n"
        "job = jobs.Job('T', 'A', 0, Path('all'), ['--env=wait'])\n"
        "with StopRequest() as stop:\n"
        "    jobs.run_jobs([job], at_once=1, games=0, stop=stop, on_complete=print)\n"
        "raise SystemExit(stop.exit_status)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, stderr=subprocess.PIPE
    )
    wait_for(calls)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    process.stderr.close()
    assert Path("all", "run", "signals").read_text() == "1"


def test_a_second_signal_kills(fakes):
    todo = job("stubborn")
    signal_when(calls, signal.SIGINT, signal.SIGINT)
    assert run(todo, games=1) == ({}, signal.SIGINT)
    assert read_outcome(todo.directory).status == "stopped"
    assert read_outcome(todo.directory).exit_status == -signal.SIGKILL
    assert not processes(todo.run_dir)


def test_a_run_that_somebody_else_stops_is_stopped(fakes):
    todo = job("wait")

    def stop_it():
        wait_for(calls)
        for number in processes(todo.run_dir):
            os.kill(number, signal.SIGTERM)

    threading.Thread(target=stop_it, daemon=True).start()
    assert run(todo) == ({0: "stopped"}, None)
    assert read_outcome(todo.directory).status == "stopped"


def test_a_fault_here_stops_the_children(fakes):
    todo = [job("good", 0), job("wait", 1)]

    def fail(job, problem):
        wait_for(lambda: "wait 1" in calls())
        raise RunError("no space")

    with StopRequest() as stop, pytest.raises(RunError, match="no space"):
        jobs.run_jobs(todo, at_once=2, games=0, stop=stop, on_complete=fail)
    assert (todo[1].run_dir / "signals").read_text() == "1"
    # Its outcome is not known here, and not lost: it is continued.
    assert read_outcome(todo[1].directory).status == "started"
    Path("mended").touch()
    assert run(*todo)[0] == {0: "", 1: ""}


# A benchmark that was killed --------------------------------------------------------


@pytest.fixture
def orphan(fakes):
    """A trainer that goes on after its benchmark was killed."""
    todo = job("wait")
    todo.directory.mkdir(parents=True)
    jobs._write_outcome(
        todo.directory, Outcome(todo.command, None, 100.0, "", time.time() - 50)
    )
    process = subprocess.Popen(todo.command)
    wait_for(calls)
    yield todo, process
    process.kill()
    process.wait()


def test_no_second_process_where_one_still_trains(orphan):
    todo, process = orphan
    before = read_outcome(todo.directory)
    assert run(todo) == ({0: "stopped: another process still trains in it"}, None)
    assert calls() == ["wait 0"]
    assert read_outcome(todo.directory) == before
    assert process.poll() is None
    # Once it has ended, on its own, nothing of it is lost: not its time either.
    Path("mended").touch()
    process.wait()
    assert run(todo)[0] == {0: ""}
    outcome = read_outcome(todo.directory)
    assert outcome.status == "finished"
    assert 150 <= outcome.seconds < 200


def test_the_trainer_s_own_refusal_is_no_crash(orphan, monkeypatch):
    todo, _ = orphan
    # One that took the lock just after it was looked at.
    monkeypatch.setattr(jobs, "is_locked", lambda run_dir: False)
    assert run(todo) == ({0: "stopped: another process still trains in it"}, None)
    assert read_outcome(todo.directory).status == "stopped"
    assert calls() == ["wait 0"]


def test_the_refusal_is_in_the_trainer_s_words():
    package = Path(jobs.__file__).parents[1]
    source = (package / "runs" / "directory.py").read_text()
    assert f'"{jobs._REFUSAL} ' in source


def test_time_before_a_killed_benchmark_is_that_of_what_was_written(fakes):
    todo = job()
    todo.run_dir.mkdir(parents=True)
    assert jobs._seconds(todo, Outcome([], None, 5.0, "", 1000.0)) == 5.0
    for name, written in [("log.txt", 1030), ("run/episodes.csv", 1040)]:
        path = todo.directory / name
        path.touch()
        os.utime(path, (written, written))
    assert jobs._seconds(todo, Outcome([], None, 5.0, "", 1000.0)) == 45.0
    assert jobs._seconds(todo, Outcome([], None, 5.0, "", 2000.0)) == 5.0
    assert jobs._seconds(todo, Outcome([], 143, 5.0)) == 5.0


def test_the_names_of_its_files_are_those_of_the_package():
    names = json.dumps([jobs.TRAINER, jobs.EVALUATOR])
    assert names == '["acktr_tf.launch", "acktr_tf.evaluate"]'
