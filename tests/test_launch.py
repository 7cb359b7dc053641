import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from acktr_tf import backend, launch
from acktr_tf.cli import command
from acktr_tf.cli.flags import define_settings
from acktr_tf.config import Config, configure, entries
from acktr_tf.config.algorithms import ALGORITHMS
from acktr_tf.config.setting import show
from acktr_tf.errors import RunError, UserError

ROOT = Path(launch.__file__).parent.parent


def run_python(
    *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KERAS_", "TF_"))
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_launch(
    *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "acktr_tf.launch", *arguments, cwd=cwd, **environment)


@pytest.fixture
def trained(tmp_path, monkeypatch) -> list[tuple[Config, list[str]]]:
    """Calls of a trainer that does nothing, in an empty working directory."""
    calls: list[tuple[Config, list[str]]] = []

    def train(config: Config, command: list[str]) -> int:
        calls.append((config, command))
        return 0

    trainer = types.ModuleType("acktr_tf.training.loop")
    trainer.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acktr_tf.training.loop", trainer)
    monkeypatch.setattr(launch, "load_tensorflow", lambda: None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.chdir(tmp_path)
    return calls


# Help -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "algorithm"),
    [
        (["--help"], "acktr"),
        (["-h"], "acktr"),
        (["--algorithm=a2c", "--helpfull"], "a2c"),
        (["--help", "--flagfile=atari_a2c.flags"], "a2c"),
    ],
)
def test_help_shows_every_setting_of_the_algorithm(arguments, algorithm, tmp_path):
    done = run_launch(*arguments, cwd=tmp_path, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    known = entries(algorithm)
    for path, entry in known.items():
        name = f"[no]{path}" if entry.kind is bool else path
        default = show(entry.default, entry.setting)
        assert f"  --{name} (default: {default})" in lines
        assert f"{entry.heading}:" in lines
    text = " ".join(done.stdout.split())
    for entry in known.values():
        assert " ".join(entry.setting.help.split()) in text
        assert entry.setting.unit in text
    assert "An integer >= 1, in agent steps." in text
    assert "Auto, or an integer >= 1." in text
    for path in (ROOT / "launch").glob("*.flags"):
        assert f"  {path.name}" in lines
    assert "--verbosity (default: 0)" in text
    for other in ALGORITHMS:
        assert (f"--algorithm={other} --help" in text) == (other != algorithm)
        for path in entries(other):
            assert path in known or f"--{path} " not in text
    assert f"a run with --algorithm={algorithm}." in text


def test_help_on_an_algorithm_that_there_is_not(tmp_path):
    done = run_launch("--help", "--algorithm=acktor", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean acktr?" in done.stderr


def test_an_algorithm_of_one_s_own_in_the_working_directory(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "my_module.py").write_text(
        "import dataclasses\n"
        "from acktr_tf.config import Settings, setting\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class MySettings(Settings):\n"
        "    heading = 'Mine'\n"
        "    epochs: int | None = setting(None, 'Epochs.', low=1, none='auto')\n"
        "class MyAlgorithm:\n"
        "    Settings = MySettings\n"
    )
    name = "--algorithm=my_module:MyAlgorithm"
    done = run_launch(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Mine:\n  --epochs (default: auto)\n" in done.stdout
    assert "--kl_radius" not in done.stdout
    # Found by `python -m` so far; what is wrong is the same in this process.
    monkeypatch.syspath_prepend(str(tmp_path))
    for flags, message in [
        ([name, "--epochs=0"], "`epochs` must be auto, or an integer >= 1"),
        (
            [name, "--kl_radius=1"],
            "`--kl_radius` belongs to acktr; the run's algorithm is my_mod",
        ),
        (
            ["--algorithm=my_modul:MyAlgorithm"],
            "names the module my_modul, which is not found",
        ),
    ]:
        assert launch.main(flags) == 2
        refusal = capsys.readouterr().err
        assert message in refusal
        assert len(refusal.splitlines()) == 1


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("80", 80), ("300", 100)])
def test_help_wraps_to_the_terminal(columns, width, tmp_path):
    done = run_launch("--help", cwd=tmp_path, COLUMNS=columns)
    longest = max(len(line) for line in done.stdout.splitlines()[1:])
    assert width - 12 < longest <= width


def test_help_wins_over_errors(trained, capsys):
    assert launch.main(["--flagfile=missing", "--zzz", "--help"]) == 0
    assert capsys.readouterr().err == ""


def test_flags_are_answered_fast_and_without_tensorflow(tmp_path):
    code = (
        "import sys, time\n"
        "start = time.process_time()\n"  # Other tests run at the same time.
        "from acktr_tf import launch\n"
        "statuses = [launch.main([a]) for a in ('--help', '--seed=x', '--zzz')]\n"
        "seconds = time.process_time() - start\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'gymnasium'} & set(sys.modules)\n"
        "print(statuses, heavy or 'light', seconds < 1)\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[0, 2, 2] light True"


# Errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--num_envs=0", "`num_envs` must be an integer >= 1. Received: num_envs=0"),
        ("--num_env=3", "Unknown flag `--num_env`. Did you mean --num_envs"),
        (
            "--rmsprop_decay=0.9",
            "`--rmsprop_decay` belongs to a2c; the run's algorithm",
        ),
        ("--flagfile=atri.flags", "Did you mean atari.flags"),
        ("pong", "Arguments are flags"),
        ("--seed=1\n2", r"Received: seed='1\n2'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(argument, message, tmp_path):
    done = run_launch(argument, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("acktr_tf.launch: ")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("bad\ninput"), 2), (RunError("bad\ninput"), 1)],
)
def test_errors_of_a_run_are_one_line(error, status, capsys):
    def main(values: object) -> int:
        raise error

    arguments = ("acktr_tf.some", "Does something.", define_settings, main)
    assert command.run_command(*arguments, []) == status
    assert capsys.readouterr().err == "acktr_tf.some: bad input\n"
    assert command.run_command(*arguments, ["--verbosity=1"]) == status
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.endswith("acktr_tf.some: bad input\n")


def test_a_bad_flag_before_verbosity_shows_where(capsys):
    assert launch.main(["--zzz", "--verbosity=1"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_memory_that_runs_out_is_one_line_of_any_command(capsys):
    def main(values: object) -> int:
        raise MemoryError

    arguments = ("acktr_tf.some", "", define_settings, main)
    assert command.run_command(*arguments, []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("acktr_tf.some: the memory of the machine")
    assert line.endswith("ran out")
    assert command.run_command(*arguments, ["--verbosity=1"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_before_the_run_is_one_line(capsys):
    def main(values: object) -> int:
        raise KeyboardInterrupt

    assert command.run_command("acktr_tf.some", "", define_settings, main, []) == 130
    assert capsys.readouterr().err == "acktr_tf.some: interrupted\n"


# A broken pipe, too, if it is not one that the output goes to.
@pytest.mark.parametrize("fault", [ZeroDivisionError, BrokenPipeError])
def test_a_fault_of_the_program_is_not_hidden(fault):
    def main(values: object) -> int:
        raise fault

    with pytest.raises(fault):
        command.run_command("acktr_tf.some", "", define_settings, main, [])


# Launch -----------------------------------------------------------------------------


def test_launch_trains_with_the_flags_and_returns_the_status(trained, monkeypatch):
    arguments = ["--flagfile=atari.flags", "--seed=3", "--run_dir=R"]
    assert launch.main(arguments) == 0
    ((config, line),) = trained
    assert config.environment.env == "PongNoFrameskip-v4"
    assert (config.run.seed, config.run.run_dir) == (3, "R")
    assert line == ["python", "-m", "acktr_tf.launch", *arguments]
    trainer = sys.modules["acktr_tf.training.loop"]
    monkeypatch.setattr(trainer, "train", lambda config, command: 143)
    assert launch.main(arguments) == 143


def test_arguments_are_those_of_the_process_by_default(trained, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch.py", "--seed=5"])
    assert launch.main() == 0
    assert trained[0][0].run.seed == 5


def test_default_run_directory(trained):
    launch.main(["--env=ALE/Pong-v5", "--algorithm=a2c", "--seed=4"])
    path = Path(trained[0][0].run.run_dir)
    assert re.fullmatch(r"runs/ALE_Pong-v5-a2c-4-\d{8}-\d{6}", str(path))
    assert not path.exists()


def test_a_run_directory_that_is_there_is_not_taken_by_default(trained, monkeypatch):
    class Clock(launch.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2020, 1, 2, 3, 4, 5)

    monkeypatch.setattr(launch.datetime, "datetime", Clock)
    names = []
    for _ in range(3):
        launch.main([])
        names.append(trained[-1][0].run.run_dir)
        Path(names[-1]).mkdir(parents=True)
    first = "runs/pong-acktr-0-20200102-030405"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_home_in_the_run_directory(trained, monkeypatch):
    monkeypatch.setenv("HOME", "/some/home")
    launch.main(["--run_dir=~/runs/a"])
    assert trained[0][0].run.run_dir == "/some/home/runs/a"


def test_effective_settings_are_printed_before_the_run(trained, capsys):
    launch.main(["--seed=3", "--run_dir=R", "--noprogress_bar"])
    shown = capsys.readouterr().out
    assert shown == launch.effective_settings(trained[0][0]) + "\n"


def test_effective_settings_are_grouped_aligned_and_marked():
    lines = launch.effective_settings(
        configure(seed=3, progress_bar=False, damping=0.01, run_dir="R", target_kl=None)
    ).splitlines()
    starred = [line.split()[1] for line in lines if line.startswith("  * ")]
    assert starred == ["damping", "target_kl", "run_dir", "seed", "progress_bar"]
    headings = [line for line in lines[1:] if not line.startswith(" ")]
    assert headings == ["Environment", "Policy", "Returns", "ACKTR", "Run"]
    rows = [line for line in lines[1:] if line.startswith(" ")]
    used = [path for path in entries("acktr") if not path.startswith("critic.")]
    assert [line[4:].split()[0] for line in rows] == used
    column = 4 + max(len(path) for path in entries("acktr")) + 2
    assert all(line[column - 2 : column] == "  " for line in rows)
    assert rows[used.index("seed")][column:] == "3"
    assert rows[used.index("progress_bar")][column:] == "false"
    assert rows[used.index("target_kl")][column:] == "none"
    assert rows[used.index("env_threads")][column:] == "auto"
    assert rows[used.index("total_steps")][column:] == "10000000 agent steps"


def test_a_star_means_another_value_than_the_algorithm_s_default():
    text = launch.effective_settings(configure(algorithm="a2c", num_envs=32))
    starred = [line.split()[1] for line in text.splitlines() if line[:4] == "  * "]
    assert starred == ["num_envs", "algorithm"]


def test_settings_without_effect_are_shown_only_if_they_were_changed():
    text = launch.effective_settings(configure(algorithm="a2c"))
    assert "damping" not in text
    assert "rmsprop_decay" in text
    assert "critic.damping" not in launch.effective_settings(configure())
    changed = launch.effective_settings(configure(**{"critic.damping": 0.5}))
    lines = changed.splitlines()
    (row,) = (i for i, line in enumerate(lines) if "critic." in line[:12])
    assert lines[row].split() == ["*", "critic.damping", "0.5"]
    assert lines[row - 1].endswith(" (without effect)")
    separate = launch.effective_settings(configure(critic="separate"))
    assert "critic.damping" in separate
    assert "without effect" not in separate


# Backend ----------------------------------------------------------------------------


def test_another_backend_by_the_environment(tmp_path):
    # Whether or not jax is installed.
    done = run_launch(cwd=tmp_path, KERAS_BACKEND="jax")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "acktr_tf.launch: acktr_tf needs Keras on the tensorflow backend. Received: "
        "jax (KERAS_BACKEND=jax). Unset KERAS_BACKEND, or set "
        "KERAS_BACKEND=tensorflow.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["HOME", "KERAS_HOME"])
def test_another_backend_by_the_file(home, tmp_path):
    directory = tmp_path / ".keras" if home == "HOME" else tmp_path
    directory.mkdir(exist_ok=True)
    (directory / "keras.json").write_text('{"backend": "torch"}')
    done = run_launch(cwd=tmp_path, **{home: str(tmp_path)})
    assert done.returncode == 2
    assert f"Received: torch (in {directory / 'keras.json'})." in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "\xff", '{"backend": 1'])
def test_a_file_without_a_backend_means_tensorflow(text, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if text is not None:
        (tmp_path / "keras.json").write_text(text, encoding="latin-1")
    backend.check_backend()


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    backend.check_backend()
    # Keras takes an empty variable for none.
    monkeypatch.setenv("KERAS_BACKEND", "")
    with pytest.raises(UserError, match="torch"):
        backend.check_backend()


def test_an_imported_keras_is_asked(monkeypatch):
    keras = types.ModuleType("keras")
    keras.config = types.SimpleNamespace(  # type: ignore[attr-defined]
        backend=lambda: "jax"
    )
    monkeypatch.setitem(sys.modules, "keras", keras)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(UserError, match=r"Received: jax \(it is imported already\)"):
        backend.check_backend()


def test_tensorflow_is_loaded_without_log_noise(tmp_path):
    code = (
        "import os, sys\n"
        "from acktr_tf.backend import load_tensorflow\n"
        "load_tensorflow()\n"
        "print('tensorflow' in sys.modules, os.environ['TF_CPP_MIN_LOG_LEVEL'])\n"
        "print('after', file=sys.stderr)\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("True 3\n", "after\n")


@pytest.mark.parametrize(
    ("level", "shown"), [(None, "failed 3\n"), ("1", "noise\nfailed 1\n")]
)
def test_stderr_is_held_only_until_the_import_is_done(level, shown, tmp_path):
    # A keras that makes noise, as TensorFlow does when it is imported.
    (tmp_path / "keras.py").write_text(
        "import os, types\n"
        "os.write(2, b'noise\\n')\n"
        "config = types.SimpleNamespace(backend=lambda: 'tensorflow')\n"
    )
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from acktr_tf.backend import load_tensorflow\n"
        "load_tensorflow()\n"
        "os.write(2, f'failed {os.environ[\"TF_CPP_MIN_LOG_LEVEL\"]}\\n'.encode())\n"
    )
    environment = {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    done = run_python("-c", code, cwd=tmp_path, **environment)
    assert done.stderr == shown
    # What was held is shown if the import fails.
    (tmp_path / "keras.py").write_text(
        "import os\nos.write(2, b'noise\\n')\nraise ImportError('no keras')\n"
    )
    done = run_python("-c", code, cwd=tmp_path, **environment)
    assert done.stderr.startswith("noise\nTraceback")
    assert done.stderr.endswith("ImportError: no keras\n")


# Documentation ----------------------------------------------------------------------


def test_the_page_of_settings_is_what_the_script_writes():
    script = ROOT / "tools" / "make_settings.py"
    spec = importlib.util.spec_from_file_location("make_settings", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    assert module.PAGE.read_text(encoding="utf-8") == page, "run tools/make_settings.py"
    for algorithm in ALGORITHMS:
        for path in entries(algorithm):
            name = path.removeprefix("critic.")
            assert f"| `{path}` |" in page or f"| `{name}` |" in page


def test_reader_that_stops_reading_is_no_error(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "acktr_tf.launch", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
