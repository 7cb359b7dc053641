"""Checks of what a single environment returns, where its own code returns it.

Gymnasium's wrappers and vectors take the answers of an environment apart, and fail in
their own code where an answer is not what it should be.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from acktr_tf.environments.faults import SimulatorError, describe, shown

_GYMNASIUMS_OWN = (
    gymnasium.wrappers.PassiveEnvChecker,
    gymnasium.wrappers.OrderEnforcing,
    gymnasium.wrappers.TimeLimit,
)
_ARRAYS = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


class CheckedReturns(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Refuses answers of an environment that are not of Gymnasium's form.

    Args:
      env: The environment.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment.

        Raises:
          SimulatorError: It did not return an observation of its space and a
            dictionary.
        """
        answer: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise SimulatorError(
                f"reset() returned {shown(answer)}; a pair (observation, info) is "
                "expected"
            )
        observation, info = answer
        check_observation("reset()", self.env.observation_space, observation)
        _check_info("reset()", info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment.

        Raises:
          SimulatorError: It did not return an observation of its space, a number, two
            truth values and a dictionary.
        """
        answer: Any = self.env.step(action)
        if not isinstance(answer, tuple | list) or len(answer) != 5:
            old = isinstance(answer, tuple | list) and len(answer) == 4
            raise SimulatorError(
                f"step() returned {shown(answer)}; (observation, reward, terminated, "
                "truncated, info) is expected"
                + (" (4 values are of the old Gym interface)" if old else "")
            )
        observation, reward, terminated, truncated, info = answer
        check_observation("step()", self.env.observation_space, observation)
        if not isinstance(reward, float) and not _is_number(reward):
            raise SimulatorError(
                f"step() returned the reward {shown(reward)}; one number is expected"
            )
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if type(flag) not in (bool, np.bool_) and not _is_truth(flag):
                raise SimulatorError(
                    f"step() returned {name} as {shown(flag)}; True or False is "
                    "expected"
                )
        _check_info("step()", info)
        return observation, reward, terminated, truncated, info


class FaultsInWords(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says what an environment raises in words that pass from process to process.

    Between processes an error loses its place, and some errors cannot be passed at all.

    Args:
      env: The environment.
    """

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        with _in_words():
            return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        with _in_words():
            return self.env.step(action)

    def render(self) -> Any:
        """Draws the environment."""
        with _in_words():
            return self.env.render()


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Turns whatever is raised into a `SimulatorError` that says what and where."""
    try:
        yield
    except SimulatorError:
        raise
    except (Exception, SystemExit) as error:
        raise SimulatorError(describe(error)) from error


def with_checked_returns(
    env: gymnasium.Env[Any, Any],
) -> gymnasium.Env[Any, Any]:
    """Puts `CheckedReturns` below the wrappers that `gymnasium.make` adds.

    Args:
      env: An environment that `gymnasium.make` made.

    Returns:
      The same environment, with one wrapper more.
    """
    lowest, wrapper = None, env
    while isinstance(wrapper, gymnasium.Wrapper):
        if isinstance(wrapper, _GYMNASIUMS_OWN):
            lowest = wrapper
        wrapper = wrapper.env
    if lowest is None:
        return CheckedReturns(env)
    lowest.env = CheckedReturns(lowest.env)
    return env


def check_observation(
    call: str, space: gymnasium.Space[Any], observation: Any, name: str = "observation"
) -> None:
    """Raises a `SimulatorError` unless an observation is of the form of its space.

    Bounds are not enforced, and numbers may be of another type that converts by its
    kind, such as float64 for float32. Kinds of spaces that are not supported pass.

    Args:
      call: Method that returned it, for the message.
      space: The space that was announced.
      observation: What was returned.
      name: Name of the observation, or of the part of it, for the message.
    """
    if isinstance(space, _ARRAYS):
        if (
            type(observation) is np.ndarray
            and observation.shape == space.shape
            and observation.dtype == space.dtype
        ):
            return
        _check_array(call, space, observation, name)
    elif isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping):
            raise SimulatorError(
                f"{call} returned {name} as {shown(observation)}; its space is a Dict"
            )
        for key, part in space.spaces.items():
            if key not in observation:
                raise SimulatorError(
                    f"{call} returned {name} without {key!r}, which its space has"
                )
            check_observation(call, part, observation[key], f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, tuple | list) or len(observation) != len(
            space.spaces
        ):
            raise SimulatorError(
                f"{call} returned {name} as {shown(observation)}; its space is a "
                f"Tuple of {len(space.spaces)}"
            )
        for index, part in enumerate(space.spaces):
            check_observation(call, part, observation[index], f"{name}[{index}]")


def _check_array(
    call: str, space: gymnasium.Space[Any], observation: Any, name: str
) -> None:
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    try:
        array = np.asarray(observation)
        fits = array.shape == shape and np.can_cast(array.dtype, dtype, "same_kind")
        received = f"{array.dtype}{list(array.shape)}"
    except (ValueError, TypeError):
        # Rows of different lengths.
        fits, received = False, shown(observation)
    if not fits:
        if observation is None or isinstance(observation, str):
            received = shown(observation)
        raise SimulatorError(
            f"{call} returned {name} as {received}; its space is {dtype}{list(shape)}"
        )


def _check_info(call: str, info: Any) -> None:
    if type(info) is not dict and not isinstance(info, Mapping):
        raise SimulatorError(
            f"{call} returned the info {shown(info)}; a dictionary is expected"
        )


def _is_number(value: Any) -> bool:
    """Returns whether a value is one number, of whatever type."""
    if isinstance(value, str | bytes) or np.iscomplexobj(value):
        return False
    try:
        float(value)
        return np.shape(value) == ()
    except (TypeError, ValueError, OverflowError):
        return False


def _is_truth(value: Any) -> bool:
    """Returns whether a value is a truth value, or a number that stands for one."""
    try:
        return np.shape(value) == () and bool(value in (0, 1))
    except (TypeError, ValueError):
        return False
