"""Simulators that misbehave: one fault that says which, what and when."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.spaces import Box, Discrete

from acktr_tf.environments import VectorEnvironment
from acktr_tf.environments.vector import Array
from acktr_tf.errors import RunError

NUM_ENVS = 3


class Misbehaving(VectorEnvironment):
    """Does at its `when`-th call what `what` says, and is well-behaved before."""

    def __init__(self, when: int, **what: Any) -> None:
        super().__init__(
            "Bad-v0",
            NUM_ENVS,
            Box(-1.0, 1.0, (2,), np.float32),
            Discrete(2),
            lambda environment, episode: 0,
        )
        self._when, self._what = when, what
        self._calls = 0

    def _answer(self) -> dict[str, Any]:
        self._calls += 1
        answer: dict[str, Any] = {
            "observation": np.zeros((NUM_ENVS, 2), np.float32),
            "reward": np.zeros(NUM_ENVS),
            "terminated": np.zeros(NUM_ENVS, np.bool_),
        }
        if self._calls == self._when:
            if "raises" in self._what:
                raise self._what["raises"]
            answer.update(self._what)
        return answer

    def _reset_some(self, mask: npt.NDArray[np.bool_], seeds: Array) -> Array:
        observation: Array = self._answer()["observation"]
        return observation

    def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        answer = self._answer()
        return (
            answer["observation"],
            answer["reward"],
            answer["terminated"],
            np.zeros(NUM_ENVS, np.bool_),
        )

    def render(self) -> list[Array]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def observations(value: float, dtype: type = np.float32) -> Array:
    array = np.zeros((NUM_ENVS, 2), dtype)
    array[1, 0] = value
    return array


def run(environments: Misbehaving) -> None:
    environments.reset()
    for _ in range(5):
        environments.step(np.zeros(NUM_ENVS, np.int64))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite(value: float) -> None:
    with pytest.raises(RunError) as error:
        run(Misbehaving(3, observation=observations(value)))
    assert str(error.value) == (
        "Bad-v0 returned a non-finite observation at step 1, in environment(s) 1."
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reward_that_is_not_finite(value: float) -> None:
    with pytest.raises(RunError) as error:
        run(Misbehaving(4, reward=np.array([value, 0.0, value])))
    message = str(error.value)
    assert "Bad-v0" in message
    assert "non-finite reward at step 2" in message
    assert message.endswith("environment(s) 0, 2.")


def test_an_observation_of_another_type() -> None:
    with pytest.raises(RunError, match=r"Bad-v0.*float64 at step 0.*float32"):
        run(Misbehaving(2, observation=observations(0.0, np.float64)))


def test_an_observation_of_another_shape() -> None:
    with pytest.raises(RunError, match=r"Bad-v0.*\[3, 3\].*at step 0.*\[3, 2\]"):
        run(Misbehaving(2, observation=np.zeros((NUM_ENVS, 3), np.float32)))


def test_another_number_of_observations() -> None:
    with pytest.raises(RunError, match=r"Bad-v0.*\[2, 2\].*at step 0.*\[3, 2\]"):
        run(Misbehaving(2, observation=np.zeros((NUM_ENVS - 1, 2), np.float32)))


def test_another_number_of_rewards() -> None:
    with pytest.raises(RunError, match=r"Bad-v0.*\[3, 1\] at step 0.*3 environments"):
        run(Misbehaving(2, reward=np.zeros((NUM_ENVS, 1))))


def test_a_bad_first_observation() -> None:
    with pytest.raises(RunError, match=r"Bad-v0.*non-finite.*at step 0"):
        run(Misbehaving(1, observation=observations(np.nan)))


def test_a_bad_observation_of_a_new_episode() -> None:
    class Ending(Misbehaving):
        def _step_all(self, actions: Array) -> tuple[Array, Array, Array, Array]:
            observation, reward, terminated, truncated = super()._step_all(actions)
            return observation, reward, ~terminated, truncated

    with pytest.raises(RunError, match=r"Bad-v0.*non-finite.*at step 1"):
        run(Ending(3, observation=observations(np.nan)))


@pytest.mark.parametrize(
    "error", [RuntimeError("the physics\nexploded"), ValueError("x"), OSError("gone")]
)
@pytest.mark.parametrize(("when", "step"), [(1, 0), (2, 0), (5, 3)])
def test_an_exception_inside_the_simulator(
    error: Exception, when: int, step: int
) -> None:
    with pytest.raises(RunError) as raised:
        run(Misbehaving(when, raises=error))
    message = str(raised.value)
    assert f"Bad-v0 failed at step {step}" in message
    assert f"{type(error).__name__}: {str(error).split()[0]}" in message
    assert "\n" not in message
    assert raised.value.__cause__ is error


def test_ctrl_c_is_not_the_simulators_fault() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Misbehaving(3, raises=KeyboardInterrupt()))


def test_well_behaved_simulators_pass() -> None:
    run(Misbehaving(0))


def test_bounds_are_not_enforced() -> None:
    run(Misbehaving(3, observation=observations(7.0)))
