"""Checkpoints: whole or absent at every instant, and refused when they are damaged."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from acktr_tf.errors import RunError, UserError
from acktr_tf.runs import checkpoints
from acktr_tf.runs.checkpoints import (
    Checkpoint,
    assign_variables,
    latest,
    load,
    save,
    variables_to_arrays,
)


def make(step: int) -> Checkpoint:
    return Checkpoint(
        step,
        {"w": np.full((3, 4), step, np.float32), "actions": np.arange(step % 50)},
        {"step": step, "note": "ü", "mean": 0.1},
    )


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
    state = {"nan": float("nan"), "list": [1, None, "x"], "big": 2**80, "f": 0.1}
    path = save(tmp_path / "checkpoints", Checkpoint(640, ARRAYS, state), keep=2)

    loaded = load(path)

    assert path.name == "000000000640"
    assert loaded.step == 640
    assert str(loaded.state) == str(state)  # nan is not equal to itself
    assert list(loaded.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert loaded.arrays[name].tobytes() == array.tobytes()


def test_a_checkpoint_without_arrays(tmp_path: Path) -> None:
    assert load(save(tmp_path, Checkpoint(0, {}, {}), keep=1)) == (0, {}, {})


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    one, two = (save(tmp_path / d, make(5), keep=1) for d in ("one", "two"))
    assert names(one) == ["arrays.npz", "manifest.json", "state.json"]
    for name in names(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (0, 100, 20, 3000):
        save(tmp_path, make(step), keep=2)
    assert names(tmp_path) == ["000000000100", "000000003000"]
    assert latest(tmp_path) == tmp_path / "000000003000"
    save(tmp_path, make(4000), keep=1)
    assert names(tmp_path) == ["000000004000"]


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
    save(tmp_path, make(20), keep=2)
    path = save(tmp_path, make(20)._replace(state={"second": True}), keep=2)
    assert load(path).state == {"second": True}
    assert names(tmp_path) == ["000000000020"]


def test_the_one_being_replaced_is_found_at_every_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, make(20), keep=1)
    rename = os.rename

    def refuse_the_new_one(source: Path, target: Path) -> None:
        if source.name.startswith(".saving-"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse_the_new_one)
        with pytest.raises(RunError):
            save(tmp_path, make(20)._replace(state={"second": True}), keep=1)

    between = latest(tmp_path)
    assert between is not None
    assert load(between).state == make(20).state
    path = save(tmp_path, make(20)._replace(state={"third": True}), keep=1)
    assert load(path).state == {"third": True}
    assert names(tmp_path) == ["000000000020"]


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.zeros(2, [("a", "f4")]), np.array(["2020"], "M8")],
)
def test_arrays_that_npz_does_not_hold_are_refused(
    tmp_path: Path, array: np.ndarray
) -> None:
    with pytest.raises(TypeError, match="odd of dtype"):
        save(tmp_path, Checkpoint(1, {"odd": array}, {}), keep=1)
    assert latest(tmp_path) is None


def test_a_state_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save(tmp_path, Checkpoint(1, {}, {"array": np.zeros(2)}), keep=1)
    assert latest(tmp_path) is None


@pytest.mark.parametrize(("step", "keep"), [(1, 0), (-1, 1)])
def test_arguments_out_of_range(tmp_path: Path, step: int, keep: int) -> None:
    with pytest.raises(ValueError, match="Received"):
        save(tmp_path, Checkpoint(step, {}, {}), keep=keep)


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


def unreadable_state(path: Path) -> None:
    """Wrong JSON whose checksum is right."""
    state = path.with_name("state.json")
    state.write_text("{")
    manifest = json.loads(path.read_text())
    manifest["files"]["state.json"] = {
        "bytes": 1,
        "sha256": "021fb596db81e6d02bf3d2586ee3981fe519f275c0ac9ca76bbcf2ebb4097d96",
    }
    path.write_text(json.dumps(manifest))


DAMAGE = {
    "arrays missing": ("arrays.npz", Path.unlink, "arrays.npz is missing"),
    "arrays truncated": ("arrays.npz", truncate, "arrays.npz must have"),
    "arrays changed": ("arrays.npz", flip_a_bit, "its bytes were changed"),
    "state missing": ("state.json", Path.unlink, "state.json is missing"),
    "state truncated": ("state.json", truncate, "state.json must have"),
    "state changed": ("state.json", flip_a_bit, "its bytes were changed"),
    "state no json": ("manifest.json", unreadable_state, "contents cannot be read"),
    "manifest missing": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "manifest truncated": ("manifest.json", truncate, "manifest.json must be JSON"),
    "manifest empty": ("manifest.json", write_text(""), "must be JSON"),
    "manifest a list": ("manifest.json", write_text("[]"), "must be a checkpoint's"),
    "manifest no step": ("manifest.json", edit_manifest(step=None), "lacks the step"),
    "manifest no files": ("manifest.json", edit_manifest(files={}), "lacks the step"),
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


def test_another_format(tmp_path: Path) -> None:
    path = save(tmp_path, make(20), keep=2)
    edit_manifest(format=99, version="9.1")(path / "manifest.json")
    with pytest.raises(UserError) as error:
        load(path)
    message = one_line(error)
    assert "is of format 99, written by acktr_tf 9.1" in message
    assert "reads format 1" in message


def test_pickles_are_never_read(tmp_path: Path) -> None:
    path = save(tmp_path, make(20), keep=2)
    np.savez(path / "arrays.npz", evil=np.array([{}]))
    data = (path / "arrays.npz").read_bytes()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["arrays.npz"] = {
        "bytes": len(data),
        "sha256": checkpoints.hashlib.sha256(data).hexdigest(),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="allow_pickle=False"):
        load(path)


# Faults while saving -------------------------------------------------------------


class FullDisk:
    """Lets some bytes through, then answers as a full disk does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write_to_file = checkpoints._HashingFile.write

    def write(self, file: object, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.write_to_file(file, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [0, 10, 200, 500, 700])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    first = save(tmp_path, make(10), keep=1)
    disk = FullDisk(room)
    monkeypatch.setattr(
        checkpoints._HashingFile, "write", lambda f, d: disk.write(f, d)
    )
    with pytest.raises(RunError) as error:
        save(tmp_path, make(20), keep=1)
    message = one_line(error)
    assert str(tmp_path / "000000000020") in message
    assert "No space left on device" in message
    assert "Earlier checkpoints are whole" in message
    assert names(tmp_path) == [first.name]
    assert load(first).step == 10


def test_a_disk_that_fails_when_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, make(10), keep=1)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="Input/output error"):
        save(tmp_path, make(20), keep=1)
    assert names(tmp_path) == ["000000000010"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Not a directory"):
        save(tmp_path / "file" / "checkpoints", make(1), keep=1)


def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    """The kernel itself refuses the bytes after the first 100,000 of a file."""
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from acktr_tf.runs.checkpoints import Checkpoint, latest, load, save
from acktr_tf.errors import RunError
directory = Path(sys.argv[1])
save(directory, Checkpoint(1, {}, {}), 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(directory, Checkpoint(2, {"a": np.zeros(50_000), "b": np.zeros(9)}, {}), 1)
except RunError as error:
    print(error)
print(load(latest(directory)).step, len(list(directory.iterdir())))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in result.stdout
    assert result.stdout.endswith("\n1 1\n")


def test_killed_while_saving(tmp_path: Path) -> None:
    program = """
import itertools, sys
from pathlib import Path
import numpy as np
from acktr_tf.runs.checkpoints import Checkpoint, latest, load, save
directory = Path(sys.argv[1])
last = latest(directory)
saves = load(last).state["saves"] if last else 0
for step in itertools.count(saves + 1):
    arrays = {str(i): np.full(20_000, step) for i in range(8)}
    save(directory, Checkpoint(step // 2, arrays, {"saves": step}), 2)
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
        assert checkpoint.step == checkpoint.state["saves"] // 2 >= newest
        assert all(
            (a == checkpoint.state["saves"]).all() for a in checkpoint.arrays.values()
        )
        newest = checkpoint.step
        assert len([n for n in names(tmp_path) if not n.startswith(".")]) <= 3
    assert newest >= 5


# Variables -----------------------------------------------------------------------


def build(units: int = 3, dtype: str = "float32"):
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [keras.layers.Dense(4, dtype=dtype), keras.layers.Dense(units, dtype=dtype)]
    )
    model.build((None, 2))
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]


def test_variables_round_trip_in_another_process_order() -> None:
    variables, others = build(), build()  # Keras numbers the second's layers on.
    for index, variable in enumerate(variables):
        variable.assign(np.full(variable.shape, index))
    arrays = variables_to_arrays("model", variables)
    assert len(arrays) == len(variables)
    assert list(variables_to_arrays("model", others)) == list(arrays)

    assign_variables("model", others, {**arrays, "model2/0000/x": np.zeros(1)})

    for variable, other in zip(variables, others, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


def test_arrays_are_copies() -> None:
    variables = build()
    arrays = variables_to_arrays("model", variables)
    before = {name: array.copy() for name, array in arrays.items()}
    for variable in variables:
        variable.assign(variable.numpy() + 1)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda a, k: a.pop(k), "lacks {}"),
        (
            lambda a, k: a.update({"model/0099/more/kernel": np.zeros(1)}),
            "has model/0099/more/kernel, which the run does not",
        ),
        (
            lambda a, k: a.update({k: a[k][:1]}),
            "has {} as float32[1, 4] where the run has float32[2, 4]",
        ),
        (
            lambda a, k: a.update({k: a[k].astype(np.float64)}),
            "has {} as float64[2, 4] where the run has float32[2, 4]",
        ),
    ],
)
def test_arrays_that_do_not_fit(harm, expected) -> None:
    variables = build()
    arrays = variables_to_arrays("model", variables)
    first = next(iter(arrays))
    before = [variable.numpy() for variable in variables]
    arrays = {name: array + 1 for name, array in arrays.items()}
    harm(arrays, first)

    with pytest.raises(UserError) as error:
        assign_variables("model", variables, arrays)

    assert expected.format(first) in one_line(error)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_other_layers_are_counted() -> None:
    with pytest.raises(UserError, match=r"\(and \d+ more\)"):
        assign_variables("model", build(5), variables_to_arrays("model", build(3)))
