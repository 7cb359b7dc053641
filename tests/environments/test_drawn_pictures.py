"""What environments draw, as pictures of bytes in colour; what is none is refused."""

from typing import Any

import numpy as np
import pytest

from acktr_tf.environments.faults import PictureError
from acktr_tf.environments.pictures import to_picture

GREY = np.array([[0, 51, 255], [102, 204, 153]], np.uint8)
COLOURS = np.stack([GREY, GREY[::-1], GREY // 3], axis=2)
REPEATED = np.stack([GREY] * 3, axis=2)
BLACK_OR_WHITE = np.array([[True, False]])


@pytest.mark.parametrize(
    ("rendered", "expected"),
    [
        (COLOURS, COLOURS),
        (COLOURS.tolist(), COLOURS),
        (COLOURS.astype(np.int64), COLOURS),
        # 51/255 is one fifth: all of these are exact.
        (COLOURS / 255, COLOURS),
        ((COLOURS / 255).astype(np.float32), COLOURS),
        (np.dstack([COLOURS, 255 - GREY]), COLOURS),
        (np.dstack([COLOURS / 255, GREY / 255]), COLOURS),
        (GREY, REPEATED),
        (GREY[..., np.newaxis], REPEATED),
        (GREY / 255, REPEATED),
        (BLACK_OR_WHITE, [[[255] * 3, [0] * 3]]),
    ],
)
def test_a_picture_in_another_form_is_the_same(rendered: Any, expected: Any) -> None:
    picture = to_picture(rendered)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


def test_what_is_a_picture_is_not_copied() -> None:
    assert np.shares_memory(to_picture(COLOURS), COLOURS)


@pytest.mark.parametrize(
    ("rendered", "received"),
    [
        (None, "None"),
        ("ascii art", "'ascii art' (str)"),
        (7, "7 (int)"),
        ([COLOURS, COLOURS], "a list of 2 values"),
        ([[1], [1, 2]], "a list of 2 values"),
        (np.zeros((3, 8, 9), np.uint8), "an array uint8[3, 8, 9]"),
        (np.zeros((8, 9, 2), np.uint8), "an array uint8[8, 9, 2]"),
        (np.zeros((0, 9, 3), np.uint8), "an array uint8[0, 9, 3]"),
        (COLOURS.astype(np.float64), "values of type float64 from 0 to 255"),
        (COLOURS / 255 - 0.5, "values of type float64 from -0.5 to 0.5"),
        (COLOURS.astype(int) * 2, "values of type int64 from 0 to 510"),
        (np.full((2, 2), np.nan), "values of type float64 from nan to nan"),
        (COLOURS.astype(complex), "values of type complex128"),
        (np.full((2, 2, 3), None), "values of type object"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(
    rendered: Any, received: str
) -> None:
    with pytest.raises(PictureError) as error:
        to_picture(rendered)
    assert str(error.value) == (
        f"render() returned {received}; a picture [height, width, 3] is expected, of "
        "integers from 0 to 255 or floats from 0 to 1"
    )
