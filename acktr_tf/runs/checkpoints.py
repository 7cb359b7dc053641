"""Atomic save and restore of everything that determines the future of a run.

A checkpoint is a directory named after its step; it is written under another name and
renamed when it is on the disk, so that it is whole or absent at every instant.

Kronecker factors and their inverses are symmetric matrices. Of an array that equals its
transpose bit for bit, format 3 holds the lower triangle; format 2 holds all of it.
"""

import contextlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import acktr_tf
from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import files
from acktr_tf.runs.files import REPLACED, DamagedFileError, reason
from acktr_tf.runs.symmetric import is_symmetric, lower_triangle, symmetric_matrix
from acktr_tf.states import State
from acktr_tf.types import Array

FORMAT = 3
READABLE_FORMATS = (2, FORMAT)

_ARRAYS = "arrays.npz"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"\d{12,}")
_KINDS = "biufcSU"

DAMAGED = "damaged-"
"""Start of the names of damaged checkpoints that were set aside."""


class DamagedCheckpointError(UserError):
    """A checkpoint that a run cannot continue from.

    Args:
      path: The checkpoint.
      fault: What is wrong with it.
    """

    def __init__(self, path: Path, fault: str) -> None:
        self.path, self.fault = path, fault
        earlier: list[Path] = []
        with contextlib.suppress(OSError):
            earlier = [p for p in _complete(path.parent) if _step(p) < _step(path)]
        if earlier:
            remedy = f"Delete {path} to continue from the one before, {earlier[-1]}."
        else:
            remedy = "No earlier one is left: start a new run in another `--run_dir`."
        super().__init__(f"The checkpoint {path} is damaged: {fault}. {remedy}")


class Checkpoint(NamedTuple):
    """Everything that determines the future of a run.

    Attributes:
      step: Agent steps of the run when it was taken.
      arrays: States of all parts of the run, see `acktr_tf.states`: arrays of numbers,
        truth values or text, by name.
    """

    step: int
    arrays: dict[str, Array]


