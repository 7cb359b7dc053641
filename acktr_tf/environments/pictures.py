"""Pictures as an environment draws them, and as this package shows them."""

from typing import Any

import numpy as np

from acktr_tf.environments.faults import PictureError, shown
from acktr_tf.types import Array


def to_picture(rendered: Any) -> Array:
    """Returns what an environment drew as a picture `[H, W, 3]` uint8.

    Args:
      rendered: The answer of `render`: grey `[H, W]` or `[H, W, 1]`, colours `[H, W,
        3]`, or colours and opacity `[H, W, 4]`, of which the opacity is left out;
        integers from 0 to 255, floats from 0 to 1, or truth values.

    Raises:
      PictureError: It is something else.
    """
    try:
        array = np.asarray(rendered)
    except (TypeError, ValueError):
        # Rows of different lengths.
        array = np.empty(0)
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise _no_picture(shown(rendered))
    pixels = _to_bytes(array)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., :3]


def _to_bytes(array: Array) -> Array:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    highest = {"b": 1, "f": 1, "i": 255, "u": 255}.get(kind)
    if highest is None:
        raise _no_picture(f"values of type {array.dtype}")
    low, high = array.min(), array.max()
    # Also where one of them is nan.
    if not (low >= 0 and high <= highest):
        raise _no_picture(f"values of type {array.dtype} from {low:g} to {high:g}")
    return np.rint(array * (255 / highest)).astype(np.uint8)


def _no_picture(received: str) -> PictureError:
    return PictureError(
        f"render() returned {received}; a picture [height, width, 3] is expected, of "
        "integers from 0 to 255 or floats from 0 to 1"
    )
