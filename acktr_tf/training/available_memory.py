"""Memory that this process may still take."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# Files of the limit and of what is taken, and the entry of `memory.stat` for the pages
# of files that are dropped when memory is short: of both versions of control groups.
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def available_memory() -> int:
    """Returns how many bytes this process may still take.

    The least of what the machine has available, what the control groups of the process
    (its container, for instance) have left, and what its own limit leaves
    (`ulimit -v`).
    """
    found = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError):  # A system may have no control groups.
        found += control_groups_left(_CONTROL_GROUPS, _MEMBERSHIP.read_text("utf-8"))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        found.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(found))


def control_groups_left(root: Path, membership: str) -> Iterator[int]:
    """Yields the bytes that are left in each control group with a limit.

    Args:
      root: Where the control groups are mounted.
      membership: Contents of `/proc/self/cgroup`.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in _FILES.keys() & set(controllers.split(",")):
            top = root / controller
            group = top / path.strip("/")
            # A container may see its own group as the top, under the path outside.
            for directory in (group, *group.parents):
                if directory.is_relative_to(top):
                    yield from _left(directory, *_FILES[controller])


def _left(directory: Path, limit: str, taken: str, droppable: str) -> Iterator[int]:
    """Yields the bytes that are left in one group, if it has a limit."""
    try:
        bound = (directory / limit).read_text("utf-8").strip()
        used = int((directory / taken).read_text("utf-8"))
        entries = (directory / "memory.stat").read_text("utf-8").splitlines()
    except OSError:
        return
    if bound != "max":
        statistics = dict(entry.split() for entry in entries)
        yield int(bound) - used + int(statistics.get(droppable, 0))
