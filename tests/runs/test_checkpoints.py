"""Checkpoints: whole or absent at every instant, and refused when they are damaged."""

import errno
import hashlib
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from acktr_tf.errors import RunError, UserError
from acktr_tf.runs.checkpoints import (
    Checkpoint,
    complete,
    latest,
    load,
    save,
    set_aside,
)


def make(step: int) -> Checkpoint:
    return Checkpoint(
        step,
        {"w": np.full((3, 4), step, np.float32), "actions": np.arange(step % 50)},
    )


def numbered(step: int, number: int) -> Checkpoint:
    """A checkpoint that is unlike others of the same step."""
    return Checkpoint(step, {"number": np.array(number)})


def number_of(path: Path) -> int:
    return int(load(path).arrays["number"])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


ARRAYS = {
    "uint8": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "bool": np.array([True, False]),
    "int64": np.array([-(2**62), 2**62]),
    "uint32": np.array([2**32 - 1], np.uint32),
    "float32": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
    "float64": np.array([[np.pi]]),
    "float16": np.array([0.1], np.float16),
    "text": np.array(["ALE/Pong-v5", "ü"]),
    "zero-d": np.array(7, np.int64),
    "empty": np.zeros((0, 5), np.float32),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "policy/0001/dense/kernel": np.ones(2),
    "file": np.ones(1),
}


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", Checkpoint(640, ARRAYS), keep=2)

    loaded = load(path)

    assert path.name == "000000000640"
    assert loaded.step == 640
    assert list(loaded.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert loaded.arrays[name].tobytes() == array.tobytes()


def test_half_of_a_symmetric_matrix_is_stored(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    arrays = {"other": x, "factor": x + x.T, "odd": np.triu(x)}
    path = save(tmp_path, Checkpoint(1, arrays), keep=1)

    loaded = load(path).arrays

    for name, array in arrays.items():
        assert loaded[name].tobytes() == array.tobytes()
    with np.load(path / "arrays.npz") as stored:
        assert {name: stored[name].shape for name in stored.files} == {
            "other": (200, 200),
            "factor": (200 * 201 // 2,),
            "odd": (200, 200),
        }


def test_whole_matrices_of_format_2_are_read(tmp_path: Path) -> None:
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    path = save(tmp_path, Checkpoint(7, {"factor": matrix}), keep=1)
    # What it wrote: no names of symmetric arrays, and each array whole.
    np.savez(path / "arrays.npz", factor=matrix + matrix.T)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["symmetric"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    describe_arrays(path / "manifest.json")
    np.testing.assert_array_equal(load(path).arrays["factor"], matrix + matrix.T)


def test_a_triangle_of_no_matrix_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path, Checkpoint(7, {"x": np.ones(2)}), keep=1)
    edit_manifest(symmetric=["x"])(path / "manifest.json")
    with pytest.raises(UserError) as error:
        load(path)
    assert "contents cannot be read: A lower triangle must be" in one_line(error)


def test_a_checkpoint_without_arrays(tmp_path: Path) -> None:
    assert load(save(tmp_path, Checkpoint(0, {}), keep=1)) == (0, {})


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    one, two = (save(tmp_path / d, make(5), keep=1) for d in ("one", "two"))
    assert names(one) == ["arrays.npz", "manifest.json"]
    for name in names(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (0, 100, 20, 3000):
        save(tmp_path, make(step), keep=2)
    assert names(tmp_path) == ["000000000100", "000000003000"]
    assert latest(tmp_path) == tmp_path / "000000003000"
    save(tmp_path, make(4000), keep=1)
    assert names(tmp_path) == ["000000004000"]


def test_steps_of_more_digits_are_later(tmp_path: Path) -> None:
    for step in (10**12 - 640, 10**12, 10**13):
        save(tmp_path, numbered(step, step), keep=2)
    assert names(tmp_path) == ["1000000000000", "10000000000000"]
    assert load(latest(tmp_path) or tmp_path).step == 10**13


def test_the_one_just_saved_is_never_deleted(tmp_path: Path) -> None:
    save(tmp_path, make(100), keep=1)
    save(tmp_path, make(20), keep=1)
    assert names(tmp_path) == ["000000000020"]


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    (tmp_path / ".saving-000000000001").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "000000000007").touch()
    assert latest(tmp_path) is None


def test_latest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError) as error:
        latest(tmp_path / "checkpoints")
    assert "must be a directory" in one_line(error)


def test_leftovers_are_removed_at_the_next_save(tmp_path: Path) -> None:
    for name in (".saving-000000000001", ".deleting-000000000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arrays.npz").touch()
    save(tmp_path, make(3), keep=1)
    assert names(tmp_path) == ["000000000003"]


def test_the_same_step_twice(tmp_path: Path) -> None:
    save(tmp_path, numbered(20, 1), keep=2)
    path = save(tmp_path, numbered(20, 2), keep=2)
    assert number_of(path) == 2
    assert names(tmp_path) == ["000000000020"]


def test_one_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, numbered(20, 1), keep=1)
    rename = os.rename

    def refuse_the_new_one(source: Path, target: Path) -> None:
        if source.name.startswith(".saving-"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse_the_new_one)
        with pytest.raises(RunError):
            save(tmp_path, numbered(20, 2), keep=1)

    assert names(tmp_path) == ["000000000020"]
    assert number_of(tmp_path / "000000000020") == 1
    assert number_of(save(tmp_path, numbered(20, 3), keep=1)) == 3
    assert names(tmp_path) == ["000000000020"]


@pytest.mark.parametrize("step", [20, 30])
def test_the_one_being_replaced_is_found_at_every_instant(
    tmp_path: Path, step: int
) -> None:
    path = save(tmp_path, numbered(20, 1), keep=1)
    # Killed between the two renames.
    path.rename(tmp_path / ".replaced-000000000020")
    (tmp_path / ".saving-000000000020").mkdir()

    between = latest(tmp_path)
    assert between is not None
    assert number_of(between) == 1
    save(tmp_path, numbered(step, 2), keep=2)
    kept = [number_of(tmp_path / name) for name in names(tmp_path)]
    assert kept == ([2] if step == 20 else [1, 2])


def test_a_replacement_that_was_not_cleaned_up_does_not_come_back(
    tmp_path: Path,
) -> None:
    path = save(tmp_path, numbered(20, 1), keep=1)
    path.rename(tmp_path / ".replaced-000000000020")
    (tmp_path / "aside").mkdir()
    save(tmp_path / "aside", numbered(20, 2), keep=1).rename(path)
    newest = latest(tmp_path)
    assert newest is not None
    assert number_of(newest) == 2
    save(tmp_path, numbered(30, 3), keep=2)
    assert number_of(path) == 2
    assert names(tmp_path) == ["000000000020", "000000000030", "aside"]


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.zeros(2, [("a", "f4")]), np.array(["2020"], "M8")],
)
def test_arrays_that_npz_does_not_hold_are_refused(
    tmp_path: Path, array: np.ndarray
) -> None:
    with pytest.raises(TypeError, match="odd of dtype"):
        save(tmp_path, Checkpoint(1, {"odd": array}), keep=1)
    assert latest(tmp_path) is None


