"""Files and directories that are whole, or as they were before, at every instant.

Functions raise the `OSError` of the system; callers say what it means for the run.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from acktr_tf.errors import UserError

SAVING = ".saving-"
"""Start of the names of what is being written."""

REPLACED = ".replaced-"
"""Start of the names of directories that are being replaced."""

DELETING = ".deleting-"
"""Start of the names of directories that are being deleted."""

_LONGEST = 80  # Characters of a value in a message.


def reason(error: OSError) -> str:
    """Returns what went wrong, without the path and the number of the error."""
    return error.strerror or str(error)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds values by name.

    Raises:
      OSError: It cannot be read.
      UserError: It is not such a file; the message names it.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it must be JSON, but {error}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: it must hold values by name.")
    return document


def check_entries(
    path: Path,
    document: Mapping[str, Any],
    accepts: Mapping[str, Callable[[Any], bool]],
) -> None:
    """Raises a `UserError` if an entry of a document is not what it must be.

    Args:
      path: File that the document was read from, for the message.
      document: The document.
      accepts: Name of an entry → whether a value of it is accepted.
    """
    for name, accepted in accepts.items():
        if name in document and not accepted(document[name]):
            shown = f"{document[name]!r}"
            shown = f"{shown[:_LONGEST]}..." if len(shown) > _LONGEST else shown
            raise UserError(
                f"{path} is damaged: `{name}` is no value that acktr_tf writes. "
                f"Received: {shown}"
            )


def is_number(value: Any) -> bool:
    """Returns whether a value of a JSON file is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -math.inf < value < math.inf


def is_count(value: Any) -> bool:
    """Returns whether a value of a JSON file is a whole number from 0."""
    return type(value) is int and value >= 0


def is_words(value: Any) -> bool:
    """Returns whether a value of a JSON file is a list of text."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def not_writable(directory: Path, error: OSError) -> UserError:
    """Returns the error for a directory that the user gave and that is refused."""
    return UserError(
        f"{directory} must be a directory that can be written. "
        f"Received: {reason(error)}"
    )


def is_temporary(name: str) -> bool:
    """Returns whether `name` is of something that an interrupted write left."""
    return name.startswith((SAVING, REPLACED, DELETING))


# Files ------------------------------------------------------------------------------
@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Replaces a file once the body has written all of it.

    Args:
      path: The file. It stays as it was if the body fails.

    Yields:
      Another path in the same directory, to write to.
    """
    # Of this process: a benchmark and `--report` may write the same file.
    saving = path.with_name(f"{SAVING}{os.getpid()}-{path.name}")
    try:
        yield saving
        _sync(saving)
        os.replace(saving, path)
    finally:
        with contextlib.suppress(OSError):
            saving.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file, which at every instant is whole, or as it was before."""
    with atomic_file(path) as saving:
        saving.write_bytes(data)


class AppendOnlyFile:
    """File that grows by whole writes, each in the hands of the system at once.

    Args:
      path: The file, made if it does not exist.
      length: Bytes to keep; the rest is cut off.

    Attributes:
      length: Bytes of the file.

    Raises:
      OSError: The file cannot be opened, cut or written. The error has its name.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._path = path
        self._descriptor = -1
        with self._named_errors():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(path, flags, 0o666)
            os.ftruncate(self._descriptor, length)

    def write(self, data: bytes) -> None:
        """Appends all of `data`, or nothing if it raises."""
        with self._named_errors():
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
            except OSError:
                # A full disk takes a part before it refuses the rest.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self.length)
                raise
        self.length += len(data)

    def sync(self) -> None:
        """Returns when the file is on the disk."""
        with self._named_errors():
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with self._named_errors():
                os.close(descriptor)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Calls on descriptors do not know the name.
            error.filename = str(self._path)
            raise


# Directories ------------------------------------------------------------------------
@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Replaces a directory once the body has filled another one.

    A directory cannot be replaced in one step. For an instant the old one has another
    name; a process that is killed then leaves it to `recover`.

    Args:
      path: The directory; its parent must exist. It stays as it was if the body fails.

    Yields:
      An empty directory beside it, to fill.
    """
    saving = path.with_name(f"{SAVING}{path.name}")
    recover(path)
    if saving.exists():
        shutil.rmtree(saving)
    saving.mkdir()
    try:
        yield saving
        _sync_all(saving)
        replaced = path.with_name(f"{REPLACED}{path.name}")
        try:
            if path.exists():
                os.rename(path, replaced)
            os.rename(saving, path)
        except OSError:
            recover(path)
            raise
        _sync(path.parent)
        recover(path)
    finally:
        shutil.rmtree(saving, ignore_errors=True)


def recover(path: Path) -> None:
    """Ends a replacement of the directory `path` that failed or was killed halfway.

    The old directory comes back if there is no new one, and is deleted if there is.
    """
    replaced = path.with_name(f"{REPLACED}{path.name}")
    if not replaced.exists():
        return
    if path.exists():
        remove_directory(replaced)
    else:
        os.rename(replaced, path)


def remove_directory(path: Path) -> None:
    """Deletes a directory, of which half never has its name."""
    deleting = path.with_name(f"{DELETING}{path.name.removeprefix(REPLACED)}")
    if deleting.exists():
        shutil.rmtree(deleting)
    os.rename(path, deleting)
    shutil.rmtree(deleting)


def _sync(path: Path) -> None:
    """Returns when a file or the entries of a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        _sync(path)


# Manifests --------------------------------------------------------------------------
class DamagedFileError(Exception):
    """A file is not as its manifest describes it. The message names it."""


def make_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    """Describes every file below a directory.

    Returns:
      Path below the directory → `bytes`, its length, and `sha256`.
    """
    return {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def check_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Checks every byte of the files that a manifest describes.

    Args:
      directory: The directory.
      manifest: What `make_manifest` returned for it.

    Raises:
      DamagedFileError: A file is missing, cut off or changed, or is not described.
    """
    for name, expected in manifest.items():
        path = directory / name
        if "\0" in name or ".." in path.parts or Path(name).is_absolute():
            raise DamagedFileError(f"{name!r} is no file below {directory}")
        if not isinstance(expected, Mapping) or not {"bytes", "sha256"} <= set(
            expected
        ):
            raise DamagedFileError(f"the length and the checksum of {path} are missing")
        if not path.is_file():
            raise DamagedFileError(f"{path} is missing")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedFileError(
                f"{path} must have {expected['bytes']} bytes and has {size}"
            )
        digest = _sha256(path)
        if digest != expected["sha256"]:
            raise DamagedFileError(
                f"{path} must have the SHA-256 {str(expected['sha256'])[:12]}... and "
                f"has {digest[:12]}...: its bytes were changed"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
