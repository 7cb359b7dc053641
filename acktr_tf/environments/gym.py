"""Any Gymnasium environment, vectorised in one process or in many."""

import re
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from acktr_tf.config import closest
from acktr_tf.environments.base import (
    UNSEEDED,
    Array,
    EpisodeSeeds,
    VectorEnvironment,
)
from acktr_tf.errors import UserError


class GymEnvironment(VectorEnvironment):
    """`num_envs` copies of a Gymnasium environment.

    Args:
      env_id: Gymnasium's id, for example `CartPole-v1`; with a module before it,
        `package.module:Name-v0`, that is imported first.
      num_envs: `B`.
      episode_seeds: The reset seed of each episode.
      render_mode: Gymnasium's render mode, or None.
      vectorization: "sync" for one process, "async" for one an environment.
      reseed_steps: See `VectorEnvironment`.

    Raises:
      UserError: No such environment, one that cannot be made here, or one with an
        observation or action space that is not supported.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        episode_seeds: EpisodeSeeds,
        render_mode: str | None = None,
        *,
        vectorization: str = "sync",
        reseed_steps: int = 0,
    ) -> None:
        # An environment that cannot be rendered need not know the argument.
        rendering: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}
        try:
            self._vector: Any = gymnasium.make_vec(
                env_id,
                num_envs,
                vectorization_mode=vectorization,
                vector_kwargs={
                    "autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED
                },
                **rendering,
            )
        except gymnasium.error.UnregisteredEnv as error:
            raise UserError(
                f"Unknown environment `{env_id}`.{closest(env_id, _offered_ids())}"
            ) from error
        # Anything can go wrong in the constructor of a user's own environment.
        except Exception as error:
            raise UserError(
                f"The environment `{env_id}` cannot be made: "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        try:
            super().__init__(
                env_id,
                num_envs,
                self._vector.single_observation_space,
                self._vector.single_action_space,
                episode_seeds,
                reseed_steps,
            )
        except UserError:
            self._vector.close()
            raise

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        by_environment: list[int | None] = [None] * self.num_envs
        for i, seed in zip(np.flatnonzero(mask), seeds, strict=True):
            by_environment[i] = None if seed == UNSEEDED else int(seed)
        observation, _ = self._vector.reset(
            seed=by_environment, options={"reset_mask": mask}
        )
        return self.observations.encode(observation)

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        observation, reward, terminated, truncated, _ = self._vector.step(actions)
        return self.observations.encode(observation), reward, terminated, truncated

    def render(self) -> list[Array]:
        """The current picture of every environment, `[H, W, 3]` uint8 each."""
        return list(self._vector.render())

    def close(self) -> None:
        """Closes the environments."""
        self._vector.close()


def _offered_ids() -> list[str]:
    """The registered ids, of Atari's many only those that are accepted here."""
    return [
        env_id
        for env_id, spec in gymnasium.registry.items()
        if not str(spec.entry_point).startswith("ale_py.")
        or re.match(r"ALE/|\w+NoFrameskip-v4", env_id)
    ]
