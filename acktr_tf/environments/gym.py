"""Any Gymnasium environment, vectorised in one process or in many."""

import contextlib
import functools
import os
import re
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from acktr_tf.config.setting import did_you_mean
from acktr_tf.environments.checks import simulator_faults
from acktr_tf.environments.faults import (
    DrawingError,
    PictureError,
    SimulatorError,
    describe,
)
from acktr_tf.environments.masks import MaskInInfo, MaskInObservation
from acktr_tf.environments.pixels import (
    INSTALLATION_HINT,
    OffscreenRendering,
    PixelObservation,
    pixel_options,
)
from acktr_tf.environments.processes import (
    DeferSignals,
    close_processes,
    ended_process,
    start_method,
)
from acktr_tf.environments.returns import FaultsInWords, with_checked_returns
from acktr_tf.environments.vector import UNSEEDED, EpisodeSeeds, VectorEnvironment
from acktr_tf.environments.wrapping import (
    find_wrappers,
    keyword_arguments,
    without_text,
)
from acktr_tf.errors import UserError
from acktr_tf.spaces.actions import in_structure
from acktr_tf.types import Array


class GymEnvironment(VectorEnvironment):
    """`num_envs` copies of a Gymnasium environment.

    Args:
      env_id: Gymnasium's id, for example `CartPole-v1`; with a module before it,
        `package.module:Name-v0`, that is imported first.
      num_envs: `B`.
      episode_seeds: Reset seed of each episode.
      vectorization: "sync" for one process, "async" for one per environment;
        environments that are drawn are always "async".
      render: Whether `render` will be called.
      env_kwargs: Arguments of the environment; see `keyword_arguments`.
      wrappers: Wrappers of each environment; see `find_wrappers`.
      pixels: Height and width of the pictures to observe; None for the environment's
        own observations.
      frame_stack: Number of observations, up to the current one, that make one.
      action_mask: Key of the action mask in a `Dict` observation, or else in `info`,
        which becomes the last part of the observation; None for none.
      reseed_steps: See `VectorEnvironment`.
      stagger: Whether a time limit sets the environments apart; see
        `VectorEnvironment`.

    Raises:
      UserError: No such environment, one that cannot be made here, or one with an
        observation or action space that is not supported, or an action mask whose
        actions cannot have one.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        episode_seeds: EpisodeSeeds,
        *,
        vectorization: str = "sync",
        render: bool = False,
        env_kwargs: str | None = None,
        wrappers: str | None = None,
        pixels: int | None = None,
        frame_stack: int = 1,
        action_mask: str | None = None,
        reseed_steps: int = 0,
        stagger: bool = False,
    ) -> None:
        vector: dict[str, Any] = {
            "autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED
        }
        if render or pixels:
            vectorization = "async"
        arguments = keyword_arguments(env_kwargs)
        wrapping: list[Any] = []
        if vectorization == "async":
            vector["context"] = start_method()
            wrapping.append(functools.partial(DeferSignals, starter=os.getpid()))
        wrapping += [*find_wrappers(wrappers), without_text, with_checked_returns]
        if action_mask:
            wrapping.append(functools.partial(MaskInInfo, name=action_mask))
        if render or pixels:
            wrapping.append(OffscreenRendering)
        if pixels:
            wrapping.append(functools.partial(PixelObservation, size=pixels))
        if frame_stack > 1:
            stack = gymnasium.wrappers.FrameStackObservation
            wrapping.append(functools.partial(stack, stack_size=frame_stack))
        if action_mask:
            wrapping.append(functools.partial(MaskInObservation, name=action_mask))
        if vectorization == "async":
            wrapping.append(FaultsInWords)
        try:
            # An environment that cannot be rendered need not know the arguments.
            options: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
            if pixels:
                options = pixel_options(env_id, pixels)
            options = {**arguments, **options}
            self._vector: Any = gymnasium.make_vec(
                env_id,
                num_envs,
                vectorization_mode=vectorization,
                vector_kwargs=vector,
                wrappers=wrapping,
                **options,
            )
        except gymnasium.error.UnregisteredEnv as error:
            raise UserError(
                f"Unknown environment `{env_id}`.{did_you_mean(env_id, _offered_ids())}"
            ) from error
        except UserError:
            raise
        # Anything can go wrong in the constructor of a user's own environment.
        except (Exception, SystemExit) as error:
            raise UserError(
                f"The environment `{env_id}` cannot be made: {describe(error)}"
            ) from error
        if vectorization == "async":
            # Python ends its processes at exit by a signal, which those put off.
            weakref.finalize(self, close_processes, self._vector)
        try:
            if render or pixels:
                self._check_drawing(env_id)
            self.left_out = self._names_left_out()
            spec: Any = self._vector.spec
            super().__init__(
                env_id,
                num_envs,
                self._vector.single_observation_space,
                self._vector.single_action_space,
                episode_seeds,
                reseed_steps,
                spec.max_episode_steps if stagger else None,
            )
        except BaseException:
            self.close()
            raise

    def _names_left_out(self) -> Sequence[str]:
        """Returns what `without_text` has left out of the observations."""
        if not self._vector.call("has_wrapper_attr", "left_out")[0]:
            return ()
        names: Sequence[str] = self._vector.get_attr("left_out")[0]
        return names

    def _check_drawing(self, env_id: str) -> None:
        """Draws once, before anything else is done.

        Raises:
          UserError: It fails; where it cannot draw, the message says what to install.
        """
        failed = f"The environment `{env_id}` cannot be"
        try:
            with warnings.catch_warnings(), self._process_faults():
                # Each process warns; the error says it all.
                warnings.simplefilter("ignore")
                self._vector.reset()
                self._vector.render()
        except PictureError as error:
            raise UserError(f"{failed} drawn: {describe(error)}.") from error
        except DrawingError as error:
            raise UserError(
                f"{failed} drawn: {describe(error)}. {INSTALLATION_HINT}"
            ) from error
        # Anything can go wrong in a user's own environment.
        except Exception as error:
            raise UserError(f"{failed} reset: {describe(error)}.") from error

    @contextlib.contextmanager
    def _process_faults(self) -> Iterator[None]:
        """Says of processes what became of them, in place of their tracebacks."""
        if not isinstance(self._vector, gymnasium.vector.AsyncVectorEnv):
            yield
            return
        level = gymnasium.logger.min_level
        gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
        try:
            yield
        except (EOFError, OSError) as error:
            raise SimulatorError(ended_process(self._vector)) from error
        finally:
            gymnasium.logger.min_level = level

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        by_environment: list[int | None] = [None] * self.num_envs
        for i, seed in zip(np.flatnonzero(mask), seeds, strict=True):
            by_environment[i] = None if seed == UNSEEDED else int(seed)
        with self._process_faults():
            observation, _ = self._vector.reset(
                seed=by_environment, options={"reset_mask": mask}
            )
        return self.observations.encode(observation)

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        with self._process_faults():
            observation, reward, terminated, truncated, _ = self._vector.step(
                in_structure(self.action_space, actions)
            )
        return self.observations.encode(observation), reward, terminated, truncated

    def render(self) -> list[Array]:
        """Returns the current picture of every environment, `[H, W, 3]` uint8 each.

        Raises:
          RunError: An environment failed, or drew something that is no picture.
        """
        with simulator_faults(self.name, self._steps), self._process_faults():
            return list(self._vector.render())

    @property
    def frames_per_second(self) -> float:
        """Pictures per second that the environment asks for; 30 if it does not."""
        rate = self._vector.metadata.get("render_fps")
        if isinstance(rate, int | float) and 0 < rate < float("inf"):
            return float(rate)
        return super().frames_per_second

    def close(self) -> None:
        """Closes the environments, and warns of those that fail to.

        Raises nothing: the reason for closing matters more than an error while closing.
        """
        try:
            if isinstance(self._vector, gymnasium.vector.AsyncVectorEnv):
                close_processes(self._vector)
            else:
                self._vector.close()
        # Anything can go wrong in a user's own environment.
        except Exception as error:
            warnings.warn(
                f"An environment failed while it was closed: {describe(error)}",
                stacklevel=2,
            )


def _offered_ids() -> list[str]:
    """Lists the registered ids, of Atari only those that are accepted here."""
    return [
        env_id
        for env_id, spec in gymnasium.registry.items()
        if not str(spec.entry_point).startswith("ale_py.")
        or re.match(r"ALE/|\w+NoFrameskip-v4", env_id)
    ]
