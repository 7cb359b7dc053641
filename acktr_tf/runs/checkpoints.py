"""Atomic save and restore of everything that determines the future of a run.

A checkpoint is a directory named after its step; it is written under another name and
renamed when it is on the disk, so that it is whole or absent at every instant.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

import acktr_tf
from acktr_tf.errors import RunError, UserError

if TYPE_CHECKING:
    import keras

FORMAT = 1

_ARRAYS = "arrays.npz"
_STATE = "state.json"
_MANIFEST = "manifest.json"

_NAME = re.compile(r"\d{12,}")
_SAVING = ".saving-"
_REPLACED = ".replaced-"
_DELETING = ".deleting-"


class Checkpoint(NamedTuple):
    """Everything that determines the future of a run.

    Attributes:
      step: Agent steps of the run when it was taken.
      arrays: Arrays of numbers, truth values or text, by name.
      state: The rest, as JSON: dictionaries with text keys, lists, text, numbers, truth
        values and None. `nan` and the infinities are kept.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


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
        hold, or the state is not JSON.
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
    state = json.dumps(checkpoint.state).encode()

    target = directory / f"{checkpoint.step:012d}"
    saving = directory / f"{_SAVING}{target.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in _hidden(directory, _SAVING, _DELETING):
            shutil.rmtree(leftover)
        try:
            _write(saving, checkpoint, state)
            _put_in_place(saving, target)
        finally:
            shutil.rmtree(saving, ignore_errors=True)
        for replaced in _hidden(directory, _REPLACED):
            _delete(replaced)
        others = [path for path in _complete(directory) if path != target]
        for old in others[: -keep + 1 or None]:
            _delete(old)
    except OSError as error:
        raise RunError(
            f"Cannot save the checkpoint {target}: {error.strerror or error}. Earlier "
            "checkpoints are whole: the same command continues from the last one."
        ) from error
    return target


