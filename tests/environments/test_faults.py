"""Faults of an environment of one's own: one line that says what, when and where."""

import copy
import inspect
import os
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from acktr_tf.config.environment import EnvironmentSettings
from acktr_tf.environments import GymEnvironment, make_vector_env
from acktr_tf.environments.faults import describe
from acktr_tf.environments.returns import check_observation
from acktr_tf.errors import RunError, UserError

NAME = "AcktrFaulty-v0"
HERE = Path(__file__).name


class TwoPartError(Exception):
    """Cannot be made of its text alone, as Gymnasium makes it in the other process."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class UnpicklableError(Exception):
    """Cannot be passed between processes at all."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def fail_bare(env: "Faulty") -> None:
    # Not by `assert`, to which pytest adds a text.
    raise AssertionError


def fail_deep(env: "Faulty") -> None:
    np.stack([np.zeros(2), np.zeros(3)])


def fail_with(error: BaseException) -> Any:
    def fail(env: "Faulty") -> None:
        raise error

    return fail


ZERO = np.zeros(2, np.float32)
GOOD = (ZERO, 1.0, False, False, {})


def step_of(**changes: Any) -> tuple[Any, ...]:
    names = ("observation", "reward", "terminated", "truncated", "info")
    return tuple({**dict(zip(names, GOOD, strict=True)), **changes}.values())


# What the second step returns → what is said of it.
WRONG_STEPS: dict[str, tuple[Any, str]] = {
    "shape": (
        step_of(observation=np.zeros(3, np.float32)),
        "observation as float32[3]; its space is float32[2]",
    ),
    "row": (
        step_of(observation=np.zeros((1, 2), np.float32)),
        "observation as float32[1, 2]; its space is float32[2]",
    ),
    "number": (step_of(observation=0.5), "observation as float64[]"),
    "nothing": (step_of(observation=None), "observation as None; its space"),
    "text": (step_of(observation="up"), "observation as 'up' (str); its space"),
    "ragged": (step_of(observation=[[1], [1, 2]]), "observation as a list of 2 values"),
    "objects": (
        step_of(observation=np.array([None, 1.0])),
        "observation as object[2]",
    ),
    "reward array": (
        step_of(reward=np.ones(1)),
        "the reward an array float64[1]; one number is expected",
    ),
    "two rewards": (step_of(reward=[1.0, 2.0]), "the reward a list of 2 values"),
    "no reward": (step_of(reward=None), "the reward None; one number"),
    "reward text": (step_of(reward="7"), "the reward '7' (str); one number"),
    "complex reward": (step_of(reward=1j), "the reward 1j (complex)"),
    "huge reward": (step_of(reward=10**400), "the reward 1000"),
    "done none": (
        step_of(terminated=None),
        "terminated as None; True or False is expected",
    ),
    "done text": (step_of(truncated="no"), "truncated as 'no' (str); True or"),
    "done array": (step_of(terminated=np.array([True])), "terminated as an array bool"),
    "done two": (step_of(terminated=2), "terminated as 2 (int)"),
    "info none": (step_of(info=None), "the info None; a dictionary is expected"),
    "info list": (step_of(info=[]), "the info [] (list); a dictionary"),
    "old": (
        (ZERO, 1.0, False, {}),
        "a tuple of 4 values; (observation, reward, terminated, truncated, info) is "
        "expected (4 values are of the old Gym interface)",
    ),
    "one": (ZERO, "an array float32[2]; (observation, reward,"),
    "none": (None, "None; (observation, reward,"),
}
WRONG_RESETS: dict[str, tuple[Any, str]] = {
    "old": (ZERO, "an array float32[2]; a pair (observation, info) is expected"),
    "none": (None, "None; a pair"),
    "three": ((ZERO, {}, 1), "a tuple of 3 values; a pair"),
    "info": ((ZERO, None), "the info None; a dictionary"),
    "shape": ((np.zeros(4), {}), "observation as float64[4]; its space is float32[2]"),
}
# What is raised → what is said of it.
RAISED: dict[str, tuple[Any, str]] = {
    "bare": (fail_bare, "AssertionError: raise AssertionError"),
    "deep": (fail_deep, "ValueError: all input arrays must have the same shape"),
    "two parts": (fail_with(TwoPartError(7, "a\nb")), "TwoPartError: 7: a b"),
    "unpicklable": (fail_with(UnpicklableError()), "UnpicklableError: locked"),
    "speechless": (fail_with(SpeechlessError()), "SpeechlessError: raise error"),
    "key": (fail_with(KeyError("arm")), "KeyError: 'arm'"),
    "exit": (fail_with(SystemExit(3)), "SystemExit: 3"),
    "descriptor": (lambda env: os.close(10**6), "OSError: .*Bad file descriptor"),
}


