"""Atomic save and restore of everything that determines the future of a run.

A checkpoint is a directory named after its step; it is written under another name and
renamed when it is on the disk, so that it is whole or absent at every instant.

Kronecker factors and their inverses are symmetric matrices. Of an array that equals its
transpose bit for bit, format 3 holds the lower triangle; format 2 holds all of it.
"""

import contextlib
import json
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
        if array.dtype.kind not in "biufcSU":
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
    try:
        checkpoints = _complete(directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{directory} must be a directory of checkpoints that can be read. "
            f"Received: {reason(error)}"
        ) from error
    return checkpoints[-1] if checkpoints else None


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks every byte of it.

    Args:
      path: A directory that `latest` or `save` returned.

    Raises:
      UserError: A file is missing, cut off, changed or of another format. The message
        names it and says how to go on.
    """
    try:
        manifest = _read_manifest(path)
        files.check_manifest(path, manifest["files"])
        with np.load(path / _ARRAYS, allow_pickle=False) as archive:
            symmetric = set(manifest.get("symmetric", ()))
            arrays = {
                name: symmetric_matrix(archive[name])
                if name in symmetric
                else archive[name]
                for name in archive.files
            }
    except DamagedFileError as error:
        raise _damaged(path, str(error)) from error
    except FileNotFoundError as error:
        raise _damaged(path, f"{error.filename} is missing") from error
    except OSError as error:
        fault = f"{error.filename or path} cannot be read: {reason(error)}"
        raise _damaged(path, fault) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        # Only a file that was already wrong when its manifest was made gets here.
        fault = " ".join(str(error).split())
        raise _damaged(path, f"its contents cannot be read: {fault}") from error
    return Checkpoint(manifest["step"], arrays)


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
    except ValueError as error:
        raise _damaged(path, f"{file} must be JSON, but {error}") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise _damaged(path, f"{file} must be a checkpoint's manifest and is not")
    if manifest["format"] not in READABLE_FORMATS:
        raise UserError(
            f"{file} is of format {manifest['format']!r}, written by acktr_tf "
            f"{manifest.get('version', 'of unknown version')}; this version, "
            f"{acktr_tf.__version__}, reads formats "
            f"{' and '.join(map(str, READABLE_FORMATS))}. Continue the run with the "
            "version that wrote it, or start a new run in another `--run_dir`."
        )
    described = manifest.get("files")
    if (
        not isinstance(manifest.get("step"), int)
        or not isinstance(described, dict)
        or _ARRAYS not in described
    ):
        raise _damaged(path, f"{file} lacks the step or the description of {_ARRAYS}")
    if manifest["format"] == FORMAT and not isinstance(manifest.get("symmetric"), list):
        raise _damaged(path, f"{file} lacks the names of the symmetric arrays")
    return manifest


def _damaged(path: Path, fault: str) -> UserError:
    earlier: list[Path] = []
    with contextlib.suppress(OSError):
        earlier = [p for p in _complete(path.parent) if _step(p) < _step(path)]
    if earlier:
        remedy = f"Delete {path} to continue from the one before, {earlier[-1]}."
    else:
        remedy = "No earlier one is left: start a new run in another `--run_dir`."
    return UserError(f"The checkpoint {path} is damaged: {fault}. {remedy}")


def _step(path: Path) -> int:
    digits = re.search(r"\d+$", path.name)
    return int(digits.group()) if digits else 0
