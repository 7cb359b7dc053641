import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from runs.policies import environment_of, save_policy

from acktr_tf import evaluate
from acktr_tf.config.config import configure
from acktr_tf.runs import directory as run_directory
from acktr_tf.runs.saved_model import export_policy
from acktr_tf.training.scoring import EVALUATION, game_seed, score_policy

CARTPOLE = configure(env="CartPole-v1", num_envs=2, hidden_size=8)
BREAKOUT = configure(env="breakout", env_threads=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs with one policy each: only a checkpoint, a final one, and a best."""
    root = tmp_path_factory.mktemp("runs")
    policies = {}
    for name in ("stopped", "done"):
        run_directory.write_config(root / name, CARTPOLE, [])
        policies[name] = save_policy(root / name, CARTPOLE, 640, seed=1)
    for name, seed in [("done/export/best", 2), ("done/export", 3)]:
        policies[name] = save_policy(root / "other", CARTPOLE, seed, seed)
        export_policy(policies[name], CARTPOLE, root / name, {"step": seed})
    return root, policies


@pytest.fixture(scope="module")
def breakout(tmp_path_factory):
    root = tmp_path_factory.mktemp("breakout")
    policy = save_policy(root, BREAKOUT, 0)
    export_policy(policy, BREAKOUT, root / "model", {})
    return root / "model"


def run(*arguments, capsys):
    """Exit status, stdout and stderr of the command."""
    capsys.readouterr()
    status = evaluate.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "played", "step"),
    [
        (["--run_dir=stopped"], "stopped", 640),
        (["--run_dir=done"], "done/export", 3),
        (["--run_dir=done", "--best"], "done/export/best", 2),
        (["--model=done/export/best"], "done/export/best", 2),
    ],
)
@pytest.mark.parametrize("greedy", [True, False])
def test_scores_are_those_of_the_policy(
    flags, played, step, greedy, runs, capsys, monkeypatch
):
    root, policies = runs
    monkeypatch.chdir(root)
    more = ["--games=5", "--num_envs=9", "--json", *(["--greedy"] if greedy else [])]
    status, out, err = run(*flags, *more, capsys=capsys)
    assert (status, err) == (0, "")
    found = json.loads(out)
    expected = score_policy(
        policies[played],
        CARTPOLE.environment,
        CARTPOLE.run.seed,
        5,
        deterministic=greedy,
        purpose=EVALUATION,
    ).to_dict()
    assert {name: found[name] for name in expected} == expected
    assert found["policy_step"] == step
    assert found["env"] == "CartPole-v1"
    assert found["actions"] == ("greedy" if greedy else "sampled")


def test_the_table_is_readable(runs, capsys):
    model = runs[0] / "done/export"
    arguments = (f"--model={model}", "--games=4", "--seed=7")
    status, out, err = run(*arguments, capsys=capsys)
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    scores = json.loads(run(*arguments, "--json", capsys=capsys)[1])
    for row, name in [
        ("mean", "mean"),
        ("std", "standard_deviation"),
        ("median", "median"),
        ("min", "minimum"),
        ("max", "maximum"),
    ]:
        assert rows[row] == f"{scores[name]:.2f}"
    assert rows["games"] == "4"
    assert rows["actions"] == "sampled (drawn as in training)"
    assert rows["policy"] == f"{model}, 3 steps"
    assert rows["steps"] == str(sum(scores["lengths"]))
    seeds = f"{game_seed(7, 0)}..{game_seed(7, 3)}"
    assert (
        rows["seeds"] == f"{seeds} (game j: acktr_tf.training.scoring.game_seed(7, j))"
    )
    assert float(rows["seconds"]) < 60
    assert max(len(line) for line in out.splitlines() if "policy" not in line) <= 88


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "Give either --model=<exported policy> or --run_dir=<run>"),
        (["--model=a", "--run_dir=b"], 2, "Give either --model"),
        (["--model=a", "--best"], 2, "--best goes with --run_dir"),
        (["--model=missing"], 2, "no such directory"),
        (["--model=stopped"], 2, "It is a run directory: give it as --run_dir=stopped"),
        (["--run_dir=missing"], 2, "missing is neither a run directory nor"),
        (["--run_dir=stopped", "--best"], 2, "has no best policy"),
        (["--run_dir=empty"], 2, "has no policy yet"),
        (["--model=done/export", "--games=0"], 2, "`games` must be an integer >= 1"),
        (["--model=done/export", "--game=1"], 2, "Did you mean --games"),
        (["--model=done/export", "--env=pnog"], 2, "Did you mean pong"),
        (["--model=done/export", "--env=Acrobot-v1"], 2, "cannot play Acrobot-v1"),
        (["--model=done/export", "--max_steps=2"], 1, "has not ended after 2 agent"),
        (["--model=done/export", "--video=a.avi"], 2, "must end in .mp4 or .gif"),
        (["--model=done/export", "--video=no/a.mp4"], 2, "must be a file in a dir"),
        (["--model=done/export", "--video="], 2, "--video must end in .mp4 or .gif"),
        (["--model=done/export", f"--video={'a' * 300}.gif"], 2, "name is too long"),
        ([f"--model={'a' * 300}"], 2, "the name is too long for a file"),
        ([f"--run_dir={'a' * 300}"], 2, "cannot be read: File name too long"),
    ],
)
def test_bad_input_is_one_line(flags, status, message, runs, capsys, monkeypatch):
    root, _ = runs
    monkeypatch.chdir(root)
    run_directory.write_config(root / "empty", CARTPOLE, [])
    found, out, err = run(*flags, capsys=capsys)
    assert (found, out) == (status, "")
    assert err.startswith("acktr_tf.evaluate: ")
    assert len(err.splitlines()) == 1
    assert message in err


# imageio-ffmpeg leaves its pipes open where ffmpeg ended by itself before the film
# is closed, as it may after the last picture.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_video_shows_game_0_whole(breakout, tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    from imageio import v2 as imageio

    path = tmp_path / "game.mp4"
    arguments = (f"--model={breakout}", "--games=2", "--json", f"--video={path}")
    status, out, _ = run(*arguments, capsys=capsys)
    assert status == 0
    assert os.listdir(tmp_path) == ["game.mp4"]
    lengths = json.loads(out)["lengths"]
    with imageio.get_reader(path) as film:
        assert film.count_frames() == lengths[0] != lengths[1]
        assert film.get_meta_data()["size"] == (160, 210)
        assert film.get_meta_data()["fps"] == 15
        first, later = film.get_data(0), film.get_data(lengths[0] - 1)
    # Bricks are red and the first is the newest game: something has changed since.
    assert np.abs(first.astype(int) - later).max() > 100
    assert np.ptp(first.astype(int), axis=2).max() > 100
    # Being filmed changes nothing.
    scores = json.loads(run(*arguments[:3], capsys=capsys)[1])
    assert scores["lengths"] == lengths


def test_a_gif_and_a_failure(breakout, tmp_path, capsys):
    from imageio import v2 as imageio

    path = tmp_path / "game.GIF"
    flags = (f"--model={breakout}", f"--video={path}", "--games=1")
    # A failure leaves no half of a film.
    status, _, err = run(*flags, "--max_steps=3", capsys=capsys)
    assert (status, os.listdir(tmp_path)) == (1, []), err
    status, out, _ = run(*flags, "--greedy", capsys=capsys)
    assert status == 0
    assert f"game 0 is filmed in {path}" in out
    pictures = imageio.mimread(path, memtest=False)
    assert len(pictures) > 3
    assert pictures[0].shape[:2] == (210, 160)


def test_missing_packages_for_video(breakout, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio", None)
    flags = (f"--model={breakout}", f"--video={tmp_path / 'a.mp4'}")
    status, _, err = run(*flags, capsys=capsys)
    assert status == 2
    assert "needs the package imageio: pip install 'acktr-tf[video]'" in err


def test_missing_packages_for_drawing(runs, tmp_path, capsys, monkeypatch):
    # Gymnasium draws its classic tasks with it, in a process that has this one's path.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "pygame.py").write_text("raise ImportError('not here')\n")
    monkeypatch.syspath_prepend(hidden)
    path = tmp_path / "a.mp4"
    flags = (f"--model={runs[0] / 'done/export'}", f"--video={path}", "--games=1")
    status, _, err = run(*flags, capsys=capsys)
    assert status == 2
    assert "`CartPole-v1` cannot be drawn" in err
    assert "pip install 'acktr-tf[video]'" in err
    assert os.listdir(tmp_path) == ["hidden"]


class Painted(gymnasium.Env):
    """Plays as CartPole does, and draws a picture of the kind that it is made with."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)
    action_space = Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, kind, fps=None, render_mode=None):
        self.kind, self.render_mode = kind, render_mode
        self.metadata = {**self.metadata, "render_fps": fps}

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.zeros(4, np.float32), 1.0, self.count == 3, False, {}

    def render(self):
        match self.kind:
            case "grey floats":
                return np.full((6, 8), self.count / 10)
            case "with opacity":
                return np.full((6, 8, 4), 25 * self.count, np.uint8)
            case "growing":
                return np.zeros((6 + 2 * self.count, 8, 3), np.uint8)
        return None


