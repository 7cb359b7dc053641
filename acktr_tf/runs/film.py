"""Films of games."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acktr_tf.errors import RunError, UserError
from acktr_tf.runs.files import atomic_file, reason

if TYPE_CHECKING:
    from acktr_tf.environments import VectorEnvironment

VIDEO_SUFFIXES = (".mp4", ".gif")

_ATARI_FRAMES_PER_SECOND = 60


def check_video(path: Path) -> None:
    """Raises a `UserError` unless a video can be written to `path`."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(
            f"--video must end in {' or '.join(VIDEO_SUFFIXES)}. Received: {path}"
        )
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--video must be a file in a directory. Received: {path}")
    packages = [
        "imageio",
        *(["imageio_ffmpeg"] if path.suffix.lower() == ".mp4" else []),
    ]
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"--video needs the package {package.replace('_', '-')}: "
                "pip install 'acktr-tf[video]'"
            ) from error


@contextlib.contextmanager
def filming(
    environments: "VectorEnvironment", env: str, path: Path
) -> Iterator[Callable[[], None]]:
    """Films the first of some environments.

    Args:
      environments: Made with `render`.
      env: Name of their environment.
      path: The file, which is there only if the body ends well.

    Yields:
      A function that adds the current picture to the film.

    Raises:
      RunError: The file cannot be written.
    """
    from imageio import v2 as imageio

    rate = frames_per_second(env)
    if path.suffix.lower() == ".gif":
        options: dict[str, Any] = {"duration": 1000 / rate, "loop": 0}
    else:
        # Pictures of even height and width are kept as they are.
        options = {"fps": rate, "macro_block_size": 2}

    def watch() -> None:
        writer.append_data(environments.render()[0])

    try:
        writer: Any
        with (
            atomic_file(path) as saving,
            imageio.get_writer(saving, mode="I", **options) as writer,
        ):
            yield watch
    except OSError as error:
        raise RunError(f"Cannot film to {path}: {reason(error)}.") from error


def frames_per_second(env: str) -> float:
    """Returns the pictures per second that show a game of `env` at its own speed."""
    import gymnasium

    from acktr_tf.environments.atari import FRAME_SKIP, find_game

    if find_game(env):
        return _ATARI_FRAMES_PER_SECOND / FRAME_SKIP
    single = gymnasium.make(env)
    rate = float(single.metadata.get("render_fps", 30))
    single.close()
    return rate
