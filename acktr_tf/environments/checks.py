"""Refuses what no simulator should return, naming environment and step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from acktr_tf.environments.faults import describe
from acktr_tf.errors import RunError

LARGEST = 1e38
"""Largest number in observations, rewards and returns, in absolute value.

Networks and scales are float32, which ends at 3.4e38; a difference of two such numbers
is still finite.
"""


@contextlib.contextmanager
def simulator_faults(name: str, step: int) -> Iterator[None]:
    """Turns an exception of the simulator into a `RunError` that says where."""
    try:
        yield
    # An environment that ends the process is no end of the run.
    except (Exception, SystemExit) as error:
        raise RunError(
            f"The simulator of {name} failed at step {step} of the vector: "
            f"{describe(error)}"
        ) from error


def check_observation(
    name: str,
    step: int,
    num_envs: int,
    space: gymnasium.spaces.Box,
    observation: npt.NDArray[Any],
) -> None:
    """Raises a `RunError` unless `observation` `[B, ...]` is what `space` announced.

    `num_envs` is `B`. Bounds are not enforced (many simulators overstep their own);
    shape, type and finiteness are.
    """
    shape = (num_envs, *space.shape)
    if observation.shape != shape or observation.dtype != space.dtype:
        raise RunError(
            f"{name} returned observations of shape {list(observation.shape)} and type "
            f"{observation.dtype} at step {step}; {num_envs} of its observation space "
            f"are {list(shape)} and {space.dtype}."
        )
    if np.issubdtype(observation.dtype, np.floating):
        _check_finite(name, step, "observation", observation)


def check_step(
    name: str,
    step: int,
    num_envs: int,
    space: gymnasium.spaces.Box,
    observation: npt.NDArray[Any],
    reward: npt.NDArray[Any],
) -> None:
    """Checks an observation and that there are `B` rewards, all finite."""
    check_observation(name, step, num_envs, space, observation)
    if reward.shape != (num_envs,):
        raise RunError(
            f"{name} returned rewards of shape {list(reward.shape)} at step {step}, "
            f"for {num_envs} environments."
        )
    _check_finite(name, step, "reward", reward)


def check_returns(name: str, step: int, returns: npt.NDArray[np.floating[Any]]) -> None:
    """Checks that the rewards of the episodes under way add up to finite sums `[B]`."""
    _check_finite(name, step, "sum of rewards", returns)


def _check_finite(
    name: str, step: int, what: str, values: npt.NDArray[np.floating[Any]]
) -> None:
    if values.dtype.itemsize < 4:
        within = np.isfinite(values)
    else:
        within = np.abs(values) <= LARGEST  # False for nan.
    if within.all():
        return
    environments = sorted({int(i) for i in np.argwhere(~within)[:, 0]})
    where = f"in environment(s) {', '.join(map(str, environments[:8]))}."
    if not np.isfinite(values).all():
        raise RunError(f"{name} returned a non-finite {what} at step {step}, {where}")
    raise RunError(
        f"{name} returned {values[~within][0]:g} as {what} at step {step}, beyond "
        f"{LARGEST:g}, where float32 ends, {where}"
    )