@pytest.mark.parametrize(("step", "keep"), [(1, 0), (-1, 1)])
def test_arguments_out_of_range(tmp_path: Path, step: int, keep: int) -> None:
    with pytest.raises(ValueError, match="Received"):
        save(tmp_path, Checkpoint(step, {}), keep=keep)


# Damage --------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def write_text(text: str):
    return lambda path: path.write_text(text)


def edit_manifest(**changes: object):
    def edit(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def describe_arrays(path: Path) -> None:
    """Makes the manifest describe `arrays.npz` as it is now."""
    data = path.with_name("arrays.npz").read_bytes()
    described = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(files={"arrays.npz": described})(path)


def unreadable_arrays(path: Path) -> None:
    """Wrong arrays whose checksum is right."""
    path.with_name("arrays.npz").write_bytes(b"{")
    describe_arrays(path)


def describe_another(name: str):
    def edit(path: Path) -> None:
        files = json.loads(path.read_text())["files"]
        edit_manifest(files={**files, name: files["arrays.npz"]})(path)

    return edit


def replace_arrays(**arrays: np.ndarray):
    def replace(path: Path) -> None:
        np.savez(path.with_name("arrays.npz"), **arrays)
        describe_arrays(path)

    return replace


def single_array(path: Path) -> None:
    with path.with_name("arrays.npz").open("wb") as file:
        np.save(file, np.ones(3))
    describe_arrays(path)


def text_in_zip(path: Path) -> None:
    with zipfile.ZipFile(path.with_name("arrays.npz"), "w") as archive:
        archive.writestr("a.txt", "hello")
    describe_arrays(path)


def huge_header(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**58,)}
    )
    with zipfile.ZipFile(path.with_name("arrays.npz"), "w") as archive:
        archive.writestr("w.npy", header.getvalue())
    describe_arrays(path)


