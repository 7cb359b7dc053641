"""Prints which files and calls control passes through in one update of an algorithm.

    python tools/update_path.py [--critic=separate ...]

Runs one update eagerly, with the flags of `acktr_tf.launch` that are given, on a small
random rollout. Listed are the calls from one file of the package into another, in order
and without repetition, and of each file its lines and those of the functions that are
entered; `acktr_tf/kfac` counts as one black box, and so do the parts that every
module uses (settings, keys, types).
"""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium.spaces import Box, Discrete

import acktr_tf
from acktr_tf.algorithms import make_learner
from acktr_tf.cli.flags import config_from
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.types import Rollout

PACKAGE = Path(acktr_tf.__file__).parent
BOXES = ("kfac", "config", "random_keys.py", "types.py")


def place(frame: FrameType | None) -> str:
    """Returns the file of the package that a frame is in; empty if in none."""
    if frame is None:
        return ""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return ""
    name = path.relative_to(PACKAGE).as_posix()
    return next((box for box in BOXES if name.startswith(box)), name)


def caller(frame: FrameType) -> str:
    """Returns the nearest file of the package that called a frame."""
    outer = frame.f_back
    while outer is not None and not place(outer):
        outer = outer.f_back
    return place(outer)


def calls_of(
    function: Any,
) -> tuple[list[tuple[str, str, str]], dict[str, set[int]]]:
    """Traces a function.

    Returns:
      (from, to, function) of each call from one file into another; and the lines of the
      functions that were entered, by file.
    """
    found: dict[tuple[str, str, str], None] = {}
    entered: dict[str, set[int]] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        here = place(frame)
        if event != "call" or not here:
            return
        lines = [line for *_, line in frame.f_code.co_lines() if line]
        entered.setdefault(here, set()).update(range(min(lines), max(lines) + 1))
        there = caller(frame)
        if there and there != here and not {there, here} & set(BOXES):
            found.setdefault((there, here, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(found), entered


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    config = config_from(
        ["--num_envs=2", "--unroll_length=4", "--network=mlp", *arguments]
    )
    policy = ActorCritic(config.policy, Box(-1, 1, (3,), np.float32), Discrete(2), 0)
    learner = make_learner(config, policy)
    random = np.random.default_rng(0)
    shape = (4, 2)
    numbers = [random.normal(size=shape).astype(np.float32) for _ in range(3)]
    rollout = Rollout(
        observation=random.normal(size=(*shape, 3)).astype(np.float32),
        action=np.zeros(shape, np.int32),
        reward=numbers[0],
        terminated=np.zeros(shape, np.bool_),
        truncated=np.zeros(shape, np.bool_),
        value=numbers[1],
        final_value=numbers[2],
        last_value=numbers[0][0],
    )
    tf.config.run_functions_eagerly(True)
    calls, entered = calls_of(lambda: learner.update(rollout, 0, measure=True))
    for there, here, function in calls:
        print(f"{there} -> {here}: {function}")
    files = sorted({here for _, here, _ in calls} | {there for there, _, _ in calls})
    lines = {name: len((PACKAGE / name).read_text().splitlines()) for name in files}
    print()
    for name, count in lines.items():
        print(f"{count:5} {len(entered[name]):5} {name}")
    inside = [c for c in calls if all(f.startswith("algorithms/") for f in c[:2])]
    on_the_way = sum(len(entered[name]) for name in files)
    print(f"{sum(lines.values()):5} {on_the_way:5} lines in {len(files)} files")
    print(f"{len(inside)} calls between files of algorithms/")


if __name__ == "__main__":
    main(sys.argv[1:])
