"""Observations that are pictures of the environment, drawn offscreen.

Environments that are drawn run in processes that never load TensorFlow: in one process
with TensorFlow, Mesa's software renderer crashes.
"""

import importlib
import os
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from PIL import Image

from acktr_tf.environments.faults import DrawingError, describe
from acktr_tf.environments.pictures import to_picture
from acktr_tf.types import Array

INSTALLATION_HINT = (
    "MuJoCo draws offscreen by EGL (Debian and Ubuntu: apt install libegl1) or by "
    "OSMesa (apt install libosmesa6); MUJOCO_GL=egl or MUJOCO_GL=osmesa chooses one. "
    "Classic control and Box2D draw with pip install 'acktr-tf[video]'."
)

_BACKENDS = ("egl", "osmesa")
_BACKEND_VARIABLE = "MUJOCO_GL"
_OVERSAMPLING = 2
_TRACKING_CAMERA = "track"


class OffscreenRendering(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws without a screen.

    Where there is no screen and no backend was chosen, MuJoCo is given the first of EGL
    and OSMesa that draws; left alone it would ask for a window.

    A MuJoCo model that has a camera that follows the robot is seen by it, unless the
    environment was made with another; see `tracking_camera`. Otherwise Gymnasium has a
    camera that stays where it is, and points it to where things are when it draws
    first: here that is the simulator's initial state, and not one that a seed decides.

    Args:
      env: Made with the render mode `rgb_array`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._prepared = False

    def render(self) -> Any:
        """Returns the picture `[H, W, 3]` uint8 of the environment.

        Raises:
          DrawingError: The environment cannot be drawn.
          PictureError: It drew something that is no picture.
        """
        try:
            if not self._prepared:
                self._prepare()
            rendered = self.env.render()
        # The kind of failure differs by system and driver.
        except (Exception, SystemExit) as error:
            raise DrawingError(describe(error)) from error
        return to_picture(rendered)

    def _prepare(self) -> None:
        self._prepared = True
        # The software renderer's own threads would fight with the other processes.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        if not isinstance(self.env.unwrapped, MujocoEnv):
            return
        env: Any = self.env.unwrapped
        camera = tracking_camera(env.model)
        if camera is not None and env.camera_id is None and env.camera_name is None:
            env.mujoco_renderer.camera_id = camera
        position, velocity = env.data.qpos.copy(), env.data.qvel.copy()
        env.set_state(env.init_qpos, env.init_qvel)
        self._draw_first()
        env.set_state(position, velocity)

    def _draw_first(self) -> None:
        if {"DISPLAY", "WAYLAND_DISPLAY", _BACKEND_VARIABLE} & os.environ.keys():
            self.env.render()
            return
        faults = []
        for backend in _BACKENDS:
            os.environ[_BACKEND_VARIABLE] = backend
            try:
                self.env.render()
                return
            # The kind of failure differs by system and driver.
            except Exception as error:
                faults.append(f"{backend}: {describe(error)}")
        del os.environ[_BACKEND_VARIABLE]
        raise DrawingError("; ".join(faults))


def tracking_camera(model: mujoco.MjModel) -> int | None:
    """Returns the number of the model's camera that follows its robot.

    That is the one called `track`, as in Gymnasium's tasks, or else the first in one of
    MuJoCo's modes that track a body; None if there is neither.
    """
    named = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, _TRACKING_CAMERA)
    if named >= 0:
        return int(named)
    tracking = (
        mujoco.mjtCamLight.mjCAMLIGHT_TRACK,
        mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM,
    )
    found = np.flatnonzero(np.isin(model.cam_mode, [int(mode) for mode in tracking]))
    return int(found[0]) if len(found) else None


class PixelObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Gives pictures in place of observations.

    Args:
      env: Environment that draws itself; see `pixel_options`.
      size: Height and width; a picture of another size is resampled by area, so that
        things thinner than a pixel are seen.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self._size = (size, size)
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        if isinstance(env.unwrapped, MujocoEnv):
            # Without a graphics card these two cost most.
            quality = env.unwrapped.model.vis.quality
            quality.shadowsize = 0
            quality.offsamples = 0

    def observation(self, observation: Any) -> Array:
        """Returns the picture `[size, size, 3]` uint8 of the environment."""
        picture = np.asarray(self.env.render())
        if picture.shape[:2] == self._size:
            return picture
        image = Image.fromarray(picture).resize(self._size, Image.Resampling.BOX)
        return np.asarray(image)


def pixel_options(env_id: str, size: int) -> dict[str, Any]:
    """Returns the arguments of `gymnasium.make` that `PixelObservation` needs.

    MuJoCo's tasks are drawn larger than they are shown, for smooth edges: without a
    graphics card that is faster than its renderer's own multisampling.
    """
    options: dict[str, Any] = {"render_mode": "rgb_array"}
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    # `gymnasium.make` takes the latest version of a name without one, and reports names
    # that do not exist.
    versions = [
        each
        for each in gymnasium.registry.values()
        if each.version is not None and each.id == f"{name}-v{each.version}"
    ]
    latest = max(versions, key=lambda each: each.version or 0, default=None)
    spec = latest or gymnasium.registry.get(name)
    if spec and str(spec.entry_point).startswith("gymnasium.envs.mujoco."):
        rendered = _OVERSAMPLING * size
        options |= {"width": rendered, "height": rendered}
    return options
