import pytest

from acktr_tf.errors import UserError
from acktr_tf.runs.locks import exclusive_lock, is_locked


def test_two_cannot_hold_a_directory(tmp_path):
    directory = tmp_path / "a" / "b"
    with exclusive_lock(directory, "It is mine."):
        assert is_locked(directory)
        with pytest.raises(UserError, match=r"^Wait for it\.$"):
            exclusive_lock(directory, "Wait for it.").__enter__()
    assert not is_locked(directory)
    assert not is_locked(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file must be a directory that can be written"):
        exclusive_lock(tmp_path / "file", "").__enter__()
