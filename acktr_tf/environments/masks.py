"""Action masks of an environment, as a part of what it observes.

A mask comes as a part of a `Dict` observation or in `info`. Wrappers that change
observations (pictures, stacks) must not touch it: below them it is in `info`, above
them it is a part of the observation.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from acktr_tf.spaces.masks import ActionMask, Masks
from acktr_tf.spaces.observations import OBSERVATION
from acktr_tf.types import Array


class MaskInInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Moves the mask from a `Dict` observation to `info`, if it is there.

    Args:
      env: The environment.
      name: Key of the mask.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        space = env.observation_space
        self._moves = isinstance(space, spaces.Dict) and name in space.spaces
        if isinstance(space, spaces.Dict):
            self.observation_space = spaces.Dict(
                [(key, part) for key, part in space.spaces.items() if key != name]
            )

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        return self._moved(*self.env.reset(**options))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation, info = self._moved(observation, info)
        return observation, reward, terminated, truncated, info

    def _moved(
        self, observation: Any, info: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if not self._moves:
            return observation, info
        rest = {key: part for key, part in observation.items() if key != self._name}
        return rest, {**info, self._name: observation[self._name]}


class MaskInObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the mask in `info` to the observation, as its last part.

    An observation that is no `Dict` becomes the part `observation` of one.

    Where an episode ends nobody acts: there the mask may be missing or allow nothing,
    and everything is allowed instead.

    Args:
      env: The environment.
      name: Key of the mask.

    Raises:
      UserError: The action space cannot have a mask.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        self._masks = Masks(env.action_space)
        space = env.observation_space
        self._is_dict = isinstance(space, spaces.Dict)
        parts = (
            list(space.spaces.items())
            if isinstance(space, spaces.Dict)
            else [(OBSERVATION, space)]
        )
        self.observation_space = spaces.Dict(
            [*parts, (name, ActionMask(self._masks.size))]
        )

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment.

        Raises:
          ValueError: There is no mask in `info`, or it is none that can be acted by.
        """
        observation, info = self.env.reset(**options)
        return self._masked(observation, info, ended=False)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; see `reset`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation, info = self._masked(observation, info, terminated or truncated)
        return observation, reward, terminated, truncated, info

    def _masked(
        self, observation: Any, info: Mapping[str, Any], ended: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        rest = {key: value for key, value in info.items() if key != self._name}
        parts = observation if self._is_dict else {OBSERVATION: observation}
        return {**parts, self._name: self._mask(info, ended)}, rest

    def _mask(self, info: Mapping[str, Any], ended: bool) -> Array:
        everything = np.ones(self._masks.size, np.int8)
        if self._name not in info:
            if ended:
                return everything
            raise ValueError(
                f"there is no action mask `{self._name}`: neither the observation nor "
                f"info has such a key. Received: info with {_listed(info)}"
            )
        mask = self._masks.flat(info[self._name])
        if self._masks.allow_an_action(mask):
            return mask
        if ended:
            return everything
        raise ValueError(
            f"the action mask `{self._name}` must allow at least one option of each "
            f"choice. Received: {mask.tolist()}"
        )


def _listed(info: Mapping[str, Any]) -> str:
    return ", ".join(map(str, info)) or "no keys"