class Faulty(gymnasium.Env[Any, Any]):
    """Does at one moment what `fault` names, and is well-behaved else."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **faults: str) -> None:
        self.faults, self.render_mode, self.count = faults, render_mode, 0
        self.raises("make")

    def raises(self, moment: str) -> None:
        if self.faults.get("moment") == moment:
            RAISED[self.faults["raised"]][0](self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.raises("reset")
        self.count = 0
        wrong = self.faults.get("reset")
        return copy.deepcopy(WRONG_RESETS[wrong][0] if wrong else (ZERO, {}))

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 2:
            self.raises("step")
            if wrong := self.faults.get("step"):
                return copy.deepcopy(WRONG_STEPS[wrong][0])
        return copy.deepcopy(GOOD)

    def render(self) -> Any:
        self.raises("render")
        return np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def faulty() -> Iterator[Any]:
    """Registers the environment with the fault that it is given."""

    def register(**faults: str) -> None:
        gymnasium.register(NAME, Faulty, max_episode_steps=9, kwargs=faults)

    yield register
    gymnasium.registry.pop(NAME, None)


def make(num_envs: int = 2, **options: Any) -> GymEnvironment:
    return GymEnvironment(NAME, num_envs, lambda i, j: i, **options)


def play(environments: GymEnvironment) -> None:
    environments.reset()
    for _ in range(3):
        environments.step(np.zeros(environments.num_envs, np.int64))


def message(num_envs: int = 2, **options: Any) -> str:
    """What is said of an environment that fails in one of its first three steps."""
    environments = make(num_envs, **options)
    try:
        with pytest.raises(RunError) as raised:
            play(environments)
    finally:
        environments.close()
    text = str(raised.value)
    assert "\n" not in text
    return text


def line_of(raised: str) -> int:
    """Line of this file in which an error is raised."""
    function = RAISED[raised][0]
    lines, first = inspect.getsourcelines(function)
    return first + (len(lines) - 1 if len(lines) > 1 else 0)


# What is returned -------------------------------------------------------------------
@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_a_wrong_step_is_named_with_what_is_expected(faulty: Any, wrong: str) -> None:
    faulty(step=wrong)
    assert message().startswith(
        f"The simulator of {NAME} failed at step 1 of the vector: step() returned "
        f"{WRONG_STEPS[wrong][1]}"
    )


@pytest.mark.parametrize("wrong", WRONG_RESETS)
def test_a_wrong_reset_is_named_with_what_is_expected(faulty: Any, wrong: str) -> None:
    faulty(reset=wrong)
    assert message().startswith(
        f"The simulator of {NAME} failed at step 0 of the vector: reset() returned "
        f"{WRONG_RESETS[wrong][1]}"
    )


@pytest.mark.parametrize("wrong", ["row", "old"])
def test_the_same_is_said_of_another_process(faulty: Any, wrong: str) -> None:
    faulty(step=wrong)
    said = message(1, vectorization="async")
    assert said == message(1)
    assert f"step() returned {WRONG_STEPS[wrong][1]}" in said


@pytest.mark.parametrize(
    "step",
    [
        step_of(observation=[0.5, 0.25]),
        step_of(observation=np.array([0.5, 0.25])),
        step_of(observation=np.array([1, 0])),
        step_of(reward=3),
        step_of(reward=np.float32(3)),
        step_of(reward=np.array(3)),
        step_of(reward=Decimal(3)),
        step_of(reward=True),
        step_of(terminated=np.bool_(True)),
        step_of(terminated=1),
        step_of(truncated=0.0),
        [*GOOD],
    ],
)
def test_what_means_the_same_is_taken(
    faulty: Any, step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRONG_STEPS, "other", (step, ""))
    gymnasium.register(NAME, Faulty, disable_env_checker=True, kwargs={"step": "other"})
    environments = make()
    environments.reset()
    for _ in range(2):
        result = environments.step(np.zeros(2, np.int64))
    assert result.reward.tolist() == [float(step[1])] * 2
    ended = bool(step[2])
    assert result.terminated.tolist() == [ended] * 2
    if not ended:
        np.testing.assert_array_equal(result.observation[0], np.float32(step[0]))


DICT = Dict({"arm": Box(-1, 1, (3,)), "joints": Tuple([Discrete(4), Box(0, 9, (1,))])})


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"joints": (1, [2.0])}, "observation without 'arm', which its space has"),
        ([1, 2], "observation as a list of 2 values; its space is a Dict"),
        (
            {"arm": np.zeros(2), "joints": (1, [2.0])},
            "observation['arm'] as float64[2]; its space is float32[3]",
        ),
        (
            {"arm": np.zeros(3), "joints": (1,)},
            "observation['joints'] as (1,) (tuple); its space is a Tuple of 2",
        ),
        (
            {"arm": np.zeros(3), "joints": (1.5, [2.0])},
            "observation['joints'][0] as float64[]; its space is int64[]",
        ),
        ({"arm": np.zeros(3), "joints": (1, [2.0]), "more": 1}, ""),
    ],
)
def test_a_part_of_an_observation_is_named(observation: Any, said: str) -> None:
    if not said:
        check_observation("step()", DICT, observation)
        return
    with pytest.raises(Exception, match=re.escape(f"step() returned {said}")):
        check_observation("step()", DICT, observation)


# What is raised ---------------------------------------------------------------------
@pytest.mark.parametrize("raised", RAISED)
def test_an_error_is_told_with_its_type_and_place(faulty: Any, raised: str) -> None:
    faulty(moment="step", raised=raised)
    place = re.escape(f"{HERE}, line {line_of(raised)})")
    expected = rf"failed at step 1 of the vector: {RAISED[raised][1]} \(\S*{place}$"
    assert re.search(expected, message())


@pytest.mark.parametrize("raised", ["two parts", "unpicklable", "exit"])
def test_an_error_in_another_process_is_the_same(faulty: Any, raised: str) -> None:
    faulty(moment="step", raised=raised)
    said = message(1, vectorization="async")
    assert said == message(1)
    assert f"line {line_of(raised)}" in said


def test_an_error_in_a_reset_names_its_place(faulty: Any) -> None:
    faulty(moment="reset", raised="key")
    assert f"{HERE}, line {line_of('key')}" in message()


@pytest.mark.parametrize("raised", ["bare", "exit"])
def test_an_error_while_it_is_made_names_its_place(faulty: Any, raised: str) -> None:
    faulty(moment="make", raised=raised)
    with pytest.raises(UserError, match="cannot be made") as error:
        make()
    assert re.search(RAISED[raised][1], str(error.value))
    assert f"{HERE}, line {line_of(raised)}" in str(error.value)


def test_an_error_while_it_is_drawn_names_its_place(faulty: Any) -> None:
    faulty(moment="render", raised="key")
    with pytest.raises(UserError, match="cannot be drawn: KeyError: 'arm'") as error:
        make(1, render=True)
    assert f"{HERE}, line {line_of('key')}" in str(error.value)


@pytest.mark.parametrize(
    ("fail", "error"),
    [(lambda: Discrete(-1), ValueError), (lambda: re.compile("("), re.error)],
)
def test_the_place_is_not_in_a_library(fail: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        fail()
    assert len(raised.traceback) > 2  # Gymnasium, and Python's library, raise.
    line = inspect.getsourcelines(fail)[1]
    assert describe(raised.value).endswith(f"{HERE}, line {line})")


def test_a_process_that_ended_is_told_with_its_end(faulty: Any) -> None:
    faulty()
    environments = make(2, vectorization="async")
    environments.reset()
    process = environments._vector.processes[1]
    process.kill()
    process.join()
    with pytest.raises(RunError, match=r"environment 1 has ended \(killed by SIGKILL"):
        environments.step(np.zeros(2, np.int64))
    environments.close()


# Numbers that float32 does not hold -------------------------------------------------
class Large(Faulty):
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def step(self, action: Any) -> Any:
        self.count += 1
        large = self.faults["large"]
        if large == "reward":
            return np.zeros(2), 1e308 * (self.count == 2), False, False, {}
        if large == "sum":
            return np.zeros(2), -0.4e38, False, False, {}
        return np.array([0.0, 1e200 * (self.count == 2)]), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("large", "said"),
    [
        ("reward", "1e+308 as reward at step 1, beyond 1e+38"),
        ("sum", "-1.2e+38 as sum of rewards at step 2, beyond 1e+38"),
        ("observation", "1e+200 as observation at step 1, beyond 1e+38"),
    ],
)
def test_a_number_beyond_float32_is_refused_at_its_step(large: str, said: str) -> None:
    gymnasium.register(NAME, Large, disable_env_checker=True, kwargs={"large": large})
    try:
        assert f"{NAME} returned {said}" in message()
    finally:
        del gymnasium.registry[NAME]


def test_one_door_checks_too(faulty: Any) -> None:
    faulty(step="reward array")
    environments = make_vector_env(EnvironmentSettings(env=NAME, num_envs=1), 0)
    environments.reset()
    environments.step(np.zeros(1, np.int64))
    with pytest.raises(RunError, match="one number is expected"):
        environments.step(np.zeros(1, np.int64))