@pytest.fixture
def painted():
    """Registers the environment with the arguments that it is given."""
    yield lambda **options: gymnasium.register("Painted-v0", Painted, kwargs=options)
    gymnasium.registry.pop("Painted-v0")


def filmed(runs, path, capsys):
    flags = (f"--model={runs[0] / 'done/export'}", "--games=1", f"--video={path}")
    return run(*flags, "--env=Painted-v0", capsys=capsys)


@pytest.mark.parametrize(
    "kind", ["grey floats", pytest.param("with opacity", marks=pytest.mark.slow)]
)
def test_other_pictures_are_filmed(kind, runs, painted, tmp_path, capsys):
    from imageio import v2 as imageio

    painted(kind=kind)
    status, _, err = filmed(runs, tmp_path / "a.gif", capsys)
    assert status == 0, err
    pictures = imageio.mimread(tmp_path / "a.gif", memtest=False)
    greys = [picture[..., :3].mean() for picture in pictures]
    np.testing.assert_allclose(greys, [0.0, 25.0, 50.0], atol=1.0)


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("growing", 1, "picture changed from [6, 8, 3] to [8, 8, 3]; a film has one"),
        ("none", 2, "cannot be drawn: render() returned None; a picture [height"),
    ],
)
def test_what_cannot_be_filmed_is_one_line(
    kind, status, message, runs, painted, tmp_path, capsys
):
    painted(kind=kind)
    found, out, err = filmed(runs, tmp_path / "a.gif", capsys)
    assert (found, out, os.listdir(tmp_path)) == (status, "", [])
    assert len(err.splitlines()) == 1
    assert message in err
    assert "apt install" not in err


@pytest.mark.parametrize(
    ("fps", "expected"), [(12, 12), (7.5, 7.5), (None, 30), ("fast", 30), (0, 30)]
)
def test_speed_of_films(fps, expected, painted):
    painted(kind="none", fps=fps)
    environments = environment_of(configure(env="Painted-v0"))
    assert environments.frames_per_second == expected
    environments.close()


@pytest.mark.parametrize(("env", "expected"), [("pong", 15), ("CartPole-v1", 50)])
def test_speed_of_films_of_games(env, expected):
    environments = environment_of(configure(env=env, env_threads=1))
    assert environments.frames_per_second == expected
    environments.close()


def test_help_is_there_without_tensorflow():
    script = (
        "import sys\n"
        "from acktr_tf import evaluate, export\n"
        "assert evaluate.main(['--help']) == 0 and export.main(['--help']) == 0\n"
        "assert evaluate.main(['--zzz']) == 2 and export.main(['--zzz']) == 2\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(evaluate.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for flag in ("--model", "--[no]greedy", "--video", "--games", "--[no]card"):
        assert f"  {flag} " in done.stdout
