"""Environments whose actions are masked, and which refuse what the mask forbids."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

LENGTH = 5


class Locks(gymnasium.Env[Any, Any]):
    """Opens one door of each row; some are locked, others in each step.

    The share of the rows in which it is the last door that is not locked is the reward:
    who prefers later doors always gets 1, without knowing which are locked.

    Args:
      action_space: Which doors there are.
      where: Where the mask is: "observation" for a part of it, "info", or "beside" for
        info beside an observation of several parts.
      nested: Whether it is in the structure of the action space, or flat.
      at_the_end: What there is of it when the episode ends: "mask", "nothing" for
        nothing allowed, or "missing".
    """

    def __init__(
        self,
        action_space: gymnasium.Space[Any] | None = None,
        where: str = "observation",
        nested: bool = False,
        at_the_end: str = "mask",
    ) -> None:
        self.action_space = action_space or Discrete(4, start=3)
        self._where, self._nested, self._at_the_end = where, nested, at_the_end
        self._choices = choices_of(self.action_space)
        clock = Box(0, np.inf, (2,), np.float32)
        self.observation_space: Any = clock
        if where == "observation":
            size = sum(n for n, _ in self._choices)
            self.observation_space = spaces.Dict(
                {
                    "doors": mask_space(self.action_space) if nested else bits(size),
                    "clock": clock,
                }
            )
        elif where == "beside":
            self.observation_space = spaces.Dict({"clock": clock, "kind": Discrete(3)})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self._step = 0
        return self._observe(ended=False)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        assert self.action_space.contains(action), action
        options = [
            number - start
            for number, (_, start) in zip(
                numbers_of(action), self._choices, strict=True
            )
        ]
        allowed = [
            bool(mask[option]) for mask, option in zip(self.masks, options, strict=True)
        ]
        if not all(allowed):
            raise ValueError(f"{action} is locked by {self.masks}")
        last = [np.flatnonzero(mask)[-1] for mask in self.masks]
        reward = float(np.mean(np.equal(options, last)))
        self._step += 1
        ended = self._step == LENGTH
        observation, info = self._observe(ended)
        return observation, reward, ended, False, info

    def _observe(self, ended: bool) -> tuple[Any, dict[str, Any]]:
        self.masks = [random_masks(1, n, self.np_random)[0] for n, _ in self._choices]
        if ended and self._at_the_end == "nothing":
            self.masks = [np.zeros_like(mask) for mask in self.masks]
        mask: Any = np.concatenate(self.masks)
        if self._nested:
            mask = structured(self.action_space, iter(self.masks))
        clock = np.array([self._step, 1.0], np.float32)
        if self._where == "observation":
            return {"doors": mask, "clock": clock}, {}
        info = {"doors": mask, "elapsed": self._step}
        if ended and self._at_the_end == "missing":
            del info["doors"]
        if self._where == "beside":
            return {"clock": clock, "kind": self._step % 3}, info
        return clock, info


class Board(gymnasium.Env[Any, Any]):
    """Walks on a square board to a corner, and is paid 1 there; `info` has the mask.

    A step off the board is forbidden.
    """

    size = 4
    moves = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
    observation_space = MultiDiscrete([size, size])
    action_space = Discrete(len(moves))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        # Anywhere but in the corner.
        start = self.np_random.integers(1, self.size**2)
        self._at = np.array(divmod(int(start), self.size))
        return self._at.copy(), {"legal": self._legal()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        if not self._legal()[action]:
            raise ValueError(f"{action} leads off the board from {self._at}")
        self._at = self._at + self.moves[action]
        there = not self._at.any()
        return self._at.copy(), float(there), there, False, {"legal": self._legal()}

    def _legal(self) -> npt.NDArray[np.bool_]:
        reached = self._at + self.moves
        return ((reached >= 0) & (reached < self.size)).all(axis=1)


def random_masks(
    rows: int, n: int, random: np.random.Generator
) -> npt.NDArray[np.int8]:
    """Masks `[rows, n]` of one choice, each allowing one option at least."""
    masks = (random.random((rows, n)) < 0.4).astype(np.int8)
    masks[np.arange(rows), random.integers(n, size=rows)] = 1
    return masks


def bits(n: int) -> MultiBinary:
    return MultiBinary(n)


def choices_of(space: gymnasium.Space[Any]) -> list[tuple[int, int]]:
    """(options, start) of every choice."""
    if isinstance(space, Discrete):
        return [(int(space.n), int(space.start))]
    if isinstance(space, MultiDiscrete):
        pairs = zip(space.nvec.ravel(), space.start.ravel(), strict=True)
        return [(int(n), int(start)) for n, start in pairs]
    parts = space.values() if isinstance(space, spaces.Dict) else space
    return [choice for part in parts for choice in choices_of(part)]


def numbers_of(action: Any) -> list[int]:
    """The numbers of an action in the structure of its space."""
    if isinstance(action, dict):
        action = tuple(action.values())
    if isinstance(action, tuple):
        return [number for part in action for number in numbers_of(part)]
    return [int(number) for number in np.ravel(action)]


def mask_space(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The space of masks in the structure of an action space."""
    if isinstance(space, Discrete):
        return MultiBinary(int(space.n))
    if isinstance(space, MultiDiscrete):
        return spaces.Tuple([MultiBinary(int(n)) for n in space.nvec])
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, mask_space(part)) for key, part in space.items()])
    return spaces.Tuple([mask_space(part) for part in space])


def structured(space: gymnasium.Space[Any], masks: Any) -> Any:
    """Masks of single choices in the structure of an action space."""
    if isinstance(space, Discrete):
        return next(masks)
    if isinstance(space, MultiDiscrete):
        return tuple(next(masks) for _ in space.nvec)
    if isinstance(space, spaces.Dict):
        return {key: structured(part, masks) for key, part in space.items()}
    return tuple(structured(part, masks) for part in space)


if "Locks-v0" not in gymnasium.registry:
    gymnasium.register("Locks-v0", Locks)
    gymnasium.register("Board-v0", Board)
