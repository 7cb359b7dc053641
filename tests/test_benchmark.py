"""The command: order, report, crashes, stops, refusals; once with the real trainer."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl.flags import FlagValues
from suites.fake_jobs import calls, fakes, processes, signal_when, wait_for

from acktr_tf import benchmark
from acktr_tf.cli import flags
from acktr_tf.cli.flag_files import expand
from acktr_tf.suites import jobs, report, statistics, tables
from acktr_tf.suites import suite as suites
from acktr_tf.suites.jobs import Outcome, read_outcome

__all__ = ["fakes"]

ROOT = Path(benchmark.__file__).parent.parent
PAGE = ROOT / "docs" / "benchmark.md"
# What cannot be drawn twice at the same time, and takes most of the time of a test.
PICTURE = b"\x89PNG"


@pytest.fixture
def directory(fakes, monkeypatch) -> Path:
    """A working directory with a suite, and quick programs that stand for the real."""
    monkeypatch.setattr(report, "plot_curves", lambda suite, runs: PICTURE)
    monkeypatch.setattr(statistics, "_rliable_interval", lambda: None)
    monkeypatch.setattr(statistics, "RESAMPLES", 10)
    write_suite("good", "good")
    return fakes


def write_suite(first, second, flags="--total_steps=1000", algorithms="One ="):
    Path("my.suite").write_text(
        f"[suite]\nflags = {flags}\n[tasks]\nFirst = --env={first}\n"
        f"Second = --env={second}\n[algorithms]\n{algorithms}\n"
        "[scores]\nFirst = 0 10\nSecond = 0 10\n"
    )


def run(*arguments, capsys):
    capsys.readouterr()
    command = ["--suite=my", "--jobs=1", "--games=1", *arguments]
    status = benchmark.main(command)
    return status, *capsys.readouterr()


def rows(path="runs/benchmark-my"):
    with Path(path, "report.csv").open() as file:
        return {
            f"{row['task']} {row['algorithm']} {row['seed']}": row
            for row in csv.DictReader(file)
        }


def statuses():
    return {name: row["status"] for name, row in rows().items()}


def contents(path):
    return {
        file: (file.stat().st_mtime_ns, file.read_bytes())
        for file in Path(path).rglob("*")
        if file.is_file()
    }


# A benchmark ------------------------------------------------------------------------


def test_all_tasks_and_algorithms_come_with_one_seed_before_the_next(directory, capsys):
    write_suite("good", "threads", algorithms="B = --algorithm=a2c\nA =")
    status, out, err = run("--seeds=2", "--first_seed=5", "--games=0", capsys=capsys)
    assert status == 0
    order = [f"{env} {seed}" for seed in (5, 6) for env in ("good", "threads")]
    assert calls() == [call for call in order for _ in range(2)]
    names = [line.split("]")[1].split(":")[0].strip() for line in out.splitlines()]
    assert names == [
        f"{task} {algorithm} seed {seed}"
        for seed in (5, 6)
        for task in ("First", "Second")
        for algorithm in ("B", "A")
    ]
    # The fake's three episodes return seed + 1, + 2 and + 3.
    assert re.fullmatch(r"\[1/8\] First B seed 5: 7\.0 \(\d s\)", out.splitlines()[0])
    assert err == "The report is runs/benchmark-my/report.md.\n"
    path = Path("runs/benchmark-my")
    names = {file.name for file in path.iterdir()}
    assert names == {"First", "Second", "report.md", "report.csv", "report.png"}
    outcome = read_outcome(path / "First" / "B" / "6")
    assert outcome.command[3:-1] == [
        *("--algorithm=a2c", "--total_steps=1000", "--env=good", "--seed=6"),
        "--run_dir=runs/benchmark-my/First/B/6/run",
    ]


def test_the_report_has_every_run(directory, capsys):
    run("--seeds=2", "--directory=d", capsys=capsys)
    found = rows("d")
    assert list(found) == [f"{t} One {s}" for t in ("First", "Second") for s in (0, 1)]
    row = found["Second One 1"]
    assert (row["status"], row["steps"]) == ("finished", "32")
    assert (row["last_100_mean"], row["evaluation_mean"]) == ("3", "104")
    page = Path("d/report.md").read_text()
    assert re.search(r"\| First \| 2\.50 \[.*\], 2 seeds, evaluation 103\.5 \|", page)
    assert "| One | 0.250 [" in page


def test_the_report_is_written_after_each_run(directory, capsys):
    write_suite("good", "wait")
    signal_when(lambda: len(calls()) == 3, signal.SIGINT)
    written = []
    write = report.write_report

    def remember(path, suite, runs):
        write(path, suite, runs)
        written.append([run.status for run in runs])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", remember)
        assert run("--seeds=1", capsys=capsys)[0] == 130
    assert written == [["finished", "waiting"], ["finished", "stopped"]]


def test_what_is_finished_stays_as_it_is_and_more_seeds_are_added(directory, capsys):
    run("--seeds=1", capsys=capsys)
    before = contents("runs/benchmark-my/First")
    first = calls()
    assert run("--seeds=1", capsys=capsys)[:2] == (0, "")
    assert calls() == first
    status, out, _ = run("--first_seed=3", "--seeds=1", capsys=capsys)
    assert (status, len(out.splitlines())) == (0, 2)
    after = contents("runs/benchmark-my/First")
    assert {path: after[path] for path in before} == before
    # The report is of all that there are.
    assert list(rows()) == [
        f"{task} One {seed}" for task in ("First", "Second") for seed in (0, 3)
    ]
    # Those that are done are counted, too.
    Path("runs/benchmark-my/Second/One/0/outcome.json").unlink()
    shutil.rmtree("runs/benchmark-my/Second/One/0/run")
    out = run("--seeds=1", capsys=capsys)[1]
    assert out.startswith("[2/2] Second One seed 0: ")


# Crashes ----------------------------------------------------------------------------


def test_a_crash_is_shown_until_the_run_is_finished(directory, capsys):
    write_suite("crash", "good")
    flags = ("--seeds=1",)
    for attempts in (1, 2):
        status, out, _ = run(*flags, capsys=capsys)
        assert status == 1
        assert "First One seed 0: crashed: ValueError: boom" in out
        assert calls().count("crash 0") == attempts
        assert calls().count("good 0") == 1
        assert statuses() == {"First One 0": "crashed", "Second One 0": "finished"}
        page = Path("runs/benchmark-my/report.md").read_text()
        assert "- First One seed 0: ValueError: boom" in page
        assert "| First | 1 crashed |" in page
    # Tried again, and stopped: it is still one that crashed.
    outcome = read_outcome(Path("runs/benchmark-my/First/One/0"))
    jobs._write_outcome(
        Path("runs/benchmark-my/First/One/0"), outcome._replace(exit_status=143)
    )
    run("--report", capsys=capsys)
    assert statuses()["First One 0"] == "crashed"
    Path("mended").touch()
    status, out, _ = run(*flags, capsys=capsys)
    assert (status, statuses()["First One 0"]) == (0, "finished")
    assert "crashed" not in Path("runs/benchmark-my/report.md").read_text()


def test_an_evaluation_that_crashes_is_an_error(directory, capsys):
    Path("bad_evaluation").write_text("x")
    status, out, _ = run("--seeds=1", capsys=capsys)
    assert status == 1
    assert re.search(
        r"First One seed 0: 2\.0 \(\d s\), evaluation crashed: no pic", out
    )
    assert rows()["First One 0"]["evaluation_mean"] == ""
    Path("bad_evaluation").unlink()
    assert run("--seeds=1", capsys=capsys)[0] == 0
    assert rows()["First One 0"]["evaluation_mean"] == "103"
    assert calls().count("good 0") == 2


def test_a_run_without_an_episode_has_no_score(directory, capsys, monkeypatch):
    write_suite("good", "good")
    (trainer,) = directory.glob("fake_trainer.py")
    trainer.write_text(trainer.read_text().replace("range(1, 4)", "range(0)"))
    status, out, _ = run("--seeds=1", "--games=0", capsys=capsys)
    assert status == 0
    assert re.search(r"First One seed 0: no episode ended \(\d s\)", out)


# Stopping ---------------------------------------------------------------------------


def test_stopped_and_continued(directory, capsys):
    write_suite("good", "wait")
    signal_when(lambda: "wait 0" in calls(), signal.SIGTERM)
    status, out, err = run("--seeds=2", capsys=capsys)
    assert status == 143
    assert len(out.splitlines()) == 1
    assert err.splitlines()[-1] == (
        "Stopped: 1 of 4 runs are finished. To continue: python -m acktr_tf.benchmark "
        "--suite=my --jobs=1 --games=1 --seeds=2"
    )
    assert statuses() == {
        "First One 0": "finished",
        "First One 1": "waiting",
        "Second One 0": "stopped",
        "Second One 1": "waiting",
    }
    Path("mended").touch()
    arguments = shlex.split(err.splitlines()[-1])
    assert benchmark.main(arguments[arguments.index("--suite=my") :]) == 0
    assert capsys.readouterr().out.startswith("[2/4] Second One seed 0: ")
    assert set(statuses().values()) == {"finished"}


def benchmark_process(*arguments):
    script = (
        "import sys\n"
        "from acktr_tf import benchmark\n"
        "from acktr_tf.suites import jobs\n"
        "jobs.TRAINER, jobs.EVALUATOR = 'fake_trainer', 'fake_evaluator'\n"
        "sys.exit(benchmark.main())\n"
    )
    command = [sys.executable, "-c", script, "--suite=my", "--games=0", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_while_a_run_is_under_way(directory, capsys):
    write_suite("good", "wait")
    process = benchmark_process("--seeds=1", "--jobs=1")
    wait_for(lambda: "wait 0" in calls())
    process.kill()
    process.communicate()
    run_dir = Path("runs/benchmark-my/Second/One/0/run")
    assert processes(run_dir)
    before = contents("runs/benchmark-my/First")
    # The first run is kept; the second is still trained by the child that was left.
    status, out, _ = run("--seeds=1", "--games=0", capsys=capsys)
    assert status == 1
    assert out == (
        "[2/2] Second One seed 0: stopped: another process still trains in it\n"
    )
    assert calls() == ["good 0", "wait 0"]
    assert statuses() == {"First One 0": "finished", "Second One 0": "started"}
    assert contents("runs/benchmark-my/First") == before
    Path("mended").touch()
    wait_for(lambda: not processes(run_dir))
    assert run("--seeds=1", "--games=0", capsys=capsys)[0] == 0
    assert set(statuses().values()) == {"finished"}
    assert calls().count("good 0") == 1


def test_two_at_once_are_refused_but_a_report_is_not(directory, capsys):
    write_suite("good", "wait")
    process = benchmark_process("--seeds=1", "--jobs=2")
    try:
        wait_for(lambda: len(calls()) == 2)
        status, out, err = run("--seeds=1", capsys=capsys)
        assert (status, out) == (2, "")
        assert err.startswith(
            "acktr_tf.benchmark: Another benchmark runs in runs/benchmark-my. Wait"
        )
        assert len(err.splitlines()) == 1
        assert run("--report", capsys=capsys)[0] == 0
        assert statuses()["Second One 0"] == "started"
        assert len(calls()) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err


# The report alone -------------------------------------------------------------------


def test_the_report_is_written_from_what_is_there_and_nothing_is_run(directory, capsys):
    write_suite("crash", "good")
    run("--seeds=1", capsys=capsys)
    path = Path("runs/benchmark-my")
    before, first = contents(path), calls()
    for name in ("report.md", "report.csv", "report.png"):
        (path / name).unlink()
    status, out, _ = run("--report", capsys=capsys)
    assert (status, out) == (0, "The report is runs/benchmark-my/report.md.\n")
    assert calls() == first
    assert {file: data for file, (_, data) in contents(path).items()} == {
        file: data for file, (_, data) in before.items()
    }
    shutil.rmtree(path)
    status, _, err = run("--report", capsys=capsys)
    assert status == 2
    assert "There is no benchmark in runs/benchmark-my." in err
    assert not path.exists()


# Refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite="], "--suite must be given"),
        (["--suite=mujoco"], "Did you mean mujoco8.suite, mujoco_paper.suite?"),
        (["--seeds=0"], "`seeds` must be an integer >= 1"),
        (["--games=-1"], "`games` must be an integer >= 0"),
        (["--directory=my.suite"], "my.suite must be a directory that can be written"),
        (["--first_seed=2147483647"], "`seed` must be an integer"),
    ],
)
def test_a_wrong_flag_is_one_line(directory, capsys, arguments, message):
    status, out, err = run(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith("acktr_tf.benchmark: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert calls() == []


def test_a_wrong_flag_of_a_suite_is_found_before_anything_is_run(directory, capsys):
    write_suite("good", "good --hidden_sise=3")
    status, _, err = run(capsys=capsys)
    assert status == 2
    assert err.startswith(
        "acktr_tf.benchmark: Second, One: Unknown flag `--hidden_sise`"
    )
    assert len(err.splitlines()) == 1
    assert calls() == []


@pytest.mark.parametrize("report_only", [False, True])
def test_other_flags_than_a_finished_run_has_are_refused(
    directory, capsys, report_only
):
    run("--seeds=1", capsys=capsys)
    before, first = contents("runs"), calls()
    write_suite("good", "good", "--total_steps=2000 --checkpoint_seconds=3")
    arguments = ["--seeds=2", *(["--report"] if report_only else [])]
    status, out, err = run(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert (
        "First One seed 0 was run with other settings: total_steps: started with 1000, "
        "now 2000, and in use by "
    ) in err
    assert "delete runs/benchmark-my/First/One/0 to" in err
    assert contents("runs") == before
    # What does not change what is learnt may change.
    write_suite("good", "good", "--total_steps=1000 --checkpoint_seconds=3")
    assert run("--seeds=1", capsys=capsys)[0] == 0
    assert calls() == first


def test_another_flag_file_of_the_same_name_is_noticed(directory, capsys):
    Path("one.flags").write_text("--damping=0.5\n")
    write_suite("good", "good", algorithms="One = --flagfile=one.flags")
    run("--seeds=1", capsys=capsys)
    Path("one.flags").write_text("--damping=0.25\n")
    status, _, err = run("--seeds=1", capsys=capsys)
    assert status == 2
    assert "damping: started with 0.5, now 0.25" in err


def test_a_finished_run_without_its_settings_is_compared_by_its_command(
    directory, capsys
):
    run("--seeds=1", capsys=capsys)
    for path in Path("runs").rglob("config.json"):
        path.unlink()
    assert run("--seeds=1", capsys=capsys)[0] == 0
    write_suite("good", "good", "--total_steps=2000")
    status, _, err = run("--seeds=1", capsys=capsys)
    assert status == 2
    assert "started with --total_steps=1000; now --total_steps=2000" in err


def test_runs_with_other_seeds_in_the_report_are_compared_too(directory, capsys):
    run("--seeds=1", "--first_seed=7", capsys=capsys)
    write_suite("good", "good", "--total_steps=2000")
    status, _, err = run("--seeds=1", capsys=capsys)
    assert status == 2
    assert "First One seed 7 was run with other settings" in err


def test_a_run_that_never_began_may_have_other_flags(directory, capsys):
    path = Path("runs/benchmark-my/First/One/0")
    path.mkdir(parents=True)
    jobs._write_outcome(path, Outcome(["x", "-m", "y", "--env=z"], 1, 1.0, "boom"))
    assert run("--seeds=1", capsys=capsys)[0] == 0


def test_a_damaged_config_is_named(directory, capsys):
    run("--seeds=1", capsys=capsys)
    path = Path("runs/benchmark-my/First/One/0/run/config.json")
    for text in ("{", "{}", '{"settings": 3}', '{"settings": {"seed": -1}}'):
        path.write_text(text)
        status, _, err = run("--seeds=1", capsys=capsys)
        assert status == 2
        assert f"{path} is damaged, or of another version" in err
    # A setting that there is no more cannot be compared.
    document = {"settings": {"env": "good", "total_steps": 1000, "gone": 1}}
    path.write_text(json.dumps(document))
    status, _, err = run("--seeds=1", capsys=capsys)
    assert status == 2
    assert "of another version: Unknown setting `gone`." in err


# The real trainer -------------------------------------------------------------------


def test_a_benchmark_of_cartpole_is_stopped_and_continued(tmp_path):
    (tmp_path / "pole.suite").write_text(
        "[suite]\n"
        "flags = --total_steps=6000 --num_envs=8 --unroll_length=8 --log_period=1\n"
        "[tasks]\nPole = --env=CartPole-v1\n"
        "[algorithms]\nA2C = --algorithm=a2c --hidden_size=8\n"
    )
    command = [sys.executable, "-m", "acktr_tf.benchmark", "--suite=pole"]
    command += ["--seeds=1", "--jobs=1", "--games=3"]
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    directory = tmp_path / "runs" / "benchmark-pole" / "Pole" / "A2C" / "0"
    process = subprocess.Popen(command, **options)
    progress = directory / "run" / "progress.csv"
    wait_for(lambda: progress.exists() and progress.read_text().count("\n") > 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert "Stopped: 0 of 1 runs are finished. To continue: python -m acktr_tf" in err
    outcome = read_outcome(directory)
    assert (outcome.status, outcome.exit_status) == ("stopped", 143)
    saved = max(int(path.name) for path in directory.glob("run/checkpoints/*"))
    assert 0 < saved < 6000

    done = subprocess.run(command, **options, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[1/1\] Pole A2C seed 0: [\d.]+ \(\d+ s\)\n", done.stdout)
    log = (directory / "log.txt").read_text()
    assert f"Continuing from step {saved}." in log
    ended = read_outcome(directory)
    assert ended.status == "finished"
    assert ended.seconds > outcome.seconds
    scores = json.loads((directory / "scores.json").read_text())
    assert (scores["games"], scores["env"]) == (3, "CartPole-v1")
    (row,) = rows(tmp_path / "runs" / "benchmark-pole").values()
    assert (row["status"], row["steps"]) == ("finished", "6016")
    assert float(row["evaluation_mean"]) == pytest.approx(scores["mean"])
    with (directory / "run" / "episodes.csv").open() as file:
        returns = [float(line["episode_return"]) for line in csv.DictReader(file)]
    assert len(returns) > 100
    mean = sum(returns[-100:]) / 100
    assert float(row["last_100_mean"]) == pytest.approx(mean)
    png = (tmp_path / "runs" / "benchmark-pole" / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000


# The command ------------------------------------------------------------------------


def test_flags_are_answered_without_numpy(tmp_path):
    code = (
        "import sys\n"
        "from acktr_tf import benchmark\n"
        "arguments = ('--help', '--seeds=x', '--suite=z')\n"
        "statuses = [benchmark.main([each]) for each in arguments]\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "print(statuses, heavy or 'light')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[0, 2, 2] light"
    for path in sorted((ROOT / "launch").glob("*.suite")):
        assert path.stem in done.stdout


def test_the_cores_are_all_used_by_default(directory, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "cores", lambda: 3)
    monkeypatch.setattr(
        benchmark, "run_jobs", lambda jobs, at_once, **more: asked.append(at_once)
    )
    run("--jobs=auto", capsys=capsys)
    run("--jobs=7", capsys=capsys)
    assert asked == [3, 7]


def test_the_page_shows_commands_that_are_accepted():
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("python -m acktr_tf.benchm")]
    assert commands
    for line in commands:
        values = FlagValues()
        benchmark.define_flags(values)
        flags.parse(values, list(expand(shlex.split(line)[3:])))
    values = FlagValues()
    benchmark.define_flags(values)
    for flag in flags.setting_flags(values):
        assert f"`--{flag.name}`" in text
    for column in tables.COLUMNS:
        assert f"`{column}`" in text
    assert "docs/benchmark.md" in (ROOT / "README.md").read_text("utf-8")


def test_the_page_shows_a_suite_that_is_read(tmp_path):
    text = PAGE.read_text("utf-8")
    (block,) = re.findall(r"^```ini\n(.*?)^```$", text, re.M | re.S)
    path = tmp_path / "page.suite"
    path.write_text(block)
    suite = suites.read_suite(path)
    assert suite.scores
    benchmark.check_settings(benchmark.make_jobs(suite, tmp_path, [0]))