DAMAGE = {
    "arrays missing": ("arrays.npz", Path.unlink, "arrays.npz is missing"),
    "arrays truncated": ("arrays.npz", truncate, "arrays.npz must have"),
    "arrays changed": ("arrays.npz", flip_a_bit, "its bytes were changed"),
    "arrays no zip": ("manifest.json", unreadable_arrays, "contents cannot be read"),
    "manifest missing": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "manifest truncated": ("manifest.json", truncate, "manifest.json must be JSON"),
    "manifest empty": ("manifest.json", write_text(""), "must be JSON"),
    "manifest a list": ("manifest.json", write_text("[]"), "must be a checkpoint's"),
    "manifest nested": (
        "manifest.json",
        write_text("[" * 100_000),
        "manifest.json must be JSON",
    ),
    "manifest not UTF-8": (
        "manifest.json",
        lambda path: path.write_bytes(b'{"format": "\xff"}'),
        "manifest.json must be JSON",
    ),
    "format text": ("manifest.json", edit_manifest(format="2"), "must be a check"),
    "format nested": ("manifest.json", edit_manifest(format=[[2]]), "must be a check"),
    "step text": ("manifest.json", edit_manifest(step="20"), "lacks the step"),
    "step true": ("manifest.json", edit_manifest(step=True), "lacks the step"),
    "step float": ("manifest.json", edit_manifest(step=math.nan), "lacks the step"),
    "step negative": ("manifest.json", edit_manifest(step=-20), "is of step -20"),
    "step huge": ("manifest.json", edit_manifest(step=10**30), "is of step 10000"),
    "files a list": ("manifest.json", edit_manifest(files=["arrays.npz"]), "lacks the"),
    "file elsewhere": ("manifest.json", describe_another("../x"), "'../x' is no file"),
    "file at the root": ("manifest.json", describe_another("/x"), "'/x' is no file"),
    "file with zero": ("manifest.json", describe_another("a\0"), "'a\\x00' is no file"),
    "file a number": (
        "manifest.json",
        edit_manifest(files={"arrays.npz": 7}),
        "arrays.npz are missing",
    ),
    "arrays of dates": (
        "manifest.json",
        replace_arrays(day=np.array(["2020"], "M8[D]")),
        "entry day is not an array",
    ),
    "arrays one array": ("manifest.json", single_array, "contents cannot be read"),
    "arrays no arrays": ("manifest.json", text_in_zip, "entry a.txt is not an array"),
    "arrays too large": ("manifest.json", huge_header, "contents cannot be read"),
    "manifest no step": ("manifest.json", edit_manifest(step=None), "lacks the step"),
    "manifest no symmetric": (
        "manifest.json",
        edit_manifest(symmetric=None),
        "lacks the names of the symmetric",
    ),
    "manifest no files": ("manifest.json", edit_manifest(files={}), "lacks the step"),
    "manifest no length": (
        "manifest.json",
        edit_manifest(files={"arrays.npz": {"sha256": ""}}),
        "arrays.npz are missing",
    ),
    "all missing": (".", shutil.rmtree, "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_the_remedy(tmp_path: Path, damage: str) -> None:
    name, harm, expected = DAMAGE[damage]
    earlier = save(tmp_path, make(10), keep=2)
    path = save(tmp_path, make(20), keep=2)
    harm(path / name)  # type: ignore[operator]

    with pytest.raises(UserError) as error:
        load(path)

    message = one_line(error)
    assert expected in message
    assert f"Delete {path} to continue from the one before, {earlier}." in message
    assert load(earlier).step == 10


def test_damage_of_the_only_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, make(20), keep=2)
    flip_a_bit(path / "arrays.npz")
    with pytest.raises(UserError) as error:
        load(path)
    assert "No earlier one is left" in one_line(error)


@pytest.mark.parametrize("number", [1, 99])
def test_another_format(tmp_path: Path, number: int) -> None:
    path = save(tmp_path, make(20), keep=2)
    edit_manifest(format=number, version="9.1")(path / "manifest.json")
    with pytest.raises(UserError) as error:
        load(path)
    message = one_line(error)
    assert f"is of format {number}, written by acktr_tf 9.1" in message
    assert "reads formats 2 and 3" in message


def test_pickles_are_never_read(tmp_path: Path) -> None:
    path = save(tmp_path, make(20), keep=2)
    np.savez(path / "arrays.npz", evil=np.array([{}]))
    describe_arrays(path / "manifest.json")
    with pytest.raises(UserError, match="allow_pickle=False"):
        load(path)


# Faults while saving -------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 10, 200, 500, 700])
def test_a_limit_of_the_system(tmp_path: Path, room: int) -> None:
    """The kernel itself refuses the bytes of a file after the first ones."""
    first = save(tmp_path, make(10), keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(RunError) as error:
            save(tmp_path, make(20), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = one_line(error)
    assert str(tmp_path / "000000000020") in message
    assert "File too large" in message
    assert "Earlier checkpoints are whole" in message
    assert names(tmp_path) == [first.name]
    assert load(first).step == 10


@pytest.mark.parametrize("synced", [0, 1, 2])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_when_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, synced: int
) -> None:
    save(tmp_path, make(10), keep=1)
    left, sync = synced, os.fsync

    def fail(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            raise OSError(number, os.strerror(number))
        left -= 1
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=os.strerror(number)):
        save(tmp_path, make(20), keep=1)
    assert names(tmp_path) == ["000000000010"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Not a directory"):
        save(tmp_path / "file" / "checkpoints", make(1), keep=1)


def test_killed_while_saving(tmp_path: Path) -> None:
    program = """
import itertools, sys
from pathlib import Path
import numpy as np
from acktr_tf.runs.checkpoints import Checkpoint, latest, load, save
directory = Path(sys.argv[1])
last = latest(directory)
saves = int(load(last).arrays["0"][0]) if last else 0
for step in itertools.count(saves + 1):
    arrays = {str(i): np.full(20_000, step) for i in range(8)}
    save(directory, Checkpoint(step // 2, arrays), 2)
    print(step, flush=True)
"""
    rng = random.Random(0)
    newest = -1
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # The first save is done.
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        path = latest(tmp_path)
        assert path is not None
        checkpoint = load(path)
        (saves,) = np.unique(list(checkpoint.arrays.values()))
        assert checkpoint.step == saves // 2 >= newest
        newest = checkpoint.step
        assert len([n for n in names(tmp_path) if not n.startswith(".")]) <= 3
    assert newest >= 5


# Aside ---------------------------------------------------------------------------


def test_one_that_is_set_aside_is_no_checkpoint_any_more(tmp_path: Path) -> None:
    for number in (1, 2):
        path = save(tmp_path, numbered(20, number), keep=9)
        save(tmp_path, numbered(10, 0), keep=9)
        suffix = "" if number == 1 else "-2"
        assert set_aside(path) == f"damaged-000000000020{suffix}"
    assert [path.name for path in complete(tmp_path)] == ["000000000010"]
    # It is neither overwritten nor deleted.
    save(tmp_path, numbered(20, 3), keep=1)
    assert names(tmp_path) == [
        "000000000020",
        "damaged-000000000020",
        "damaged-000000000020-2",
    ]
    assert number_of(tmp_path / "damaged-000000000020-2") == 2
