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
    environments: "VectorEnvironment", path: Path
) -> Iterator[Callable[[], None]]:
    """Films the first of some environments.

    Args:
      environments: Made with `render`.
      path: The file, which is there only if the body ends well.

    Yields:
      A function that adds the current picture to the film.

    Raises:
      RunError: The file cannot be written, or the pictures change their size.
    """
    from imageio import v2 as imageio

    rate = environments.frames_per_second
    if path.suffix.lower() == ".gif":
        options: dict[str, Any] = {"duration": 1000 / rate, "loop": 0}
    else:
        # Pictures of even height and width are kept as they are.
        options = {"fps": rate, "macro_block_size": 2}

    size: tuple[int, ...] | None = None

    def watch() -> None:
        nonlocal size
        picture = environments.render()[0]
        size = size or picture.shape
        if picture.shape != size:
            raise RunError(
                f"Cannot film {environments.name}: its picture changed from "
                f"{list(size)} to {list(picture.shape)}; a film has one size."
            )
        writer.append_data(picture)

    try:
        writer: Any
        with (
            atomic_file(path) as saving,
            imageio.get_writer(saving, mode="I", **options) as writer,
        ):
            yield watch
    except OSError as error:
        raise RunError(f"Cannot film to {path}: {reason(error)}.") from error
