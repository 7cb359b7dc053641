"""Memory of a run, stated and refused before it is taken.

The estimate is of what a large space or a large rollout makes large: K-FAC's state and
what an update of it takes for a time, the weights' gradients and steps, the copy of the
state that a checkpoint is written from, the rollout and its batch. Activations are left
out: they are small where observations are vectors, and else bounded by the batch.
"""

import bisect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from acktr_tf.algorithms import kfac_networks
from acktr_tf.algorithms.optimizers import kfac_memory
from acktr_tf.config import Config
from acktr_tf.errors import UserError
from acktr_tf.policies.actor_critic import ActorCritic
from acktr_tf.training.available_memory import available_memory

LARGE = 2**30
"""Bytes from which a run says at its start what it takes."""

NAMED_PARTS = 3
GRADIENTS_AND_STEPS = 4
"""Tensors of the weights' size in an update: gradient, natural gradient, step, mean."""


class RunMemory(NamedTuple):
    """Memory that a run takes beside its weights and what was loaded before.

    Attributes:
      parts: What → bytes.
      diagonals: `<layer> <factor>` → dimension of each Kronecker factor of which only
        the diagonal is kept because of a `max_factor_dim`.
      dims: Dimensions of the Kronecker factors that are matrices.
    """

    parts: dict[str, int]
    diagonals: dict[str, int]
    dims: list[int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def described(self) -> str:
        """The total, and the largest parts."""
        largest = sorted(self.parts, key=lambda part: -self.parts[part])[:NAMED_PARTS]
        parts = ", ".join(f"{part} {_size(self.parts[part])}" for part in largest)
        return f"about {_size(self.total)} (most of it for {parts})"


def check_memory(config: Config, policy: ActorCritic) -> list[str]:
    """Refuses a run that takes more memory than is available.

    On a GPU nothing is refused: the memory of the device is not looked at.

    Args:
      config: Settings of the run.
      policy: Policy to train, for which no optimizer has been made yet.

    Returns:
      Lines that say what is worth knowing: the memory of a run that takes much, and
      the factors that are kept as diagonals.

    Raises:
      UserError: The run takes more; the message says which settings would fit.
    """
    needed, available = estimate_memory(config, policy), available_memory()
    if needed.total > available and not tf.config.list_physical_devices("GPU"):
        raise UserError(
            f"The run takes {needed.described} of memory, and {_size(available)} are "
            f"available. {_remedy(config, policy, available)}"
        )
    lines = []
    if needed.diagonals:
        names = ", ".join(f"{name} ({dim})" for name, dim in needed.diagonals.items())
        lines.append(
            f"K-FAC: only the diagonal is kept of {names}, wider than max_factor_dim."
        )
    if needed.total > LARGE:
        lines.append(f"Memory: {needed.described}")
    return lines


def estimate_memory(config: Config, policy: ActorCritic) -> RunMemory:
    """Estimates the memory of a run.

    Args:
      config: Settings of the run.
      policy: Policy to train.
    """
    networks = kfac_networks(config, policy)
    found = [kfac_memory(each.settings, each.network) for each in networks]
    weights = 4 * policy.network.count_params()
    parts = {
        f"K-FAC of {name}": size
        for memory in found
        for name, size in memory.blocks.items()
    }
    state = weights + sum(memory.state for memory in found)
    workspace = max((memory.workspace for memory in found), default=0)
    # A checkpoint is written between two updates, from a copy of the state.
    if state > workspace:
        parts["writing a checkpoint"] = state
    else:
        parts["updating K-FAC"] = workspace
    parts["gradients and steps"] = GRADIENTS_AND_STEPS * weights
    parts["the rollout and its batch"] = _rollout_bytes(config, policy)
    return RunMemory(
        parts,
        {name: dim for memory in found for name, dim in memory.diagonals.items()},
        sorted({dim for memory in found for dim in memory.dims}),
    )


def _rollout_bytes(config: Config, policy: ActorCritic) -> int:
    """Returns the bytes of a rollout, of its batch, and of the networks' inputs."""
    space = policy.observations.encoded_space
    size, dtype = math.prod(space.shape), np.dtype(space.dtype)
    action = policy.action_distribution.spec
    stored = size * dtype.itemsize + action.shape.num_elements() * action.dtype.size
    converted = dtype != np.float32 or config.policy.normalize_observations
    return config.batch_size * (2 * stored + converted * 4 * size)


# What would fit ---------------------------------------------------------------------
def _remedy(config: Config, policy: ActorCritic, available: int) -> str:
    """Returns what to do: the change of fewest settings with which the run fits."""
    for change in _changes(config, policy, available):
        needed = estimate_memory(config.replace(**change), policy).total
        if needed <= available:
            flags = " ".join(f"--{name}={value}" for name, value in change.items())
            return f"With {flags} it takes {_size(needed)}."
    return (
        "No max_factor_dim, unroll_length or num_envs makes it fit: choose a smaller "
        "network or observation, or a machine with more memory."
    )


def _changes(
    config: Config, policy: ActorCritic, available: int
) -> Iterator[Mapping[str, Any]]:
    """Yields changes of the settings that take less memory, the smallest first."""
    networks = kfac_networks(config, policy)
    limits = [
        {
            f"{each.prefix}max_factor_dim": dim
            for each in networks
            if each.settings.max_factor_dim is None
            or each.settings.max_factor_dim > dim
        }
        for dim in reversed(estimate_memory(config, policy).dims[:-1])
    ]
    yield from limits
    values = config.to_dict()
    for change in [{}, *limits[-1:]]:
        for name in ("unroll_length", "num_envs"):

            def needed(value: int, name: str = name, change: Any = change) -> int:
                changed = config.replace(**{**change, name: value})
                return estimate_memory(changed, policy).total

            smaller = range(1, values[name])
            largest = bisect.bisect_right(smaller, available, key=needed)
            if largest:
                yield {**change, name: largest}


def _size(size: int) -> str:
    """Returns a number of bytes in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