def latest(directory: Path) -> Path | None:
    """The newest whole checkpoint in `directory`, or None if there is none.

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
            f"Received: {error.strerror or error}"
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
        arrays_file = _checked(path, _ARRAYS, manifest)
        state_file = _checked(path, _STATE, manifest)
        with np.load(arrays_file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(state_file.read_bytes())
    except FileNotFoundError as error:
        raise _damaged(path, f"{error.filename} is missing") from error
    except OSError as error:
        raise _damaged(
            path, f"{error.filename or path} cannot be read: {error.strerror or error}"
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        # Only a file that was already wrong when its manifest was made gets here.
        fault = " ".join(str(error).split())
        raise _damaged(path, f"its contents cannot be read: {fault}") from error
    return Checkpoint(manifest["step"], arrays, state)


def variables_to_arrays(
    prefix: str, variables: Sequence["keras.Variable"]
) -> dict[str, np.ndarray]:
    """Copies the values of variables, to go into `Checkpoint.arrays`.

    Args:
      prefix: Start of the arrays' names, unlike that of any other variables' arrays.
      variables: Variables, in the same order whenever the run is continued.

    Returns:
      A copy of each value by `prefix/index/path of the variable`.
    """
    return {
        key: np.array(variable.numpy())
        for key, variable in zip(_keys(prefix, variables), variables, strict=True)
    }


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix/`, without it."""
    prefix += "/"
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def assign_variables(
    prefix: str,
    variables: Sequence["keras.Variable"],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Gives variables the values that `variables_to_arrays` took.

    Args:
      prefix: As it was given to `variables_to_arrays`.
      variables: The same variables, in the same order, already built.
      arrays: Arrays of a checkpoint; those with another prefix are ignored.

    Raises:
      UserError: An array is missing, superfluous, or of another shape or dtype than its
        variable. No variable has been changed then.
    """
    keys = _keys(prefix, variables)
    ours = re.compile(re.escape(prefix) + r"/\d{4,}/")
    superfluous = [key for key in arrays if ours.match(key) and key not in set(keys)]
    problems = [f"lacks {key}" for key in keys if key not in arrays]
    problems += [f"has {key}, which the run does not" for key in superfluous]
    for key, variable in zip(keys, variables, strict=True):
        if key not in arrays:
            continue
        saved = f"{arrays[key].dtype.name}{list(arrays[key].shape)}"
        expected = f"{variable.dtype}{list(variable.shape)}"
        if saved != expected:
            problems.append(f"has {key} as {saved} where the run has {expected}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"The checkpoint does not fit the run: it {problems[0]}{more}. It was "
            "written with other settings or by another version; start a new run in "
            "another `--run_dir`."
        )
    for key, variable in zip(keys, variables, strict=True):
        variable.assign(arrays[key])


def _keys(prefix: str, variables: Sequence["keras.Variable"]) -> list[str]:
    # Keras numbers the names of layers by how many the process has made before, so the
    # number is left out; the index tells variables of the same name apart.
    return [
        f"{prefix}/{index:04d}/{re.sub(r'_[0-9]+(?=[_/]|$)', '', variable.path)}"
        for index, variable in enumerate(variables)
    ]


class _HashingFile:
    """Takes the length and the checksum of what is written to a file.

    It cannot seek, so that the checksum is of the bytes in the order of the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.length = 0
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._file.write(data)
        self.length += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _write(directory: Path, checkpoint: Checkpoint, state: bytes) -> None:
    """Writes the files of a checkpoint; on return they are on the disk."""
    directory.mkdir()
    files: dict[str, dict[str, Any]] = {}
    with _new_file(directory, _ARRAYS, files) as file:
        _write_arrays(file, checkpoint.arrays)
    with _new_file(directory, _STATE, files) as file:
        file.write(state)
    manifest = {
        "format": FORMAT,
        "version": acktr_tf.__version__,
        "step": checkpoint.step,
        "files": dict(files),
    }
    with _new_file(directory, _MANIFEST, files) as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
    _sync_directory(directory)


@contextlib.contextmanager
def _new_file(
    directory: Path, name: str, files: dict[str, dict[str, Any]]
) -> Iterator[_HashingFile]:
    """A file to write; afterwards it is on the disk and described in `files`."""
    with (directory / name).open("xb") as file:
        hashing = _HashingFile(file)
        yield hashing
        file.flush()
        os.fsync(file.fileno())
    files[name] = {"bytes": hashing.length, "sha256": hashing.hexdigest()}


def _write_arrays(file: _HashingFile, arrays: Mapping[str, np.ndarray]) -> None:
    # Not by `np.savez`: it pickles what it cannot store and takes some names itself.
    with zipfile.ZipFile(file, "w") as archive:  # type: ignore[call-overload]
        for name, array in arrays.items():
            # Without a date, so that equal checkpoints are equal files.
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _put_in_place(saving: Path, target: Path) -> None:
    if target.exists():
        # A directory cannot be replaced in one step. Between the two, `latest` finds
        # the old one by its other name.
        replaced = target.with_name(f"{_REPLACED}{target.name}")
        if replaced.exists():
            _delete(replaced)
        os.rename(target, replaced)
    os.rename(saving, target)
    _sync_directory(target.parent)


def _complete(directory: Path) -> list[Path]:
    """The whole checkpoints of `directory`, oldest first."""
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        # The names sort so that a checkpoint hides the one that it replaced.
        name = path.name.removeprefix(_REPLACED)
        if _NAME.fullmatch(name) and path.is_dir():
            found[int(name)] = path
    return [found[step] for step in sorted(found)]


def _delete(path: Path) -> None:
    # Renamed first: half a checkpoint must not look like a whole one.
    doomed = path.with_name(f"{_DELETING}{path.name.lstrip('.')}")
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _hidden(directory: Path, *prefixes: str) -> list[Path]:
    return [path for path in directory.iterdir() if path.name.startswith(prefixes)]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except ValueError as error:
        raise _damaged(path, f"{file} must be JSON, but {error}") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise _damaged(path, f"{file} must be a checkpoint's manifest and is not")
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{file} is of format {manifest['format']!r}, written by acktr_tf "
            f"{manifest.get('version', 'of unknown version')}; this version, "
            f"{acktr_tf.__version__}, reads format {FORMAT}. Continue the run with the "
            "version that wrote it, or start a new run in another `--run_dir`."
        )
    files = manifest.get("files")
    if (
        not isinstance(manifest.get("step"), int)
        or not isinstance(files, dict)
        or not all(
            isinstance(files.get(name), dict)
            and {"bytes", "sha256"} <= set(files[name])
            for name in (_ARRAYS, _STATE)
        )
    ):
        raise _damaged(path, f"{file} lacks the step or the description of a file")
    return manifest


def _checked(path: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """The file `name` of a checkpoint, once it is known to be as it was written."""
    file = path / name
    expected = manifest["files"][name]
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != expected["bytes"]:
            raise _damaged(
                path, f"{file} must have {expected['bytes']} bytes and has {size}"
            )
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected["sha256"]:
        raise _damaged(
            path,
            f"{file} must have the SHA-256 {expected['sha256'][:12]}... and has "
            f"{digest[:12]}...: its bytes were changed",
        )
    return file


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
