"""Action masks: which options of each choice an environment allows now."""

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from acktr_tf.errors import UserError
from acktr_tf.spaces.actions import joint_choices
from acktr_tf.types import Array

MASKED_SPACES = "Discrete, MultiDiscrete, or a Tuple or Dict of those"


class ActionMask(spaces.MultiBinary):
    """Space of the masks of an action space, as a part of an observation.

    A mask is a vector of 0 and 1, one number per option, the options of the first
    choice first. It decides which actions a policy takes; networks are not given it.

    Args:
      n: Options of all choices together.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)

    def __repr__(self) -> str:
        return f"ActionMask({self.n})"


class Masks:
    """Masks of one action space, in every form that Gymnasium takes them.

    Args:
      space: The action space.

    Attributes:
      sizes: Options of each choice, in the order of the space.
      size: Options of all choices together, the length of a flat mask.

    Raises:
      UserError: The space has no choices that a mask could restrict.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        if isinstance(space, spaces.Discrete):
            self.sizes = [int(space.n)]
        else:
            choices = (
                space
                if isinstance(space, spaces.MultiDiscrete)
                else joint_choices(space)
            )
            if choices is None:
                raise UserError(
                    "The action space cannot have a mask. Received: "
                    f"{' '.join(str(space).split())}. Accepted: {MASKED_SPACES}. Leave "
                    "out --action_mask."
                )
            self.sizes = np.ravel(choices.nvec).tolist()
        self.size = sum(self.sizes)
        self._space = space
        self._ends = np.cumsum(self.sizes)
        self._starts = np.cumsum([0, *self.sizes[:-1]])

    def flat(self, mask: Any) -> Array:
        """Returns a mask as one vector, one number per option.

        Args:
          mask: Zeros and ones: one vector for all choices; or, as Gymnasium's
            `space.sample(mask)` takes it, one vector per choice, in tuples, lists and
            dictionaries like those of the space.

        Returns:
          `[size]` int8.

        Raises:
          ValueError: It has another shape or other values; the message says which.
        """
        vectors = list(_vectors(self._space, mask))
        lengths = [len(vector) for vector in vectors]
        # One vector, or one per choice.
        parted = set(np.cumsum(lengths)) <= set(self._ends)
        if sum(lengths) != self.size or not parted:
            per_choice = f", or one vector per choice, of {self.sizes}"
            raise ValueError(
                f"an action mask must have {self.size} numbers"
                f"{per_choice if len(self.sizes) > 1 else ''}. Received: "
                f"{lengths[0] if len(lengths) == 1 else lengths} numbers"
            )
        flat = np.concatenate(vectors)
        wrong = (flat != 0) & (flat != 1)
        if wrong.any():
            raise ValueError(
                f"an action mask must be of 0 and 1. Received: {flat[wrong][0]}"
            )
        return flat.astype(np.int8)

    def allow_an_action(self, flat: Array) -> bool:
        """Returns whether a flat mask allows an option of every choice."""
        return bool(np.maximum.reduceat(flat, self._starts).all())


def _vectors(space: gymnasium.Space[Any], mask: Any) -> Iterator[Array]:
    """Yields the vectors that a mask consists of, in the order of the space."""
    if isinstance(mask, Mapping):
        if not isinstance(space, spaces.Dict) or set(mask) != set(space.spaces):
            raise ValueError(
                "an action mask must have the keys of the action space. Received: "
                f"{', '.join(map(str, mask))}"
            )
        for key, child in space.spaces.items():
            yield from _vectors(child, mask[key])
    elif _has_parts(mask):
        children = space.spaces if isinstance(space, spaces.Tuple) else ()
        alike = len(children) == len(mask)
        for i, part in enumerate(mask):
            yield from _vectors(children[i] if alike else space, part)
    else:
        yield np.ravel(np.asarray(mask))


def _has_parts(mask: Any) -> bool:
    """Returns whether a mask is a sequence of more than numbers."""
    if isinstance(mask, np.ndarray):
        return mask.dtype.hasobject
    return isinstance(mask, tuple | list) and not all(map(np.isscalar, mask))
