"""Pictures as observations: what they show, and what is said where nothing draws."""

import json
import os
import subprocess
import sys
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import make_vector_env
from acktr_tf.environments.faults import DrawingError
from acktr_tf.environments.pixels import (
    OffscreenRendering,
    PixelObservation,
    pixel_options,
    tracking_camera,
)
from acktr_tf.errors import UserError

MUJOCO = "InvertedPendulum-v5"


class Painter(gymnasium.Env[Any, Any]):
    """Paints its count."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, height: int = 4, width: int = 6) -> None:
        self.size = (height, width)
        self.count = 0

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        picture = np.zeros((*self.size, 3), np.uint8)
        picture[::2] = 100 + self.count
        return picture


class Blind(Painter):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()

    def render(self) -> Any:
        raise RuntimeError("no library\ndraws")


class Choosy(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Is drawn with some of the libraries only."""

    libraries: tuple[str, ...] = ()

    def render(self) -> Any:
        self.position = self.env.unwrapped.data.qpos.copy()
        if os.environ.get("MUJOCO_GL", "glfw") not in self.libraries:
            raise RuntimeError("no library")
        return np.full((2, 3, 3), 7, np.uint8)


def choosy(*libraries: str) -> Choosy:
    env = Choosy(gymnasium.make(MUJOCO, render_mode="rgb_array"))
    env.libraries = libraries
    env.reset(seed=0)
    return env


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    # Set first, so that what the code sets is undone.
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("MUJOCO_GL")
    return monkeypatch


# One environment --------------------------------------------------------------------
def test_a_picture_is_the_mean_over_areas() -> None:
    env = PixelObservation(Painter(), 2)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    first, _ = env.reset()
    # Every other of four rows is 100: so is half of each of two.
    assert first.tolist() == [[[50] * 3] * 2] * 2
    second, *_ = env.step(0)
    assert second.dtype == np.uint8
    assert set(second.ravel().tolist()) <= {50, 51}


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    env = PixelObservation(Painter(4, 4), 4)
    first, _ = env.reset()
    assert np.array_equal(first, Painter(4, 4).render())


@pytest.mark.parametrize("library", ["egl", "osmesa"])
def test_the_first_library_that_draws_is_taken(
    library: str, no_screen: pytest.MonkeyPatch
) -> None:
    env = choosy(library)
    position = env.unwrapped.data.qpos.copy()
    offscreen = OffscreenRendering(env)
    assert np.array_equal(offscreen.render(), np.full((2, 3, 3), 7))
    assert os.environ["MUJOCO_GL"] == library
    # Where it was drawn, it was itself again.
    assert np.array_equal(env.position, position)


def test_a_choice_is_kept(no_screen: pytest.MonkeyPatch) -> None:
    no_screen.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(DrawingError, match=r"^RuntimeError: no library \("):
        OffscreenRendering(choosy("egl")).render()


def test_every_library_that_failed_is_named(no_screen: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DrawingError, match=r"egl: .*no library .*; osmesa: .*no library"
    ):
        OffscreenRendering(choosy()).render()


# The camera of MuJoCo ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("cameras", "expected"),
    [
        ([], None),
        (["name='side'", "name='eye' mode='targetbody' target='robot'"], None),
        (["name='side'", "name='back' mode='track'"], 1),
        (["name='side'", "mode='trackcom'", "mode='track'"], 1),
        (["name='back' mode='track'", "name='track' mode='trackcom'"], 1),
        (["name='back' mode='track'", "name='track'"], 1),
    ],
)
def test_the_camera_that_follows_the_robot_is_found(
    cameras: list[str], expected: int | None
) -> None:
    inside = "".join(f"<camera {camera}/>" for camera in cameras)
    body = f"<body name='robot'><geom size='1'/>{inside}</body>"
    text = f"<mujoco><worldbody>{body}</worldbody></mujoco>"
    assert tracking_camera(mujoco.MjModel.from_xml_string(text)) == expected


@pytest.mark.parametrize(
    ("env", "options", "expected"),
    [
        ("Walker2d-v5", {}, 0),
        ("Walker2d-v5", {"camera_id": -1}, -1),
        (MUJOCO, {}, -1),
        ("Reacher-v5", {}, -1),
    ],
)
def test_a_camera_that_the_environment_was_made_with_stays(
    env: str, options: dict[str, Any], expected: int, no_screen: pytest.MonkeyPatch
) -> None:
    made = gymnasium.make(env, render_mode="rgb_array", **options)
    made.reset(seed=0)
    renderer: Any = made.unwrapped.mujoco_renderer  # type: ignore[attr-defined]
    seen = []

    def render(mode: str) -> Any:
        seen.append(renderer.camera_id)
        return np.zeros((4, 4, 3), np.uint8)

    no_screen.setattr(renderer, "render", render)
    OffscreenRendering(made).render()
    assert set(seen) == {expected}


