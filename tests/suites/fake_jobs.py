"""Programs that stand for trainer and evaluator in tests, and their processes."""

import os
import threading
import time
from pathlib import Path

import pytest

from acktr_tf.suites import jobs

# In the place of the trainer, whose contract it keeps (flags, lock, config.json,
# episodes.csv, exit statuses). It does what its --env says.
TRAINER = """
import fcntl, json, os, signal, sys, time
from pathlib import Path
from acktr_tf.cli.flags import config_from

config = config_from(sys.argv[1:])
assert not config.run.progress_bar
run_dir = Path(config.run.run_dir)
env = config.environment.env
run_dir.mkdir(parents=True, exist_ok=True)
lock = os.open(run_dir, os.O_RDONLY)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"trainer: Another process trains in {run_dir}.", file=sys.stderr)
    sys.exit(2)
signals = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: signals.append(number))
with open("calls.txt", "a") as calls:
    calls.write(f"{env} {config.run.seed}\\n")
settings = {"settings": config.to_dict()}
(run_dir / "config.json").write_text(json.dumps(settings))
if env == "crash" and not Path("mended").exists():
    print("said on stdout")
    print("Traceback", "ValueError: boom", "", sep="\\n", file=sys.stderr)
    sys.exit(1)
if env == "silent":
    sys.exit(7)
if env == "die":
    print("unwell")
    os.kill(os.getpid(), signal.SIGKILL)
deadline = time.monotonic() + 120
if env == "stubborn":
    while not Path("mended").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
if env == "wait":
    while not Path("mended").exists() and time.monotonic() < deadline:
        if signals:
            time.sleep(0.4)
            (run_dir / "signals").write_text(str(len(signals)))
            print("Saved.", file=sys.stderr)
            sys.exit(143)
        time.sleep(0.02)
if env == "last update":
    while not signals and time.monotonic() < deadline:
        time.sleep(0.02)
if env == "threads":
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    (run_dir / "threads").write_text(" ".join(os.environ[name] for name in names))
if env == "rendezvous":
    with open("began.txt", "a") as began:
        began.write("x")
    while len(Path("began.txt").read_text()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
header = "step,episode_return,episode_length,seconds\\n"
lines = [f"{10 * i},{config.run.seed + i},10,{i}\\n" for i in range(1, 4)]
(run_dir / "episodes.csv").write_text(header + "".join(lines))
(run_dir / "progress.csv").write_text("step,loss\\n32,0\\n")
"""

EVALUATOR = """
import json, sys
from pathlib import Path

flags = dict(flag.lstrip("-").partition("=")[::2] for flag in sys.argv[1:])
assert list(flags) == ["run_dir", "json", "games", "greedy"], flags
run_dir = Path(flags["run_dir"])
with open("calls.txt", "a") as calls:
    calls.write("evaluate\\n")
if Path("bad_evaluation").exists():
    print(Path("bad_evaluation").read_text() or "{", end="")
    sys.exit("no picture" if Path("bad_evaluation").read_text() else 0)
last = (run_dir / "episodes.csv").read_text().splitlines()[-1]
mean = 100 + float(last.split(",")[1])
actions = {"true": "greedy", "false": "sampled"}[flags["greedy"]]
games = int(flags["games"])
print(json.dumps({"games": games, "actions": actions, "mean": mean}))
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch) -> Path:
    """A working directory where quick programs stand for trainer and evaluator."""
    (tmp_path / "fake_trainer.py").write_text(TRAINER)
    (tmp_path / "fake_evaluator.py").write_text(EVALUATOR)
    monkeypatch.setattr(jobs, "TRAINER", "fake_trainer")
    monkeypatch.setattr(jobs, "EVALUATOR", "fake_evaluator")
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(Path(jobs.__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls() -> list[str]:
    path = Path("calls.txt")
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def signal_when(condition, *signals):
    """Sends this process signals, in order, once there is what is waited for."""

    def send():
        wait_for(condition)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    threading.Thread(target=send, daemon=True).start()


def processes(run_dir: Path) -> list[int]:
    """Those that were started here for a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = path.joinpath("cwd").readlink() == Path.cwd()
            if here and f"--run_dir={run_dir}\0" in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:
            continue  # It has ended.
    return found
