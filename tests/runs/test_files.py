"""Files and directories that are whole, or as they were before."""

import errno
import os
from pathlib import Path

import pytest

from acktr_tf.runs import files
from acktr_tf.runs.files import (
    AppendOnlyFile,
    DamagedFileError,
    atomic_directory,
    atomic_file,
    check_manifest,
    make_manifest,
    recover,
    write_atomically,
)


def refuse(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


# Files ------------------------------------------------------------------------------


def test_a_file_is_replaced_in_one_go(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"first")
    with path.open("rb") as reader:
        write_atomically(path, b"second")
        # Who has it open goes on reading the whole of the earlier one.
        assert reader.read() == b"first"
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_file_whole(tmp_path, monkeypatch, fault):
    path = tmp_path / "file"
    write_atomically(path, b"first")
    monkeypatch.setattr(os, fault, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"second")
    assert contents(tmp_path) == {"file": "first"}


def test_a_body_that_fails_leaves_the_earlier_file_whole(tmp_path):
    path = tmp_path / "film.gif"
    write_atomically(path, b"first")

    def write_half():
        with atomic_file(path) as saving:
            # Writers may go by the ending.
            assert saving.suffix == ".gif"
            assert files.is_temporary(saving.name)
            saving.write_text("sec")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_half()
    assert contents(tmp_path) == {"film.gif": "first"}


def test_processes_do_not_write_to_the_same_temporary_file(tmp_path, monkeypatch):
    names = []
    for number in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        with atomic_file(tmp_path / "file") as saving:
            saving.touch()
            names.append(saving.name)
    assert len(set(names)) == 2


def test_an_append_only_file_cuts_off_what_is_too_much(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    file = AppendOnlyFile(path, 8)
    file.write(b"three\n")
    assert file.length == 14
    file.sync()
    file.close()
    file.close()
    assert path.read_text() == "one\ntwo\nthree\n"


def test_a_line_that_is_written_in_part_is_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "log"
    file = AppendOnlyFile(path, 0)
    file.write(b"one\n")
    write, room = os.write, [3]

    def part(descriptor, data):
        if not room:
            refuse()
        return write(descriptor, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", part)
        with pytest.raises(OSError, match="No space left") as error:
            file.write(b"two and a half\n")
    assert error.value.filename == str(path)
    assert file.length == 4
    file.write(b"two\n")
    file.close()
    assert path.read_text() == "one\ntwo\n"


# Directories ------------------------------------------------------------------------


def fill(path: Path, text: str) -> None:
    with atomic_directory(path) as saving:
        (saving / "below").mkdir()
        (saving / "below" / "file").write_text(text)


def test_a_directory_is_replaced_with_all_that_it_holds(tmp_path):
    path = tmp_path / "directory"
    fill(path, "first")
    (path / "more").touch()
    fill(path, "second")
    assert contents(tmp_path) == {"directory/below/file": "second"}


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_directory_that_cannot_be_put_in_place(tmp_path, monkeypatch, call, earlier):
    path = tmp_path / "directory"
    if earlier:
        fill(path, "first")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space left"):
            fill(path, "second")
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == earlier


def test_a_body_that_fails_leaves_the_earlier_directory(tmp_path):
    path = tmp_path / "directory"
    fill(path, "first")

    def fill_half():
        with atomic_directory(path) as saving:
            (saving / "file").touch()
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fill_half()
    assert contents(tmp_path) == {"directory/below/file": "first"}


def test_a_killed_replacement_is_undone_or_ended(tmp_path):
    path, replaced = tmp_path / "directory", tmp_path / ".replaced-directory"
    recover(path)
    fill(path, "first")
    path.rename(replaced)
    recover(path)
    assert contents(tmp_path) == {"directory/below/file": "first"}
    path.rename(replaced)
    (tmp_path / ".saving-directory").mkdir()
    (tmp_path / ".deleting-directory").mkdir()
    fill(path, "second")
    assert contents(tmp_path) == {"directory/below/file": "second"}
    assert list(tmp_path.iterdir()) == [path]


# Manifests --------------------------------------------------------------------------


@pytest.fixture
def described(tmp_path):
    fill(tmp_path / "directory", "text")
    (tmp_path / "directory" / "other").write_text("more")
    return tmp_path / "directory", make_manifest(tmp_path / "directory")


def test_a_manifest_describes_every_file(described):
    directory, manifest = described
    digest = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert list(manifest) == ["below/file", "other"]
    assert manifest["below/file"] == {"bytes": 4, "sha256": digest}
    check_manifest(directory, manifest)
    # Files that came later are none of its business.
    (directory / "README.md").touch()
    check_manifest(directory, manifest)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Path.unlink, "file is missing"),
        (lambda path: path.write_text("tex"), "file must have 4 bytes and has 3"),
        (
            lambda path: path.write_text("test"),
            "file must have the SHA-256 982d9e3eb996",
        ),
    ],
)
def test_damage_is_named(described, harm, message):
    directory, manifest = described
    harm(directory / "below" / "file")
    with pytest.raises(DamagedFileError, match=message):
        check_manifest(directory, manifest)


@pytest.mark.parametrize("entry", [None, {}, {"bytes": 4}, ["bytes", "sha256"]])
def test_a_file_that_is_not_described_is_not_taken_for_whole(described, entry):
    directory, _ = described
    with pytest.raises(DamagedFileError, match=r"checksum of .*other are missing"):
        check_manifest(directory, {"other": entry})
