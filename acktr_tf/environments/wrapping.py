"""Arguments and wrappers of environments, as users name them; and text left out."""

import json
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium import spaces

from acktr_tf.config.setting import did_you_mean
from acktr_tf.errors import UserError
from acktr_tf.modules import import_module


def keyword_arguments(text: str | None) -> dict[str, Any]:
    """Returns the arguments of an environment's constructor.

    Args:
      text: A JSON object, `{"map_name": "8x8"}`; None for none.

    Raises:
      UserError: It is something else.
    """
    if text is None:
        return {}
    try:
        arguments = json.loads(text)
    except json.JSONDecodeError as error:
        arguments, reason = None, f" {error}."
    else:
        reason = ""
    if not isinstance(arguments, dict):
        raise UserError(
            "`env_kwargs` must be a JSON object, such as "
            f'{{"map_name": "8x8", "is_slippery": false}}. Received: {text}.{reason}'
        )
    return arguments


def find_wrappers(names: str | None) -> list[Callable[[gymnasium.Env], gymnasium.Env]]:
    """Returns the wrappers of a list of names, the first of which is the innermost.

    Args:
      names: `package.module:Class`, several separated by commas; None for none.

    Raises:
      UserError: There is no such module, or no such wrapper in it.
    """
    return [_find_wrapper(name.strip()) for name in names.split(",")] if names else []


def _find_wrapper(name: str) -> Callable[[gymnasium.Env], gymnasium.Env]:
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise UserError(
            "`wrappers` must be names of wrappers with their modules, such as "
            f"gymnasium.wrappers:FlattenObservation, separated by commas. Received: "
            f"{name!r}."
        )
    imported = import_module(module, f"--wrappers={name}")
    wrapper = getattr(imported, attribute, None)
    if not callable(wrapper):
        offered = [
            key
            for key, value in vars(imported).items()
            if isinstance(value, type) and issubclass(value, gymnasium.Wrapper)
        ]
        raise UserError(
            f"Module {module} has no wrapper `{attribute}`."
            f"{did_you_mean(attribute, offered)}"
        )
    found: Callable[[gymnasium.Env], gymnasium.Env] = wrapper
    return found


class WithoutText(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Leaves the text in a `Dict` observation out, which no network here reads.

    Args:
      env: Environment that observes a `Dict`.

    Attributes:
      left_out: Names of the parts that are left out, as `mission` or `task.words`;
        empty where nothing else would be left.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.left_out: list[str] = []
        kept = self._without(env.observation_space, "")
        if spaces.flatdim(kept) == 0:
            self.left_out = []
        self.observation_space = kept if self.left_out else env.observation_space

    def _without(self, space: Any, prefix: str) -> spaces.Dict:
        kept: dict[str, gymnasium.Space[Any]] = {}
        for key, part in space.spaces.items():
            name = f"{prefix}{key}"
            if _is_text(part):
                self.left_out.append(name)
            elif isinstance(part, spaces.Dict):
                kept[key] = self._without(part, f"{name}.")
            else:
                kept[key] = part
        return spaces.Dict(kept)

    def observation(self, observation: Any) -> Any:
        """Returns the observation without its text."""
        if not self.left_out:
            return observation
        return _kept(self.observation_space, observation)


def without_text(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wraps an environment that observes a `Dict`, and returns others as they are."""
    return WithoutText(env) if isinstance(env.observation_space, spaces.Dict) else env


def _kept(space: gymnasium.Space[Any], observation: Any) -> Any:
    if not isinstance(space, spaces.Dict):
        return observation
    return {key: _kept(part, observation[key]) for key, part in space.spaces.items()}


def _is_text(space: gymnasium.Space[Any]) -> bool:
    # `Text`, and spaces of other packages whose members are strings.
    return space.dtype is not None and space.dtype.kind == "U"