# In a process without TensorFlow. What a robot is of, of a picture, are the pixels that
# are others without it.
FILM = """
import json, sys
import gymnasium, numpy
from acktr_tf.environments.pixels import OffscreenRendering
from acktr_tf.environments.pixels import tracking_camera
found = {}
for name in sys.argv[1:]:
    made = gymnasium.make(name, render_mode="rgb_array", width=96, height=96)
    env, task = OffscreenRendering(made), made.unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    tracked = tracking_camera(task.model) is not None
    pictures = [env.render().astype(int)]
    for _ in range(100):
        _, _, over, _, _ = task.step(env.action_space.sample())
        if over and not tracked:
            env.reset()
    pictures.append(env.render().astype(int))
    if tracked:
        position = task.data.qpos.copy()
        position[0] += 20.0
        task.set_state(position, task.data.qvel.copy())
        pictures.append(env.render().astype(int))
    task.model.geom_group[task.model.geom_bodyid > 0] = 5
    without = env.render().astype(int)
    changed, robot = [
        numpy.argwhere(abs(pictures[i] - other).max(axis=-1) > 20)
        for i, other in [(0, pictures[1]), (-1, without)]
    ]
    low, high = numpy.percentile(robot, [20, 80], axis=0) if len(robot) else (0, 0)
    found[name] = [len(changed), len(robot), numpy.min(low), numpy.max(high)]
print(json.dumps({name: [float(x) for x in row] for name, row in found.items()}))
"""
TRACKED = ["HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer", "Humanoid"]
TRACKED += ["HumanoidStandup"]
STILL = ["Reacher", "Pusher", "InvertedPendulum", "InvertedDoublePendulum"]


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param(["Hopper", "Reacher"], id="two"),
        pytest.param([*TRACKED, *STILL], id="all", marks=pytest.mark.slow),
    ],
)
def test_a_film_shows_the_robot_wherever_it_goes(tasks: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FILM, *(f"{task}-v5" for task in tasks)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == len(tasks)
    for task, (changed, robot, low, high) in found.items():
        assert changed > 40, task
        assert robot > 30, task
        # The most of it is far from the borders of the 96 x 96 pixels.
        assert 8 < low < high < 92, task


def test_only_mujoco_is_told_how_large_to_draw() -> None:
    for name in ("Reacher-v4", "gymnasium:Reacher-v4", "Reacher", "gymnasium:Reacher"):
        assert pixel_options(name, 42) == {
            "render_mode": "rgb_array",
            "width": 84,
            "height": 84,
        }
    assert pixel_options("CartPole-v1", 42) == {"render_mode": "rgb_array"}


# Many -------------------------------------------------------------------------------
@pytest.mark.parametrize("env", [MUJOCO, "CartPole-v1"])
def test_policies_are_shown_pictures(env: str) -> None:
    settings = EnvironmentSettings(env=env, num_envs=2, pixels=42, frame_stack=2)
    environments = make_vector_env(settings, 0)
    try:
        space = environments.observation_space
        assert space == gymnasium.spaces.Box(0, 255, (2, 42, 42, 3), np.uint8)
        first = environments.reset()
        assert first.shape == (2, 2, 42, 42, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first[:, 0], first[:, 1])
        assert first.std() > 5
        environments.action_space.seed(1)
        actions = np.stack([environments.action_space.sample() for _ in range(2)])
        for _ in range(4):
            step = environments.step(actions)
        # What moved is seen.
        assert not np.array_equal(step.observation[:, 0], step.observation[:, 1])
        state = environments.state()
    finally:
        environments.close()
    again = make_vector_env(settings, 0)
    try:
        observation, restarted = again.load_state(state)
    finally:
        again.close()
    assert restarted == []
    assert np.array_equal(observation, step.observation)


def test_drawing_does_not_happen_beside_tensorflow() -> None:
    """In one process, TensorFlow and Mesa's software renderer crash."""
    script = (
        "import tensorflow\n"
        "from acktr_tf.config.environment import EnvironmentSettings\n"
        "from acktr_tf.environments import make_vector_env\n"
        "if __name__ == '__main__':\n"
        f"    for more in [dict(pixels=8), dict()]:\n"
        f"        settings = EnvironmentSettings(env='{MUJOCO}', num_envs=1, **more)\n"
        "        environments = make_vector_env(settings, 0, render=not more)\n"
        "        environments.reset()\n"
        "        print(environments.render()[0].shape)\n"
        "        environments.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split("\n")[:2] == ["(16, 16, 3)", "(480, 480, 3)"]


def test_where_nothing_draws_the_error_says_what_to_install() -> None:
    gymnasium.register("AcktrBlind-v0", entry_point=Blind, disable_env_checker=True)
    try:
        with pytest.raises(UserError, match="cannot be drawn") as error:
            make_vector_env(
                EnvironmentSettings(env="AcktrBlind-v0", num_envs=2, pixels=42), 0
            )
    finally:
        del gymnasium.registry["AcktrBlind-v0"]
    message = str(error.value)
    for text in ["AcktrBlind-v0", "no library", "libegl1", "libosmesa6", "MUJOCO_GL="]:
        assert text in message
    assert "\n" not in message
