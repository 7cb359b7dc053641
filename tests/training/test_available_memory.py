"""Memory that is left: of the machine, of control groups, by the process' own limit."""

import resource
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from acktr_tf.training import available_memory as module
from acktr_tf.training.available_memory import available_memory, control_groups_left


def group(directory: Path, version: int, limit: str, taken: int, files: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (directory / names[0]).write_text(f"{limit}\n")
    (directory / names[1]).write_text(f"{taken}\n")
    (directory / "memory.stat").write_text(f"anon 5\n{names[2]} {files}\npgfault 9\n")


def test_a_group_has_what_it_has_not_taken_and_what_it_can_drop(tmp_path):
    group(tmp_path / "jobs" / "mine", 2, "1000", 700, 50)
    assert list(control_groups_left(tmp_path, "0::/jobs/mine\n")) == [350]


def test_the_groups_around_it_have_limits_too(tmp_path):
    group(tmp_path / "jobs" / "mine", 2, "max", 700, 50)
    group(tmp_path / "jobs", 2, "900", 800, 0)
    group(tmp_path, 2, "5000", 100, 0)
    (tmp_path.parent / "memory.max").write_text("1")  # Not of the tree.
    found = list(control_groups_left(tmp_path, "0::/jobs/mine\n"))
    assert sorted(found) == [100, 4900]


def test_the_older_version_has_a_tree_for_memory_alone(tmp_path):
    group(tmp_path / "memory" / "mine", 1, "1000", 400, 30)
    membership = "9:cpu,cpuacct:/other\n8:cpuset,memory:/mine\n1:name=systemd:/x\n"
    assert list(control_groups_left(tmp_path, membership)) == [630]


def test_a_container_sees_its_own_group_as_the_top(tmp_path):
    group(tmp_path / "memory", 1, "1000", 400, 0)
    membership = "8:memory:/docker/0123abc\n"
    assert list(control_groups_left(tmp_path, membership)) == [600]


def test_no_groups_leave_nothing_to_say(tmp_path):
    assert list(control_groups_left(tmp_path, "0::/gone\n")) == []
    assert list(control_groups_left(tmp_path, "")) == []


@pytest.mark.parametrize(
    ("machine", "groups", "limit", "expected"),
    [
        (900, [], resource.RLIM_INFINITY, 900),
        (900, [500, 700], resource.RLIM_INFINITY, 500),
        (900, [500], 1300, 300),
        (900, [-20], resource.RLIM_INFINITY, 0),
    ],
)
def test_the_least_counts(monkeypatch, machine, groups, limit, expected):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=machine)
    )
    monkeypatch.setattr(module, "control_groups_left", lambda *_: iter(groups))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(vms=1000))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert available_memory() == expected


def test_a_system_without_control_groups_has_its_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_MEMBERSHIP", tmp_path / "absent")
    assert 0 < available_memory() <= psutil.virtual_memory().total