def save(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint, then deletes the oldest ones.

    Args:
      directory: Where the checkpoints of the run are. Made if it does not exist.
      checkpoint: What to save. A checkpoint of the same step is replaced.
      keep: Checkpoints to keep, this one included; at least 1.

    Returns:
      The directory of the checkpoint.

    Raises:
      RunError: It cannot be written (a full disk, no permission). The earlier
        checkpoints are whole then.
      ValueError: `keep` or the step is out of range.
      TypeError: An array holds Python objects or another dtype that `.npz` files do not
        hold.
    """
    if keep < 1 or checkpoint.step < 0:
        raise ValueError(
            "`keep` must be >= 1 and the step >= 0. "
            f"Received: keep={keep}, step={checkpoint.step}"
        )
    for name, array in checkpoint.arrays.items():
        if array.dtype.kind not in _KINDS:
            raise TypeError(
                "Arrays must be of numbers, truth values or text. "
                f"Received: {name} of dtype {array.dtype}"
            )
    target = directory / f"{checkpoint.step:012d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(directory)
        with files.atomic_directory(target) as saving:
            _write(saving, checkpoint)
        others = [path for path in _complete(directory) if path != target]
        for old in others[: -keep + 1 or None]:
            files.remove_directory(old)
    except OSError as error:
        raise RunError(
            f"Cannot save the checkpoint {target}: {reason(error)}. Earlier "
            "checkpoints are whole: the same command continues from the last one."
        ) from error
    return target


def latest(directory: Path) -> Path | None:
    """Returns the newest whole checkpoint in `directory`, or None if there is none.

    Raises:
      UserError: `directory` cannot be read.
    """
    checkpoints = complete(directory)
    return checkpoints[-1] if checkpoints else None


def complete(directory: Path) -> list[Path]:
    """Lists the checkpoints in `directory` that were written to their end, in order.

    Raises:
      UserError: `directory` cannot be read.
    """
    try:
        return _complete(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{directory} must be a directory of checkpoints that can be read. "
            f"Received: {reason(error)}"
        ) from error


def set_aside(path: Path) -> str:
    """Gives a damaged checkpoint a name under which it is no checkpoint any more.

    Returns:
      Its name; the old one if it cannot be renamed.
    """
    name = f"{DAMAGED}{path.name.removeprefix(REPLACED)}"
    target, number = path.with_name(name), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{name}-{number}")
    try:
        os.rename(path, target)
    except OSError:
        return path.name
    return target.name


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks every byte of it.

    Args:
      path: A directory that `latest` or `save` returned.

    Raises:
      DamagedCheckpointError: A file is missing, cut off, changed, or not of the form
        that `save` writes. The message names it and says how to go on.
      UserError: It is of another format.
    """
    try:
        manifest = _read_manifest(path)
        files.check_manifest(path, manifest["files"])
        arrays = _read_arrays(path, frozenset(manifest.get("symmetric", ())))
    except DamagedFileError as error:
        raise DamagedCheckpointError(path, str(error)) from error
    except FileNotFoundError as error:
        fault = f"{error.filename} is missing"
        raise DamagedCheckpointError(path, fault) from error
    except OSError as error:
        fault = f"{error.filename or path} cannot be read: {reason(error)}"
        raise DamagedCheckpointError(path, fault) from error
    return Checkpoint(manifest["step"], arrays)


def _read_arrays(path: Path, symmetric: frozenset[str]) -> dict[str, Array]:
    """Reads all arrays; of those in `symmetric` the lower triangles are stored."""
    try:
        with np.load(path / _ARRAYS, allow_pickle=False) as archive:
            arrays = {
                name: symmetric_matrix(archive[name])
                if name in symmetric
                else archive[name]
                for name in archive.files
            }
    except OSError:
        raise
    # Only a file that was already wrong when its manifest was made gets here, of which
    # anything may be wrong.
    except Exception as error:
        fault = " ".join(str(error).split()) or type(error).__name__
        raise DamagedFileError(f"its contents cannot be read: {fault}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS:
            raise DamagedFileError(
                f"its entry {name} is not an array of numbers or text"
            )
    return arrays


def _write(directory: Path, checkpoint: Checkpoint) -> None:
    arrays = checkpoint.arrays
    symmetric = [name for name, array in arrays.items() if is_symmetric(array)]
    _write_arrays(directory / _ARRAYS, arrays, frozenset(symmetric))
    manifest = {
        "format": FORMAT,
        "version": acktr_tf.__version__,
        "step": checkpoint.step,
        "symmetric": symmetric,
        "files": files.make_manifest(directory),
    }
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _write_arrays(path: Path, arrays: State, symmetric: frozenset[str]) -> None:
    # Not by `np.savez`: it pickles what it cannot store and takes some names itself.
    with zipfile.ZipFile(path, "x") as archive:
        for name, array in arrays.items():
            # Without a date, so that equal checkpoints are equal files.
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                stored = lower_triangle(array) if name in symmetric else array
                np.lib.format.write_array(member, stored, allow_pickle=False)


def _complete(directory: Path) -> list[Path]:
    """Lists the whole checkpoints of `directory`, oldest first."""
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        # The names sort so that a checkpoint hides the one that it replaces.
        name = path.name.removeprefix(REPLACED)
        if _NAME.fullmatch(name) and path.is_dir():
            found[int(name)] = path
    return [found[step] for step in sorted(found)]


def _remove_leftovers(directory: Path) -> None:
    """Removes what saves left that were killed, and brings back what they replaced."""
    for path in list(directory.iterdir()):
        if path.name.startswith(REPLACED):
            files.recover(path.with_name(path.name.removeprefix(REPLACED)))
        elif files.is_temporary(path.name):
            shutil.rmtree(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{file} must be JSON, but {error}") from error
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise DamagedFileError(f"{file} must be a checkpoint's manifest and is not")
    if manifest["format"] not in READABLE_FORMATS:
        raise UserError(
            f"{file} is of format {manifest['format']!r}, written by acktr_tf "
            f"{manifest.get('version', 'of unknown version')}; this version, "
            f"{acktr_tf.__version__}, reads formats "
            f"{' and '.join(map(str, READABLE_FORMATS))}. Continue the run with the "
            "version that wrote it, or start a new run in another `--run_dir`."
        )
    step, described = manifest.get("step"), manifest.get("files")
    if (
        type(step) is not int
        or not isinstance(described, dict)
        or _ARRAYS not in described
    ):
        raise DamagedFileError(f"{file} lacks the step or the description of {_ARRAYS}")
    symmetric = manifest.get("symmetric", None if manifest["format"] == FORMAT else [])
    if not isinstance(symmetric, list) or not all(
        isinstance(name, str) for name in symmetric
    ):
        raise DamagedFileError(f"{file} lacks the names of the symmetric arrays")
    name = path.name.removeprefix(REPLACED)
    if step < 0 or (_NAME.fullmatch(name) and int(name) != step):
        raise DamagedFileError(f"{file} is of step {step}, and its directory of {name}")
    return manifest


def _step(path: Path) -> int:
    digits = re.search(r"\d+$", path.name)
    return int(digits.group()) if digits else 0
