"""Tests without compiling, which takes seconds where an update takes milliseconds."""

from collections.abc import Iterator

import pytest
import tensorflow as tf


@pytest.fixture
def eager() -> Iterator[None]:
    """Runs TensorFlow's functions as Python, for a test of a few updates.

    Each algorithm and stepper has tests that compile it, too.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
