"""TensorFlow under Keras: refuse another backend, and start without log noise."""

import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from acktr_tf.errors import UserError

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def check_backend() -> None:
    """Refuses a Keras that runs, or would run, on another backend than TensorFlow.

    Once Keras is imported it is asked; before that, its settings are read in its own
    order: the environment variable, then the file. Nothing is imported, so the answer
    is the same whether or not the other backend is installed.

    Raises:
      UserError: Keras is set to another backend; the message says where, and how to
        change it.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        backend, found = keras.config.backend(), "it is imported already"
        change = "Set KERAS_BACKEND=tensorflow before Python starts"
    elif variable := os.environ.get("KERAS_BACKEND"):
        backend, found = variable, f"KERAS_BACKEND={variable}"
        change = "Unset KERAS_BACKEND, or set KERAS_BACKEND=tensorflow"
    else:
        path = _keras_directory() / "keras.json"
        backend, found = _backend_of_file(path), f"in {path}"
        change = 'Write "backend": "tensorflow" there, or set KERAS_BACKEND=tensorflow'
    if backend != "tensorflow":
        raise UserError(
            f"acktr_tf needs Keras on the tensorflow backend. Received: {backend} "
            f"({found}). {change}."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory ran out, Python's or TensorFlow's."""
    tensorflow = sys.modules.get("tensorflow")
    exhausted = (
        () if tensorflow is None else (tensorflow.errors.ResourceExhaustedError,)
    )
    return isinstance(error, (MemoryError, *exhausted))


def load_tensorflow() -> None:
    """Imports TensorFlow and Keras without their log noise, for commands.

    `TF_CPP_MIN_LOG_LEVEL` is set to 3 unless the user has set it.

    Raises:
      UserError: Keras runs on another backend.
    """
    check_backend()
    if _LOG_LEVEL in os.environ:
        importlib.import_module("keras")
    else:
        os.environ[_LOG_LEVEL] = "3"
        # TensorFlow writes some lines before it reads the level.
        with _held_stderr():
            importlib.import_module("keras")
    check_backend()


@contextlib.contextmanager
def _held_stderr() -> Iterator[None]:
    """Keeps what is written to file descriptor 2, and shows it if the body fails."""
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        try:
            stderr = os.dup(2)
        except OSError:  # Closed: there is nothing to hold.
            yield
            return
        stack.callback(os.close, stderr)
        held = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            with os.fdopen(os.dup(stderr), "wb") as shown:
                shutil.copyfileobj(held, shown)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)


def _keras_directory() -> Path:
    """Where Keras keeps its settings, by its own rule."""
    if "KERAS_HOME" in os.environ:
        return Path(os.path.expanduser(os.environ["KERAS_HOME"]))
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp", ".keras")


def _backend_of_file(path: Path) -> str:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Keras takes its defaults, or says what is wrong, when it is imported.
        return "tensorflow"
    if not isinstance(settings, dict):
        return "tensorflow"
    return str(settings.get("backend", "tensorflow"))
